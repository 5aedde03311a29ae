"""The one label of an answer's content, for whoever asks: the portal, its figures, the operator.

Source of the layouts: "Crowd HTML Elements Reference" of the SageMaker developer guide.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from model_delivery_engine.review.inferences import member

_BETWEEN = ", "
_OF_CLASSIFIERS = ("label", "labels", "moderationLabels")


def label_of(content: Any) -> str | None:
    """Return the label that an answer's content holds; None where there is none, or several.

    A classifier answers ``{"label": …}`` or ``{"labels": […]}`` under its own name; with one there,
    what else the template asks (a comment, a box) is no label. Without one, radio buttons and check
    boxes (``{"<value>": true, …}`` under their names) say it: those that are ticked. Without any of
    these it is the text, where there is but one and nothing else.

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
        return _only(map(label_of, chosen))
    ticks = [each for each in parts if each and all(isinstance(on, bool) for on in each.values())]
    if ticks:
        return _ticked(ticks)
    if any(isinstance(each, Mapping | list) for each in content.values()):
        return None
    return _only(map(label_of, content.values()))


def _of_list(content: list[Any]) -> str | None:
    names = [member(each, "name") if isinstance(each, Mapping) else each for each in content]
    known = sorted(str(each) for each in names if isinstance(each, str | int | float))
    if content and not known:
        return None
    return _together(known, certain=not any(_BETWEEN in each for each in known))


def _ticked(groups: list[Mapping[str, bool]]) -> str | None:
    # Radio buttons may share a name or have one each; a check box beside a group is no part of it.
    several = [each for each in groups if len(each) > 1]
    if len(several) > 1:
        return None
    states = several or groups
    chosen = sorted({name for each in states for name, on in each.items() if on})
    certain = len(chosen) < 2 or not any(_BETWEEN in name for each in states for name in each)
    return _together(chosen, certain=certain)


def _together(names: list[str], *, certain: bool) -> str:
    return _BETWEEN.join(names) if certain else json.dumps(names, ensure_ascii=False)


def _only(labels: Iterable[str | None]) -> str | None:
    found = set(labels) - {None}
    return found.pop() if len(found) == 1 else None
