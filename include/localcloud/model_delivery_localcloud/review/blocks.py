"""Textract's blocks as a form's fields, with the boxes that a page draws.

Source: "Form Data (Key-Value Pairs)" of the Textract developer guide.
"""

from collections.abc import Mapping
from typing import Any

from model_delivery_engine.review.forms import FormPair, blocks_by_id, form
from model_delivery_engine.review.inferences import member

SIDES = ("left", "top", "width", "height")


def form_fields(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the key-value pairs, least certain first.

    Each has `id` (of the key's block), `value_id`, `key`, `value`, `confidence` (0 to 100), and the
    boxes of key and value as fractions of the page, None where there is none.

    :raises ReviewError: there are no blocks, or some of them are missing
    """
    blocks = blocks_by_id(response)
    pairs = sorted(form(b"", response).pairs, key=lambda pair: pair.confidence)
    return [_field(pair, blocks) for pair in pairs]


def _field(pair: FormPair, blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "id": pair.key_id,
        "value_id": pair.value_id or None,
        "key": pair.key,
        "value": pair.value,
        "confidence": pair.confidence,
        "key_box": _box(blocks[pair.key_id]),
        "value_box": _box(blocks[pair.value_id]) if pair.value_id else None,
    }


def _box(block: Mapping[str, Any]) -> dict[str, float] | None:
    geometry = member(block, "geometry")
    box = member(geometry, "boundingBox") if isinstance(geometry, Mapping) else None
    if not isinstance(box, Mapping):
        return None
    sides = {name: member(box, name) for name in SIDES}
    if not all(isinstance(side, int | float) for side in sides.values()):
        return None
    return {name: min(max(float(side), 0.0), 1.0) for name, side in sides.items()}
