"""The one label of an answer's content, for whoever asks: the portal, its figures, the operator.

Source of the layouts: "Crowd HTML Elements Reference" of the SageMaker developer guide.
"""

import json
from collections.abc import Mapping
from typing import Any

from model_delivery_engine.review.inferences import member

_BETWEEN = ", "
_NO_VALUE = "on"  # what browsers and AWS's elements say of a box that has no value
_OF_CLASSIFIERS = ("label", "labels", "moderationLabels")


def label_of(content: Any) -> str | None:
    """Return the label that an answer's content holds; None where there is none, or several.

    A classifier answers ``{"label": …}`` or ``{"labels": […]}`` under its own name; with one there,
    what else the template asks (a comment, a box) is no label, and of two neither is. Without one,
    radio buttons and check boxes (``{"<value>": true, …}`` under their names) say it: those that
    are ticked, by their values, else by their names, else by both. Without any of these it is the
    text, where the template has one field alone.

    Several labels are one text, in order, after commas; as JSON, where a comma may be of a label
    itself. None chosen of many is the label ``""``.
    """
    if isinstance(content, Mapping):
        return _of_elements(content)
    if isinstance(content, list):
        return _of_list(content)
    if isinstance(content, bool):
        return json.dumps(content)
    if isinstance(content, int | float | str):
        return str(content).strip() or None
    return None


def _of_elements(content: Mapping[str, Any]) -> str | None:
    for name in _OF_CLASSIFIERS:
        if name in content:
            return label_of(content[name])
    parts = [each for each in content.values() if isinstance(each, Mapping)]
    chosen = [each for each in parts if any(name in each for name in _OF_CLASSIFIERS)]
    if chosen:
        return label_of(chosen[0]) if len(chosen) == 1 else None
    ticks = {
        name: each
        for name, each in content.items()
        if isinstance(each, Mapping) and each and all(isinstance(on, bool) for on in each.values())
    }
    if ticks:
        return _ticked(ticks)
    values = list(content.values())
    if len(values) != 1 or isinstance(values[0], Mapping | list):
        return None
    return label_of(values[0])


def _of_list(content: list[Any]) -> str | None:
    names = [member(each, "name") if isinstance(each, Mapping) else each for each in content]
    known = sorted(str(each) for each in names if isinstance(each, str | int | float))
    if content and not known:
        return None
    return _together(known, certain=not any(_BETWEEN in each for each in known))


def _ticked(groups: Mapping[str, Mapping[str, bool]]) -> str | None:
    # Radio buttons may share a name or have one each; a check box beside a group is no part of it.
    several = [each for each in groups.values() if len(each) > 1]
    if len(several) > 1:
        return None
    states = several[0] if several else _of_boxes(groups)
    if states is None:
        return None
    chosen = sorted(name for name, on in states.items() if on)
    certain = len(chosen) < 2 or not any(_BETWEEN in name for name in states)
    return _together(chosen, certain=certain)


def _of_boxes(groups: Mapping[str, Mapping[str, bool]]) -> dict[str, bool] | None:
    """Return boxes of one state each by what tells them apart; None where nothing does.

    That is the state; where they all have the same, as ``on`` of boxes without a value, the name.
    """
    boxes = [(name, *state) for name, each in groups.items() for state in each.items()]
    for tell in (_state_or_name, _name_and_state):
        told = {tell(name, state): on for name, state, on in boxes}
        if len(told) == len(boxes):
            return told
    return None


def _state_or_name(name: str, state: str) -> str:
    return name if state == _NO_VALUE else state


def _name_and_state(name: str, state: str) -> str:
    return f"{name}: {state}"


def _together(names: list[str], *, certain: bool) -> str:
    return _BETWEEN.join(names) if certain else json.dumps(names, ensure_ascii=False)
