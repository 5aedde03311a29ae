"""A document's form after its review."""

from collections.abc import Mapping
from typing import Any

from model_delivery_engine.review.forms import form


def corrected_form(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reviewed line's form: the model's texts, with those that people decided.

    :raises ReviewError: the record's output is no answer of AnalyzeDocument
    """
    read = {pair.key: pair.value for pair in form(b"", record["output"]).pairs}
    review = record.get("review")
    decided: Mapping[str, str | None] = (review or {}).get("label") or {}
    known = {key: text for key, text in decided.items() if text is not None}
    return {
        "document": record["input"],
        "reviewed": review is not None,
        "fields": {**read, **known},
        "corrected": sorted(key for key, text in known.items() if read.get(key) != text),
        "undecided": sorted(key for key, text in decided.items() if text is None),
    }
