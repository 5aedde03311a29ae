"""A portal with work in it: digits to classify, texts, forms, a moderation queue, a template."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from stack.credentials import load_or_create
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET, object_store
from stack.ports import free_ports
from tests.contract.review_world import LABELS, TEMPLATE, Flow, make_flow
from tests.local_cloud import Cloud, Store

TEXT_TEMPLATE = """
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
<crowd-form>
  <crowd-classifier name="mood" header="How does the writer feel about it?"
      categories="['Positive', 'Neutral', 'Negative']">
    <classification-target>{{ task.input.text }}</classification-target>
    <short-instructions header="How to decide">Judge the whole text.</short-instructions>
  </crowd-classifier>
</crowd-form>
"""
FORM_TEMPLATE = """
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
{% capture s3_uri %}http://s3.amazonaws.com/{{ task.input.aiServiceRequest.document.s3Object.bucket }}/{{ task.input.aiServiceRequest.document.s3Object.name }}{% endcapture %}
<crowd-form>
  <crowd-textract-analyze-document src="{{ s3_uri | grant_read_access }}"
      initial-value="{{ task.input.selectedAiServiceResponse.blocks }}"
      header="Correct what does not match the document"
      no-key-edit="" no-geometry-edit="" block-types="['KEY_VALUE_SET']">
    <short-instructions header="Instructions">Type what the paper says, spelling mistakes included.</short-instructions>
  </crowd-textract-analyze-document>
</crowd-form>
"""  # noqa: E501
MODERATION_TEMPLATE = """
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
{% capture s3_uri %}s3://{{ task.input.aiServiceRequest.image.s3Object.bucket }}/{{ task.input.aiServiceRequest.image.s3Object.name }}{% endcapture %}
<crowd-form>
  <crowd-rekognition-detect-moderation-labels
      categories='[{% for label in task.input.selectedAiServiceResponse.moderationLabels %}{ name: "{{ label.name }}", parentName: "{{ label.parentName }}" },{% endfor %}]'
      src="{{ s3_uri | grant_read_access }}" header="Which of these does the image show?">
    <short-instructions header="Instructions">Choose all that apply.</short-instructions>
  </crowd-rekognition-detect-moderation-labels>
</crowd-form>
"""  # noqa: E501
# Each element that the samples of Augmented AI use, in one template.
ELEMENTS_TEMPLATE = """
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
<style>h1 { color: #17305e; }</style>
<h1>{{ task.input.title }}</h1>
<crowd-form answer-format="flatten-objects">
  <crowd-instructions link-text="View instructions" link-type="button">
    <short-summary>Say what the picture shows.</short-summary>
    <detailed-instructions>Draw the boxes, then fill in the rest.</detailed-instructions>
    <positive-example>A box that touches the cow on all sides.</positive-example>
    <negative-example>A box around two cows.</negative-example>
  </crowd-instructions>
  <crowd-tabs>
    <crowd-tab header="Boxes">
      <crowd-bounding-box name="annotatedResult" src="{{ task.input.image | grant_read_access }}"
          labels="{{ task.input.labels | to_json | escape }}" header="Draw a box around each cow">
        <short-instructions>Tight boxes, please.</short-instructions>
      </crowd-bounding-box>
    </crowd-tab>
    <crowd-tab header="Questions">
      <crowd-image src="{{ task.input.image | grant_read_access }}" alt="The meadow"></crowd-image>
      <crowd-classifier name="weather" categories="['sun', 'rain']" header="The weather?">
        <classification-target>{{ task.input.caption }}</classification-target>
      </crowd-classifier>
      <crowd-classifier-multi-select name="animals" categories='["cow", "dog", "bird"]'
          header="Which animals?"></crowd-classifier-multi-select>
      <crowd-input name="place" label="Where is it?" required></crowd-input>
      <crowd-text-area name="remarks" label="Remarks">{{ task.input.caption }}</crowd-text-area>
      <crowd-radio-group label="Is it sharp?">
        <crowd-radio-button name="sharpness" value="sharp">Sharp</crowd-radio-button>
        <crowd-radio-button name="sharpness" value="blurred">Blurred</crowd-radio-button>
      </crowd-radio-group>
      <crowd-checkbox name="night" value="yes">It was taken at night</crowd-checkbox>
    </crowd-tab>
  </crowd-tabs>
  <crowd-button form-action="submit" variant="primary">Submit</crowd-button>
</crowd-form>
"""
TEXTS = [
    ("The hinge broke in the second week. Support answered within the hour and sent a new one, so "
     "in the end I am happier than I expected to be.", "Positive", 0.44),
    ("It does what it says. Nothing more.", "Negative", 0.51),
    ("I have never regretted a purchase this much.", "Negative", 0.97),
]  # fmt: skip
TEXTRACT = "AWS/Textract/AnalyzeDocument/Forms/V1"
REKOGNITION = "AWS/Rekognition/DetectModerationLabels/Image/V3"
FIELDS = [
    ("Name", "Ana Carolina Silva", 99.1),
    ("Date of birth", "1O/04/1985", 58.3),
    ("Street", "12 Harbour Road", 91.0),
    ("Town", "Bristo1", 66.9),
    ("Telephone", "0117 496 0123", 97.2),
]


@dataclass
class Portal:
    """A running localcloud with its worker, and its queues by what they are about."""

    cloud: Cloud
    flows: dict[str, Flow]

    def flow(self, about: str) -> Flow:
        """Return the queue `digits`, `texts`, `forms` or `moderation`."""
        return self.flows[about]


@contextmanager
def running_cloud(home: Path, **settings: str) -> Iterator[Cloud]:
    """Start an object store, localcloud and a worker; stop them when the block ends."""
    with ExitStack() as stack:
        port, store_port = free_ports(2)
        store = Store(store_port, load_or_create(home / "secrets.json"))
        stack.enter_context(object_store(home, store.credentials, store_port))
        local = LocalCloud(home / "localcloud", store.credentials, port, store_port)
        local.env.update(settings)
        local.prepare()
        stack.enter_context(local.api())
        stack.enter_context(local.worker("--concurrency", "1"))
        yield Cloud(local, store)


@contextmanager
def running_portal(home: Path, **settings: str) -> Iterator[Portal]:
    """Start a cloud with work in each kind of queue."""
    with running_cloud(home, **settings) as cloud:
        yield Portal(cloud, {
            "digits": digits(cloud), "texts": texts(cloud), "forms": forms(cloud),
            "moderation": moderation(cloud), "elements": elements(cloud),
        })  # fmt: skip


def put_image(cloud: Cloud, key: str, image: Image.Image) -> str:
    """Store an image as PNG and return its URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=buffer.getvalue())
    return f"s3://{BUCKET}/{key}"


