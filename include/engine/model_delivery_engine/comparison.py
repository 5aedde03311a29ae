"""One model compiled for several targets: a table of what came of it, and a page of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from model_delivery_engine.manifest import Manifest
from model_delivery_engine.measurements import MEASURED, Candidate
from model_delivery_engine.plots import bars_figure
from model_delivery_engine.report import page_template

COMPILED = "COMPLETED"


def comparison_row(
    target: str,
    *,
    status: str,
    reason: str | None = None,
    output_uri: str = "",
    manifest: Manifest | None = None,
) -> dict[str, Any]:
    """Return what a target's compilation came to, as JSON.

    :param target: the TargetDevice
    :param status: the job's
    :param reason: why there is no bundle; None where there is one
    :param manifest: the bundle's; None where there is none
    :returns: sizes in bytes, times in milliseconds, memory in bytes; None for what is not known
    """
    row = {"target": target, "status": status, "reason": reason, "output_uri": output_uri}
    return {**row, **(_figures(manifest) if manifest else {"manifest": False})}


def _figures(manifest: Manifest) -> dict[str, Any]:
    chosen = next((each for each in manifest.candidates if each.status == "chosen"), None)
    latency, profile, parity = manifest.latency, manifest.profile, manifest.parity
    return {
        "manifest": True,
        "runtime": manifest.runtime,
        "quantisation": manifest.quantisation,
        "chosen": chosen.name if chosen else None,
        "size_bytes": chosen.size_bytes if chosen else None,
        "latency_ms": latency.compiled_ms if latency else None,
        "source_ms": latency.source_ms if latency else None,
        "speedup": latency.source_ms / latency.compiled_ms if latency else None,
        "kind": latency.kind if latency else None,
        "machine": latency.machine if latency else None,
        "threads": latency.threads if latency else None,
        "throughput": chosen.throughput if chosen else None,
        "peak_memory_bytes": profile.peak_memory_bytes if profile else None,
        "max_abs": parity.max_abs if parity else None,
        "metric_name": manifest.metric,
        **_metric(chosen),
        "candidates": [_candidate(each) for each in manifest.candidates],
    }


def _metric(chosen: Candidate | None) -> dict[str, float | None]:
    names = ("metric", "drop", "drop_low", "drop_high", "samples")
    return {name: getattr(chosen, name) if chosen else None for name in names}


def _candidate(each: Candidate) -> dict[str, Any]:
    names = ("name", "status", "reason", "size_bytes", "speedup", "throughput")
    return {name: getattr(each, name) for name in names}


def render_comparison(
    rows: Sequence[Mapping[str, Any]], *, run_id: str, title: str, model_uri: str
) -> str:
    """Draw the comparison; everything in it is escaped.

    :param rows: of `comparison_row`, in the order to show
    :returns: an HTML page that stands by itself
    """
    compiled = [row for row in rows if row["manifest"]]
    timed = [row for row in compiled if row["latency_ms"] is not None]
    sized = [row for row in compiled if row["size_bytes"] is not None]
    figures = {}
    if timed:
        names, times = [_marked(row) for row in timed], [row["latency_ms"] for row in timed]
        faint = [row["kind"] != MEASURED for row in timed]
        figures["Time of one run"] = Markup(bars_figure(names, times, "ms", "{:.3g}", faint))
    if sized:
        names, sizes = [row["target"] for row in sized], [row["size_bytes"] / 1024 for row in sized]
        figures["Size of the model"] = Markup(bars_figure(names, sizes, "KiB", "{:.4g}"))
    return str(
        page_template("comparison.html").render(
            rows=rows,
            compiled=compiled,
            figures=figures,
            machines=_machines(timed),
            proxies=[row["target"] for row in timed if row["kind"] != MEASURED],
            run_id=run_id,
            title=title,
            model_uri=model_uri,
        )
    )


def _marked(row: Mapping[str, Any]) -> str:
    """Return how a target is called in a figure of times: one that was not timed there says so."""
    return str(row["target"] if row["kind"] == MEASURED else f"{row['target']} ({row['kind']})")


def _machines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the targets timed on each machine."""
    found: dict[str, list[str]] = {}
    for row in rows:
        threads = f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"
        found.setdefault(f"{row['machine']}; {threads}", []).append(row["target"])
    return found
