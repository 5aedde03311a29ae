"""Why an item is here: the activation conditions that were true, in words.

The record is Augmented AI's `humanTaskActivationConditionResults`: each node of the conditions with
its `EvaluationResult`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

RESULTS = "humanTaskActivationConditionResults"
MOST = 12
_MISSING = "MissingImportantFormKey"
_LONGEST = 200
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def reasons_of(content: Any) -> list[str]:
    """Return a sentence for each condition that was true, at most 12."""
    return list(dict.fromkeys(map(_sentence, _all_true(content))))[:MOST]


def missing_keys(content: Any) -> list[str]:
    """Return the keys of a form that conditions found missing: reviewers are asked for these."""
    keys = [
        parameters.get("ImportantFormKey")
        for node in _all_true(content)
        for parameters in [node.get("ConditionParameters")]
        if node["ConditionType"] == _MISSING and isinstance(parameters, Mapping)
    ]
    # An asterisk asks for any key at all.
    return list(dict.fromkeys(each for each in keys if isinstance(each, str) and each != "*"))


def _all_true(content: Any) -> Iterator[Mapping[str, Any]]:
    record = content.get(RESULTS) if isinstance(content, Mapping) else None
    conditions = record.get("Conditions") if isinstance(record, Mapping) else None
    for condition in conditions if isinstance(conditions, list) else []:
        yield from _true(condition)


def _true(node: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(node, Mapping) or node.get("EvaluationResult") is not True:
        return
    children = node.get("And") or node.get("Or")
    if isinstance(children, list):
        for child in children:
            yield from _true(child)
    elif isinstance(node.get("ConditionType"), str):
        yield node


def _sentence(node: Mapping[str, Any]) -> str:
    parameters = node.get("ConditionParameters")
    said = [
        f"{_spaced(name)} {_shown(value)}"
        for name, value in (parameters.items() if isinstance(parameters, Mapping) else ())
    ]
    sentence = _spaced(str(node["ConditionType"])).capitalize()
    return f"{sentence}: {', '.join(said)}"[:_LONGEST] if said else sentence[:_LONGEST]


def _spaced(name: str) -> str:
    return _WORDS.sub(" ", name).lower()


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
