"""Worker task templates that come with the provider: names that change with their content."""

import hashlib
from dataclasses import dataclass

_DIGITS = 8


@dataclass(frozen=True)
class TaskTemplate:
    """A template of Liquid and `crowd-*` elements.

    :param title: what its name begins with
    """

    title: str
    content: str

    @property
    def name(self) -> str:
        """A name for the human task UI: another content has another."""
        return f"{self.title}-{hashlib.sha256(self.content.encode()).hexdigest()[:_DIGITS]}"


CLASSIFY_IMAGE = TaskTemplate(
    "classify-image",
    """\
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
<crowd-form>
  <crowd-classifier name="digit" header="What does the picture show?"
      categories="{{ task.input.labels | to_json | escape }}">
    <classification-target>
      <img src="{{ task.input.taskObject | grant_read_access }}" alt="what is to be classified">
    </classification-target>
    <full-instructions header="How to review">
      <p>The model's answer is chosen already. Choose another where it is wrong.</p>
    </full-instructions>
    <short-instructions>Choose what the picture shows.</short-instructions>
  </crowd-classifier>
</crowd-form>
""",
)

CORRECT_FORM = TaskTemplate(
    "correct-form",
    """\
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
<crowd-form>
  <crowd-textract-analyze-document name="AWS/Textract/AnalyzeDocument/Forms/V1"
      src="{{ task.input.taskObject | grant_read_access }}"
      initial-value="{{ task.input.selectedAiServiceResponse.blocks | to_json | escape }}"
      header="Check what was read from the form" no-key-edit no-geometry-edit>
    <short-instructions header="Instructions">
      <p>Correct each value to what stands in the form.</p>
    </short-instructions>
    <full-instructions header="Instructions"></full-instructions>
  </crowd-textract-analyze-document>
</crowd-form>
""",
)