def digits(cloud: Cloud, count: int = 40, **config: Any) -> Flow:
    """Real digits, with a model's answers of which the least certain are wrong."""
    flow = make_flow(cloud, TEMPLATE, config={
        "TaskTitle": "Read the digit", "TaskDescription": "Digits that the model is unsure of.",
        "TaskCount": 2, **config,
    })  # fmt: skip
    found = load_digits()
    for number in range(count):
        pixels = 255 - (found.images[number] * 255 / 16).astype(np.uint8)
        uri = put_image(cloud, f"digits/{number}.png", Image.fromarray(pixels))
        label = int(found.target[number])
        guess = (label + 4) % 10 if number % 8 == 0 else label
        confidence = round(0.32 + 0.016 * number, 3)
        known = {"knownAnswer": str(label)} if number % 10 == 5 else {}
        flow.start(
            f"digit-{number:03d}", taskObject=uri, initialValue=str(guess), confidence=confidence,
            labels=LABELS, humanTaskActivationConditionResults=_because(confidence), **known,
        )  # fmt: skip
    return flow


def texts(cloud: Cloud) -> Flow:
    """Short texts and what a model made of them."""
    flow = make_flow(cloud, TEXT_TEMPLATE, config={
        "TaskTitle": "Judge the mood", "TaskDescription": "Reviews of a folding bicycle."
    })  # fmt: skip
    for number, (text, label, confidence) in enumerate(TEXTS):
        flow.start(f"text-{number}", text=text, initialValue=label, confidence=confidence)
    return flow


def forms(cloud: Cloud) -> Flow:
    """Start a queue of pages with five fields, two misread, as Textract lays its blocks out."""
    source = {"AwsManagedHumanLoopRequestSource": TEXTRACT}
    flow = make_flow(cloud, FORM_TEMPLATE, HumanLoopRequestSource=source, config={
        "TaskTitle": "Correct the form", "TaskDescription": "Registration forms."
    })  # fmt: skip
    page, blocks = form_page()
    for number in range(2):
        uri = put_image(cloud, f"forms/{number}.png", page)
        key = uri.removeprefix(f"s3://{BUCKET}/")
        content = {
            "aiServiceRequest": {"document": {"s3Object": {"bucket": BUCKET, "name": key}}},
            "aiServiceResponse": {"blocks": blocks},
            "selectedAiServiceResponse": {"blocks": blocks},
            "humanTaskActivationConditionResults": {"Conditions": [{
                "EvaluationResult": True, "ConditionType": "ImportantFormKeyConfidenceCheck",
                "ConditionParameters": {
                    "ImportantFormKey": "Date of birth", "KeyValueBlockConfidenceLessThan": 80
                },
            }]},
        }  # fmt: skip
        flow.runtime.start_human_loop(
            HumanLoopName=f"form-{number}", FlowDefinitionArn=flow.arn,
            HumanLoopInput={"InputContent": json.dumps(content)},
        )  # fmt: skip
    return flow


