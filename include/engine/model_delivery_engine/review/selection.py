"""Which results people should look at, and what they are shown of each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.conditions import Conditions, Evaluation
from model_delivery_engine.review.forms import Form, form, named_pairs
from model_delivery_engine.review.inferences import (
    Classification,
    Moderation,
    Source,
    classification,
    moderation,
)
from model_delivery_engine.review.labels import label_of
from model_delivery_engine.review.selected_response import in_loops, selected_response

# The field of an answer that is one label; a form's answers have a field for each key.
LABEL = ""
Inference = Classification | Moderation | Form


@dataclass(frozen=True)
class ResultsLayout:
    """How a line of results is read.

    :param source: what the model is, which decides on the form of its output
    :param score_output: of a classifier: the output with one score a class
    :param labels: of a classifier: names of the classes (default: their places, from 0)
    :param id_field: field of the record that tells records apart
    :param hidden_fields: fields that reviewers are not shown: the label, where the data has one
    :param task_object_field: field with the URI of what is reviewed (an image), or its text
    """

    source: Source = Source.CLASSIFIER
    score_output: str = ""
    labels: Sequence[str] | None = None
    id_field: str = "id"
    hidden_fields: Sequence[str] = ()
    task_object_field: str | None = None


@dataclass(frozen=True)
class Item:
    """One result.

    :param place: of the record among all, from 0
    :param identity: of the record
    :param selected: the part of the model's output that reviewers are asked about
    :param model_answer: by field: what the model says; of an image, of that part
    :param whole: whether that part is all of it
    :param confidence: of the model, 0 to 100
    """

    place: int
    identity: str
    record: Mapping[str, Any]
    selected: Mapping[str, Any]
    model_answer: Mapping[str, str]
    whole: bool
    confidence: float
    evaluation: Evaluation


@dataclass
class SelectionCounts:
    """What was looked at.

    :param results: lines with an answer
    :param errors: lines without one: nothing to review, the error budget is about those
    :param picked: that some condition other than random sampling picked
    :param sampled: that only random sampling picked
    """

    results: int = 0
    errors: int = 0
    picked: int = 0
    sampled: int = 0

    @property
    def unreviewed(self) -> int:
        """How many nobody will look at."""
        return self.results - self.picked - self.sampled


@dataclass
class Selection:
    """Evaluates the conditions over results, counting as it goes."""

    layout: ResultsLayout
    conditions: Conditions
    counts: SelectionCounts = field(default_factory=SelectionCounts)

    def items(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
        """Yield the items to review, in order.

        :raises ReviewError: a record that cannot be read, or whose identity came before
        """
        seen: set[str] = set()
        for place, record in enumerate(records):
            if record["output"] is None:
                self.counts.errors += 1
                continue
            self.counts.results += 1
            identity = identity_of(record, self.layout.id_field)
            inference = self._inference(identity.encode(), record["output"])
            evaluation = self.conditions.evaluate(inference)
            if not evaluation.activated:
                continue
            if identity in seen:
                raise ReviewError(
                    f"two records have {self.layout.id_field} {identity!r}: reviews could "
                    "not be told apart; name a field that differs"
                )
            seen.add(identity)
            if evaluation.sampled_only:
                self.counts.sampled += 1
            else:
                self.counts.picked += 1
            yield self._item(place, record, inference, evaluation)

    def _item(
        self, place: int, record: Mapping[str, Any], inference: Inference, evaluation: Evaluation
    ) -> Item:
        output, shown = record["output"], inference
        selected = output
        if not isinstance(inference, Classification):
            selected = selected_response(self.conditions, evaluation, inference, output)
            shown = self._inference(inference.identity, selected)
        return Item(
            place, inference.identity.decode(), record, selected,
            # An image has one answer, that on the labels shown; a form has one for each field.
            model_answer(inference if isinstance(inference, Form) else shown),
            _parts(shown) == _parts(inference), confidence(inference), evaluation,
        )  # fmt: skip

    def _inference(self, identity: bytes, output: Mapping[str, Any]) -> Inference:
        layout = self.layout
        if layout.source is Source.REKOGNITION:
            return moderation(identity, output)
        if layout.source is Source.TEXTRACT:
            return form(identity, output)
        if layout.score_output not in output:
            raise ReviewError(
                f"the model has no output {layout.score_output!r}; its outputs are "
                f"{', '.join(sorted(output))}"
            )
        return classification(identity, output[layout.score_output], layout.labels)

    def content(self, item: Item) -> bytes:
        """Return a loop's InputContent: what reviewers see, and why they see it."""
        layout, source = self.layout, item.record["input"]
        shown = {name: value for name, value in source.items() if name not in layout.hidden_fields}
        content: dict[str, Any] = {
            "item": item.identity,
            "input": shown,
            "initialValue": shown_answer(item.model_answer),
            "confidence": round(item.confidence / 100.0, 6),
            "humanTaskActivationConditionResults": self.conditions.record(item.evaluation),
        }
        if layout.task_object_field is not None:
            content["taskObject"] = task_object(item, layout.task_object_field)
        if layout.labels is not None:
            content["labels"] = list(layout.labels)
        elif layout.source is Source.CLASSIFIER:  # labels without names are their places
            scores = item.record["output"][layout.score_output]
            content["labels"] = [str(place) for place in range(len(scores))]
        if layout.source is not Source.CLASSIFIER:
            content["aiServiceResponse"] = in_loops(item.record["output"])
            content["selectedAiServiceResponse"] = in_loops(item.selected)
        return orjson.dumps(content)


def identity_of(record: Mapping[str, Any], id_field: str) -> str:
    """Return what tells a record from others.

    :raises ReviewError: the record lacks the field
    """
    fields = record["input"]
    if id_field not in fields:
        raise ReviewError(
            f"record {str(dict(fields))[:200]} has no field {id_field!r}: reviews are joined to "
            "records by it; add one to the input or name another"
        )
    return str(fields[id_field])


def model_answer(inference: Inference) -> dict[str, str]:
    """Return what the model says, by field."""
    if isinstance(inference, Form):
        return {name: pair.value for name, pair in named_pairs(inference.pairs).items()}
    if isinstance(inference, Moderation):
        return {LABEL: label_of([label.name for label in inference.labels]) or ""}
    # As of reviewers' answers: white space at its ends makes no label another.
    return {LABEL: label_of(inference.label) or ""}


def _parts(inference: Inference) -> int:
    if isinstance(inference, Form):
        return len(inference.pairs)
    return len(inference.labels) if isinstance(inference, Moderation) else 1


def confidence(inference: Inference) -> float:
    """Return the model's confidence in what it is least sure of, 0 to 100."""
    if isinstance(inference, Form):
        sure = [min((pair.confidence, *pair.word_confidences)) for pair in inference.pairs]
        return min(sure, default=0.0)
    if isinstance(inference, Moderation):
        return min((label.confidence for label in inference.labels), default=100.0)
    return inference.confidence


def shown_answer(answer: Mapping[str, str]) -> Any:
    """Return an answer as a template takes it: a label, or a text for each field."""
    return answer[LABEL] if set(answer) == {LABEL} else dict(answer)


def task_object(item: Item, name: str) -> Any:
    """Return what is reviewed.

    :raises ReviewError: the record lacks the field
    """
    fields = item.record["input"]
    if name not in fields:
        raise ReviewError(
            f"record {item.identity} has no field {name!r} with what is to be reviewed"
        )
    return fields[name]
