"""Reads the answers out of a human loop's output object.

Source: Amazon Augmented AI developer guide, "Amazon A2I Output Data".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.forms import form
from model_delivery_engine.review.inferences import Source, member
from model_delivery_engine.review.selection import LABEL

_SEPARATOR = "\x1f"


def unit(item: str, field: str) -> str:
    """Return what is decided by itself: a field of an item; the item, where it has one label."""
    return f"{item}{_SEPARATOR}{field}" if field else item


def field_of(unit_id: str) -> tuple[str, str]:
    """Return item and field of a unit."""
    item, _, field = unit_id.partition(_SEPARATOR)
    return item, field


def answers(item: str, output: Mapping[str, Any], source: Source) -> Iterator[Answer]:
    """Yield each reviewer's answer to each field of an item.

    :param output: a loop's ``output.json``
    :raises ReviewError: an answer in which there is no label, or no field
    """
    for given in output["humanAnswers"]:
        reviewer = str(given["workerId"])
        seconds = given.get("timeSpentInSeconds")
        fields = _fields(given["answerContent"], source)
        # A form in which nothing was found has nothing to confirm; a label is always expected.
        if not fields and source is not Source.TEXTRACT:
            raise ReviewError(
                f"human loop {output.get('humanLoopName')}: the answer of {reviewer} "
                f"({str(given['answerContent'])[:200]}) holds no label: the template must have an "
                "element that answers one"
            )
        for field, label in fields.items():
            yield Answer(unit(item, field), reviewer, label, seconds)


def _fields(content: Any, source: Source) -> dict[str, str]:
    if source is Source.TEXTRACT:
        return _form_fields(content)
    label = label_of(content)
    return {} if label is None else {LABEL: label}


def _form_fields(content: Any) -> dict[str, str]:
    """Return the texts of a form: the built-in element's blocks, or an element for each key."""
    if not isinstance(content, Mapping):
        return {}
    built_in = content.get(str(Source.TEXTRACT))
    if isinstance(built_in, Mapping):
        return {pair.key: pair.value for pair in form(b"", built_in).pairs}
    return {str(key): value.strip() for key, value in content.items() if isinstance(value, str)}


def label_of(content: Any) -> str | None:
    """Return the one label of an answer's content, or None.

    A crowd element answers ``{"label": …}`` or ``{"labels": […]}`` under its own name.
    """
    if isinstance(content, Mapping):
        return _label_in(content)
    if isinstance(content, list):
        names = [member(each, "name") if isinstance(each, Mapping) else each for each in content]
        return ", ".join(sorted(map(str, names)))
    if isinstance(content, bool | int | float | str):
        return str(content).strip() or None
    return None


def _label_in(content: Mapping[str, Any]) -> str | None:
    for name in ("label", "labels", "moderationLabels"):
        if name in content:
            return label_of(content[name])
    found = {label_of(each) for each in content.values() if each not in (None, "")} - {None}
    return found.pop() if len(found) == 1 else None