def form_without_pairs(cloud: Cloud) -> Flow:
    """Start a queue with a page on which a key was not found."""
    source = {"AwsManagedHumanLoopRequestSource": TEXTRACT}
    flow = make_flow(cloud, FORM_TEMPLATE, HumanLoopRequestSource=source)
    uri = put_image(cloud, "forms/missing.png", form_page()[0])
    key = uri.removeprefix(f"s3://{BUCKET}/")
    content = {
        "aiServiceRequest": {"document": {"s3Object": {"bucket": BUCKET, "name": key}}},
        "aiServiceResponse": {"blocks": form_page()[1]},
        "selectedAiServiceResponse": {"blocks": []},
        "humanTaskActivationConditionResults": {"Conditions": [{
            "EvaluationResult": True, "ConditionType": "MissingImportantFormKey",
            "ConditionParameters": {"ImportantFormKey": "Mail address"},
        }]},
    }  # fmt: skip
    flow.runtime.start_human_loop(
        HumanLoopName="missing-1", FlowDefinitionArn=flow.arn,
        HumanLoopInput={"InputContent": json.dumps(content)},
    )  # fmt: skip
    return flow


def moderation(cloud: Cloud) -> Flow:
    """Start a queue with an image and labels of Rekognition's, one of which is wrong."""
    source = {"AwsManagedHumanLoopRequestSource": REKOGNITION}
    flow = make_flow(cloud, MODERATION_TEMPLATE, HumanLoopRequestSource=source, config={
        "TaskTitle": "Moderate the image", "TaskDescription": "Uploads that a model has flagged."
    })  # fmt: skip
    image = Image.new("RGB", (900, 600), "#2c5a7d")
    ImageDraw.Draw(image).ellipse((300, 150, 600, 450), fill="#e8b04a")
    put_image(cloud, "uploads/sun.png", image)
    labels = [
        {"name": "Alcohol", "parentName": "Drugs", "confidence": 71.5},
        {"name": "Gambling", "parentName": "", "confidence": 62.0},
    ]
    content = {
        "aiServiceRequest": {"image": {"s3Object": {"bucket": BUCKET, "name": "uploads/sun.png"}}},
        "aiServiceResponse": {"moderationLabels": labels},
        "selectedAiServiceResponse": {"moderationLabels": labels},
    }
    flow.runtime.start_human_loop(
        HumanLoopName="upload-1", FlowDefinitionArn=flow.arn,
        HumanLoopInput={"InputContent": json.dumps(content)},
    )  # fmt: skip
    return flow


def elements(cloud: Cloud, **content: Any) -> Flow:
    """Start a queue with one item, whose template has every element."""
    flow = make_flow(cloud, ELEMENTS_TEMPLATE, config={
        "TaskTitle": "Mark the cows", "TaskDescription": "A template with every element."
    })  # fmt: skip
    meadow = Image.new("RGB", (640, 400), "#8cc07a")
    draw = ImageDraw.Draw(meadow)
    draw.rectangle((0, 0, 640, 150), fill="#9fd0f0")
    draw.ellipse((380, 210, 540, 300), fill="#5b4636")
    draw.ellipse((100, 240, 220, 310), fill="#f2efe9")
    uri = put_image(cloud, "meadow.png", meadow)
    flow.start(
        image=uri, labels=["cow", "calf"], title="The meadow", **{"caption": "Two cows", **content}
    )
    return flow


def form_page() -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw the page and return it with its blocks."""
    width, height = 1240, 1000
    page = Image.new("RGB", (width, height), "#fdfcf7")
    draw = ImageDraw.Draw(page)
    title, hand = ImageFont.load_default(44), ImageFont.load_default(34)
    draw.text((90, 70), "Registration", fill="#222", font=title)
    blocks: list[dict[str, Any]] = []
    for row, (key, value, confidence) in enumerate(FIELDS):
        top = 190 + row * 140
        draw.text((90, top), f"{key}:", fill="#555", font=ImageFont.load_default(28))
        draw.text((420, top - 4), value.replace("1O", "10").replace("o1", "ol"), fill="#17305e",
                  font=hand)  # fmt: skip
        draw.line((410, top + 44, 1150, top + 44), fill="#bbb", width=2)
        for kind, text, left, wide in (("KEY", key, 84, 290), ("VALUE", value, 412, 700)):
            blocks.append({
                "id": f"{kind.lower()}-{row}", "blockType": "KEY_VALUE_SET", "entityTypes": [kind],
                "confidence": confidence,
                "geometry": {"boundingBox": {
                    "left": left / width, "top": (top - 12) / height, "width": wide / width,
                    "height": 60 / height,
                }},
                "relationships": [
                    {"type": "CHILD", "ids": [f"word-{kind}-{row}"]},
                    *([{"type": "VALUE", "ids": [f"value-{row}"]}] if kind == "KEY" else []),
                ],
            })  # fmt: skip
            blocks.append({"id": f"word-{kind}-{row}", "blockType": "WORD", "text": text,
                           "confidence": confidence})  # fmt: skip
    return page, blocks


def _because(confidence: float) -> dict[str, Any]:
    return {
        "Conditions": [
            {
                "EvaluationResult": confidence < 0.6,
                "ConditionType": "ConfidenceCheck",
                "ConditionParameters": {"ConfidenceLessThan": 0.6},
            },
            {
                "EvaluationResult": True,
                "ConditionType": "Sampling",
                "ConditionParameters": {"RandomSamplingPercentage": 5},
            },
        ]
    }
