"""Reads the answers out of a human loop's output object.

Source: Amazon Augmented AI developer guide, "Amazon A2I Output Data".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.forms import form, free_name, named_pairs, plain
from model_delivery_engine.review.inferences import Source
from model_delivery_engine.review.labels import label_of
from model_delivery_engine.review.selection import LABEL

_SEPARATOR = "\x1f"
# After it stands the key that was read: the field is that key itself, not the value beside it.
_KEY = "\x1e"


@dataclass(frozen=True)
class ItemAnswer:
    """All that one reviewer said of one item.

    :param fields: label by field; None where there is no label to be found in the answer
    :param seconds: time spent on it, where it is known
    """

    item: str
    reviewer: str
    fields: Mapping[str, str] | None
    seconds: float | None = None


def unit(item: str, field: str) -> str:
    """Return what is decided by itself: a field of an item; the item, where it has one label."""
    return f"{item}{_SEPARATOR}{field}" if field else item


def field_of(unit_id: str) -> tuple[str, str]:
    """Return item and field of a unit."""
    item, _, field = unit_id.partition(_SEPARATOR)
    return item, field


def key_field(name: str, key: str) -> str:
    """Return the field that is the key of another: what the key is, where reviewers changed it."""
    return f"{name}{_KEY}{key}"


def keyed(field: str) -> tuple[str, str] | None:
    """Return of a field that is a key the name of its value's field and the key as it was read."""
    name, mark, key = field.partition(_KEY)
    return (name, key) if mark else None


def unsaid(field: str) -> str:
    """Return what an answer says of a field that it does not name.

    A value is not there; a key is as it was read.
    """
    return field.partition(_KEY)[2]


def answers(item: str, output: Mapping[str, Any], source: Source) -> Iterator[ItemAnswer]:
    """Yield each reviewer's answer to an item.

    :param output: a loop's ``output.json``
    :raises ReviewError: a form that cannot be read
    """
    read = _read(output) if source is Source.TEXTRACT else _Read({}, frozenset())
    for given in output["humanAnswers"]:
        content, seconds = given["answerContent"], given.get("timeSpentInSeconds")
        fields: Mapping[str, str] | None
        if source is Source.TEXTRACT:
            fields = _form_fields(content, read)
        else:
            label = label_of(content)
            fields = None if label is None else {LABEL: label}
        yield ItemAnswer(item, str(given["workerId"]), fields, seconds)


def fields_by_item(given: Iterable[ItemAnswer]) -> dict[str, list[str]]:
    """Return the fields of each item that somebody named; of one without any, the item itself."""
    found: dict[str, dict[str, None]] = {}
    for answer in given:
        if answer.fields is not None:
            found.setdefault(answer.item, {}).update(dict.fromkeys(answer.fields))
    return {item: list(names) or [LABEL] for item, names in found.items()}


def field_answers(answer: ItemAnswer, fields: Mapping[str, Iterable[str]]) -> Iterator[Answer]:
    """Yield what a reviewer said of each field of an item, of those too that only others named."""
    if answer.fields is not None:
        for field in fields[answer.item]:
            label = answer.fields.get(field, unsaid(field))
            yield Answer(unit(answer.item, field), answer.reviewer, label, answer.seconds)


@dataclass(frozen=True)
class _Read:
    """What was read of a form.

    :param keys: field and key of each pair, by the id of the key's block
    :param shown: ids of those that reviewers were shown
    """

    keys: Mapping[str, tuple[str, str]]
    shown: frozenset[str]


def _read(output: Mapping[str, Any]) -> _Read:
    content = output.get("inputContent")
    content = content if isinstance(content, Mapping) else {}
    whole, selected = (
        form(b"", response).pairs if isinstance(response, Mapping) else ()
        for response in map(content.get, ("aiServiceResponse", "selectedAiServiceResponse"))
    )
    keys = {pair.key_id: (name, pair.key) for name, pair in named_pairs(whole).items()}
    return _Read(keys, frozenset(pair.key_id for pair in selected) & keys.keys())


def _form_fields(content: Any, read: _Read) -> dict[str, str]:
    """Return the texts of a form: the built-in element's blocks, or an element for each key.

    A pair is known by its block, whatever its reviewer calls it; one they added, by its key. One
    that they removed has no text.
    """
    if not isinstance(content, Mapping):
        return {}
    built_in = content.get(str(Source.TEXTRACT))
    if not isinstance(built_in, Mapping):
        return {str(key): value.strip() for key, value in content.items() if isinstance(value, str)}
    pairs = form(b"", built_in).pairs
    fields = {read.keys[each][0]: "" for each in read.shown}
    for pair in pairs:
        if pair.key_id in read.keys:
            name, key = read.keys[pair.key_id]
            fields[name] = pair.value
            if plain(pair.key) != plain(key):
                fields[key_field(name, key)] = pair.key
    for pair in pairs:
        if pair.key_id not in read.keys and (pair.key or pair.value):
            fields[free_name(pair.key, fields)] = pair.value
    return fields
