"""The `crowd-*` elements that we have, what their attributes say, and how templates write lists.

Source: "Crowd HTML Elements Reference" of the SageMaker developer guide. An attribute that is not
here would be read over, and reviewers asked something else than was meant: it is refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any

from model_delivery_localcloud import strict_json

FORM = "crowd-form"
CATEGORIES = "categories"
EXCLUSION = "exclusion-category"
OVERLAY = "overlay"
_CHOICE = frozenset({"alt", CATEGORIES, "disabled", "header", "initial-value", "name", "src"})
_TEXT = frozenset(
    {
        "allowed-pattern", "auto-focus", "auto-validate", "disabled", "error-message", "label",
        "max-length", "min-length", "name", "placeholder", "readonly", "required", "value",
    }
)  # fmt: skip
_TICK = frozenset({"checked", "disabled", "name", "required", "value"})
_ICON = frozenset({"icon", "icon-align", "icon-url"})
_HEADED = frozenset({"header"})
_NONE: frozenset[str] = frozenset()
CLASSIFIERS: Mapping[str, frozenset[str]] = {
    "crowd-classifier": _CHOICE,
    "crowd-classifier-multi-select": _CHOICE | {EXCLUSION},
    "crowd-image-classifier": _CHOICE | {OVERLAY},
    "crowd-image-classifier-multi-select": _CHOICE | {EXCLUSION},
}
BUILT_IN: Mapping[str, frozenset[str]] = {
    "crowd-rekognition-detect-moderation-labels": frozenset({CATEGORIES, "header", "name", "src"}),
    "crowd-textract-analyze-document": frozenset(
        {
            "block-types", "header", "initial-value", "keys", "name", "no-geometry-edit",
            "no-key-edit", "src",
        }
    ),
}  # fmt: skip
TASKS = CLASSIFIERS.keys() | BUILT_IN.keys()
ATTRIBUTES: Mapping[str, frozenset[str]] = {
    **CLASSIFIERS,
    **BUILT_IN,
    FORM: frozenset({"answer-format"}),
    "crowd-bounding-box": frozenset(
        {"disabled", "header", "initial-value", "labels", "name", "src"}
    ),
    "crowd-button": frozenset(
        {"disabled", "form-action", "href", "loading", "target", "variant", *_ICON}
    ),
    "crowd-checkbox": _TICK,
    "crowd-image": frozenset({"alt", "src"}),
    "crowd-input": _TEXT | {"max", "min", "type"},
    "crowd-instructions": frozenset({"link-text", "link-type"}),
    "crowd-radio-button": _TICK,
    "crowd-radio-group": frozenset({"disabled", "label", "name", "required"}),
    "crowd-tab": _HEADED,
    "crowd-tabs": _NONE,
    "crowd-text-area": _TEXT | {"char-counter", "max-rows", "rows"},
    "classification-target": _NONE,
    "detailed-instructions": _NONE,
    "full-instructions": _HEADED,
    "negative-example": _NONE,
    "positive-example": _NONE,
    "short-instructions": _HEADED,
    "short-summary": _NONE,
}
# What any element of HTML has, and scripts and styles go by.
_OF_ANY = frozenset(
    {
        "accesskey", "class", "contenteditable", "dir", "draggable", "hidden", "id", "inert",
        "lang", "part", "role", "slot", "spellcheck", "style", "tabindex", "title", "translate",
    }
)  # fmt: skip
_PREFIXES = ("aria-", "data-", "on")
# What the portal's own page shows or does of a classifier, or what changes nothing of it.
_OWN_PAGE = frozenset(
    {"alt", CATEGORIES, "class", EXCLUSION, "header", "id", "lang", "name", "src"}
)
_BOXES = "boundingBox"
_TOKEN = re.compile(
    r"""("(?:[^"\\]|\\.)*")|'((?:[^'\\]|\\.)*)'|([A-Za-z_$][\w$]*)(?=\s*:)|,(?=\s*[\]}])"""
)
_ESCAPES = {"\\'": "'", '"': '\\"'}


def unknown_attributes(tag: str, names: set[str]) -> list[str]:
    """Return the attributes that one of our elements does not have, sorted."""
    known = ATTRIBUTES[tag] | _OF_ANY
    return sorted(name for name in names if name not in known and not name.startswith(_PREFIXES))


def is_of_own_page(names: set[str]) -> bool:
    """Tell whether the portal's own page shows and does all that a classifier's attributes say."""
    return all(name in _OWN_PAGE or name.startswith(("aria-", "data-")) for name in names)


def written(text: str) -> Any:
    """Parse an attribute as AWS's samples write it: JSON, or an object literal of JavaScript's.

    Texts may be in single quotes, keys in none, and a comma may come last.

    :raises ValueError: it is neither
    """
    try:
        return strict_json.loads(text)
    except ValueError:
        return strict_json.loads(_TOKEN.sub(_as_json, text))


def categories_of(attributes: Mapping[str, str]) -> list[Any]:
    """Return what a classifier offers, as it is written; an empty list where that is no list."""
    try:
        value = written(attributes.get(CATEGORIES, ""))
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def exclusion_of(attributes: Mapping[str, str]) -> str | None:
    """Return the category that says that none of the others holds, None where there is none.

    :raises ValueError: the attribute is there, and names none
    """
    if EXCLUSION not in attributes:
        return None
    try:
        value = written(attributes[EXCLUSION])
    except ValueError:
        value = None
    text = value.get("text") if isinstance(value, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{EXCLUSION} must be {{ text: 'None of the above' }}")
    return text.strip()


def check_values(attributes: Mapping[str, str]) -> None:
    """Raise ValueError for what says nothing that we could show or ask."""
    exclusion_of(attributes)
    if OVERLAY in attributes:
        _check_overlay(attributes[OVERLAY])


def _check_overlay(text: str) -> None:
    try:
        value = written(text)
    except ValueError:
        value = None
    boxes = value.get(_BOXES) if isinstance(value, Mapping) and len(value) == 1 else None
    drawn = boxes.get("value") if isinstance(boxes, Mapping) else None
    if not isinstance(drawn, list) or not all(map(_is_box, drawn)):
        raise ValueError(
            f"localcloud draws no {OVERLAY} but "
            f"{{ {_BOXES}: {{ value: [{{ left, top, width, height, label }}] }} }}"
        )


def _is_box(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(side), int | float) for side in ("left", "top", "width", "height")
    )


def _as_json(found: re.Match[str]) -> str:
    whole, single, key = found.groups()
    if whole is not None:
        return str(whole)
    if single is not None:
        return (
            '"' + re.sub(r"""\\.|\"""", lambda part: _ESCAPES.get(part[0], part[0]), single) + '"'
        )
    return "" if key is None else f'"{key}"'
