"""Textract's blocks as a form's fields, and a reviewer's corrections as blocks again.

Source: "Form Data (Key-Value Pairs)" of the Textract developer guide: a KEY block points at its
VALUE block and, by CHILD, at the words of its text. Augmented AI writes members in camel case,
Textract itself in capitals; both are read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

KEY_VALUE_SET = "KEY_VALUE_SET"
PAGE_BOX = ("left", "top", "width", "height")


def form_fields(blocks: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    """Return the key-value pairs, least certain first; None where there are no blocks.

    Each has `id` (of the key's block), `key`, `value`, `confidence` (0 to 100, or None), `page`,
    and the boxes of key and value as fractions of the page.
    """
    if blocks is None:
        return None
    found = {
        str(block["id"]): block
        for block in map(_camel, blocks)
        if isinstance(block, Mapping) and "id" in block
    }
    fields = [
        _field(block, found)
        for block in found.values()
        if block.get("blockType") == KEY_VALUE_SET and "KEY" in block.get("entityTypes", [])
    ]
    return sorted(fields, key=_certainty)


def _field(key: Mapping[str, Any], blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    values = [blocks[each] for each in _related(key, "VALUE") if each in blocks]
    value = values[0] if values else {}
    confidences = [
        each["confidence"]
        for each in (key, value)
        if isinstance(each.get("confidence"), int | float)
    ]
    return {
        "id": str(key["id"]),
        "value_id": str(value["id"]) if value else None,
        "key": _text(key, blocks),
        "value": _text(value, blocks) if value else "",
        "confidence": min(confidences, default=None),
        "page": key.get("page", 1),
        "key_box": _box(key),
        "value_box": _box(value),
    }


def _certainty(field: Mapping[str, Any]) -> float:
    confidence = field["confidence"]
    return 101.0 if confidence is None else float(confidence)


def _text(block: Mapping[str, Any], blocks: Mapping[str, Mapping[str, Any]]) -> str:
    if isinstance(block.get("text"), str):
        return str(block["text"])
    words = []
    for each in _related(block, "CHILD"):
        child = blocks.get(each, {})
        if child.get("blockType") == "SELECTION_ELEMENT":
            words.append("☑" if child.get("selectionStatus") == "SELECTED" else "☐")
        elif isinstance(child.get("text"), str):
            words.append(child["text"])
    return " ".join(words)


def _related(block: Mapping[str, Any], kind: str) -> list[str]:
    return [
        str(each)
        for relation in block.get("relationships") or []
        if isinstance(relation, Mapping) and relation.get("type") == kind
        for each in relation.get("ids") or []
    ]


def _box(block: Mapping[str, Any]) -> dict[str, float] | None:
    geometry = block.get("geometry")
    box = geometry.get("boundingBox") if isinstance(geometry, Mapping) else None
    if not isinstance(box, Mapping):
        return None
    sides = {name: box.get(name) for name in PAGE_BOX}
    if not all(isinstance(side, int | float) for side in sides.values()):
        return None
    return {name: min(max(float(side or 0), 0.0), 1.0) for name, side in sides.items()}


def _camel(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key[:1].lower() + key[1:]: _camel(item) for key, item in value.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value
