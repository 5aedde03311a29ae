"""A delivery's report: one HTML file with its figures inside, readable without a network."""

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from model_delivery_engine.errors import ReportError
from model_delivery_engine.plots import (
    accuracy_figure,
    confusion_figure,
    latency_figure,
    stages_figure,
)


def render_report(delivery: Mapping[str, Any]) -> str:
    """Draw a delivery.

    Everything is escaped. A section is there when its key is; only ``run_id`` is required:

    - ``run_id``, ``title``, ``created`` (text)
    - ``manifest``: the bundle's manifest as `Manifest.to_json` writes it; ``bundle_digest``
    - ``evaluation``: the fields of `Evaluation`
    - ``gate``: ``{"passed": bool, "reasons": [text], "min_accuracy": float (optional)}``
    - ``batch``: ``{"records", "ok", "errors"}``
    - ``review``: ``{"loops", "confirmed", "corrected", "undecided", "unreviewed", "agreement",
      "unreviewed_errors_interval"}``
    - ``deployment``: names to values, such as device, status, digest
    - ``stages``: ``[{"name", "seconds", "state", "details": {name: value} (optional)}]``

    :returns: the HTML page
    :raises ReportError: a section without a field that it needs; names it
    """
    if not delivery.get("run_id"):
        raise ReportError("the delivery has no run_id; give the run's id")
    try:
        figures = {name: Markup(svg) for name, svg in _figures(delivery).items()}
        return str(page_template("report.html").render(_sections(delivery), figures=figures))
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise ReportError(
            f"the delivery {delivery['run_id']} cannot be drawn: a section lacks {error}; "
            "give each section the fields that render_report lists"
        ) from error


_SECTIONS = ("manifest", "evaluation", "gate", "batch", "review", "deployment", "stages")


def _sections(delivery: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_id": delivery["run_id"],
        "title": delivery.get("title") or "Model delivery",
        "created": delivery.get("created"),
        "bundle_digest": delivery.get("bundle_digest"),
        **{name: delivery.get(name) for name in _SECTIONS},
    }


def _figures(delivery: Mapping[str, Any]) -> dict[str, str]:
    figures = {}
    if evaluation := delivery.get("evaluation"):
        threshold = (delivery.get("gate") or {}).get("min_accuracy")
        interval = (evaluation["interval_low"], evaluation["interval_high"])
        if evaluation["accuracy"] is not None:
            figures["accuracy"] = accuracy_figure(evaluation["accuracy"], *interval, threshold)
        figures["confusion"] = confusion_figure(evaluation["confusion"])
    if latency := (delivery.get("manifest") or {}).get("latency"):
        figures["latency"] = latency_figure(latency["source_ms"], latency["compiled_ms"])
    if stages := delivery.get("stages"):
        figures["stages"] = stages_figure(
            [stage["name"] for stage in stages],
            [stage["seconds"] or 0.0 for stage in stages],
            [stage["state"] == "failed" for stage in stages],
        )
    return figures


@functools.cache
def page_template(name: str) -> Any:
    """Return a page's template: everything put into it is escaped, and nothing may be missing."""
    environment = Environment(
        loader=PackageLoader("model_delivery_engine"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    environment.filters["short"] = _short
    environment.filters["size"] = _size
    return environment.get_template(name)


def _size(value: float) -> str:
    for unit, length in (("B", 1), ("KiB", 2**10), ("MiB", 2**20)):
        if value < 1024 * length:
            return f"{value / length:.0f} B" if unit == "B" else f"{value / length:.1f} {unit}"
    return f"{value / 2**30:.1f} GiB"


def _short(digest: str) -> str:
    """Return a digest's first twelve digits, enough to tell two apart; the page holds the whole."""
    kind, _, digits = digest.partition(":")
    return f"{kind}:{digits[:12]}…" if len(digits) > 12 else digest
