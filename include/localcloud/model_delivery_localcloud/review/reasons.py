"""Why an item is here: the activation conditions that were true, in words.

The record is Augmented AI's `humanTaskActivationConditionResults`: each node of the conditions with
its `EvaluationResult`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

RESULTS = "humanTaskActivationConditionResults"
MOST = 12
_LONGEST = 200
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def reasons_of(content: Any) -> list[str]:
    """Return a sentence for each condition that was true, at most 12."""
    record = content.get(RESULTS) if isinstance(content, Mapping) else None
    conditions = record.get("Conditions") if isinstance(record, Mapping) else None
    found: list[str] = []
    for condition in conditions if isinstance(conditions, list) else []:
        found += _true(condition)
    return list(dict.fromkeys(found))[:MOST]


def _true(node: Any) -> Iterator[str]:
    if not isinstance(node, Mapping) or node.get("EvaluationResult") is not True:
        return
    children = node.get("And") or node.get("Or")
    if isinstance(children, list):
        for child in children:
            yield from _true(child)
    elif isinstance(node.get("ConditionType"), str):
        yield _sentence(node)


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
