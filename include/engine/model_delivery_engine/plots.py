"""The report's figures, as SVG fragments that stand in a page by themselves."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK = "#1f2937"
FAINT = "#9ca3af"
LIGHT = "#cbd5e1"
ACCENT = "#2563eb"
GOOD = "#059669"
BAD = "#dc2626"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: sharp, and it can be selected and searched
    "svg.hashsalt": "model-delivery",  # the same data gives the same bytes
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def confusion_figure(confusion: Mapping[str, Mapping[str, int]]) -> str:
    """Draw a confusion matrix, labels down and answers across; each row is coloured by share."""
    names = _class_names(confusion)
    counts = np.array([[confusion.get(a, {}).get(b, 0) for b in names] for a in names])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.2, 4.6)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("answer")
        axes.set_ylabel("label")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(names) <= 20:
            _write_counts(axes, counts, shares)
        return svg_of(figure)


def _write_counts(axes: Any, counts: Any, shares: Any) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else INK if row == column else BAD
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)


def _class_names(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    names = set(confusion).union(*confusion.values())
    numeric = all(name.lstrip("-").isdigit() for name in names)
    return sorted(names, key=int) if numeric else sorted(names)


def accuracy_figure(accuracy: float, low: float, high: float, threshold: float | None) -> str:
    """Draw an accuracy with its 95 % interval and, where there is one, the gate's threshold."""
    floor = max(0.0, min(low, threshold if threshold is not None else low) - 0.05)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.2, 1.5)
        axes.hlines(0, low, high, color=ACCENT, linewidth=7, alpha=0.3)
        axes.plot([accuracy], [0], "o", color=ACCENT, markersize=10)
        if threshold is not None:
            axes.axvline(threshold, color=BAD, linestyle="--", linewidth=1.2)
            axes.annotate(
                f" gate {threshold:.1%}", (threshold, 0.75), color=BAD, fontsize=9, va="center"
            )
        axes.set_xlim(floor, 1.005)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        return svg_of(figure)


def latency_figure(source_ms: float, compiled_ms: float) -> str:
    """Draw the latency of the source and the compiled model beside each other."""
    return _bars(["source", "compiled"], [source_ms, compiled_ms], [LIGHT, ACCENT], "ms", "{:.3g}")


def stages_figure(names: Sequence[str], seconds: Sequence[float], failed: Sequence[bool]) -> str:
    """Draw the seconds of each stage in order; failed ones stand out."""
    colours = [BAD if each else ACCENT for each in failed]
    return _bars(names, seconds, colours, "seconds", "{:.2f}", width=10.4)


def bars_figure(
    names: Sequence[str],
    values: Sequence[float],
    unit: str,
    form: str,
    faint: Sequence[bool] | None = None,
) -> str:
    """Draw a value for each name, written beside its bar in the given form.

    :param faint: which bars stand back, because their values are not to be taken for the others'
        (default: none)
    """
    colours = [LIGHT if each else ACCENT for each in faint or [False] * len(names)]
    return _bars(names, values, colours, unit, form)


def _bars(
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    unit: str,
    form: str,
    width: float = 5.2,
) -> str:
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(width, 0.7 + 0.36 * len(names))
        places = range(len(names))
        bars = axes.barh(places, values, color=colours, height=0.62)
        axes.bar_label(bars, labels=[form.format(v) for v in values], padding=4, fontsize=9)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlim(0, (max(values, default=0) or 1) * 1.18)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", length=0)
        return svg_of(figure)


def new_axes(width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure of that many inches, with no ground of its own, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def svg_of(figure: Figure) -> str:
    """Return the ``<svg>`` element without the XML prologue, which has no place inside HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
