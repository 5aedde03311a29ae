"""A document's form after its review."""

from collections.abc import Mapping
from typing import Any

from model_delivery_engine.review.forms import form, free_name, named_pairs


def corrected_form(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reviewed line's form: the model's texts, with those that people decided.

    Of several pairs with one key, the second is ``key (2)``. ``corrected`` and ``undecided`` name
    fields as the model read them.

    :raises ReviewError: the record's output is no answer of AnalyzeDocument
    """
    read = {
        name: pair.value for name, pair in named_pairs(form(b"", record["output"]).pairs).items()
    }
    review = record.get("review") or {}
    decided: Mapping[str, str | None] = review.get("label") or {}
    keys: Mapping[str, str | None] = review.get("keys") or {}
    known = {name: text for name, text in decided.items() if text is not None}
    # A field that was not read and is not on the page is none.
    added = {name: text for name, text in known.items() if name in read or text}
    fields: dict[str, str] = {}
    for name, text in {**read, **added}.items():
        fields[free_name(keys.get(name) or name, fields)] = text
    differing = {name for name, text in added.items() if read.get(name) != text}
    renamed = {name for name, key in keys.items() if key is not None}
    return {
        "document": record["input"],
        "reviewed": record.get("review") is not None,
        "fields": fields,
        "corrected": sorted(differing | renamed),
        "undecided": sorted(
            {name for each in (decided, keys) for name, text in each.items() if text is None}
        ),
    }
