"""A recommender's report: one HTML file with its figures inside."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from jinja2 import UndefinedError
from markupsafe import Markup

from model_delivery_engine.errors import ReportError
from model_delivery_engine.plots import ACCENT, FAINT, LIGHT, STYLE, new_axes, svg_of
from model_delivery_engine.recommend.quality import KS, Quality
from model_delivery_engine.report import page_template


def render_recommendations(
    quality: Quality, *, run_id: str, created: str, facts: Mapping[str, object]
) -> str:
    """Draw how good a batch of recommendations is.

    :param facts: names to values, such as the job's ARN, the model's digest, counts
    :raises ReportError: a fact that cannot be drawn
    """
    figures = {
        "precision": precision_figure(quality),
        "coverage": coverage_figure(quality),
        "popularity": popularity_figure(quality.popularity, quality.items),
    }
    try:
        return str(
            page_template("recommendations.html").render(
                run_id=run_id, created=created, quality=quality, facts=dict(facts), ks=KS,
                figures={name: Markup(svg) for name, svg in figures.items()},
            )
        )  # fmt: skip
    except (TypeError, UndefinedError) as error:
        raise ReportError(f"the report of run {run_id} cannot be drawn: {error}") from error


def precision_figure(quality: Quality) -> str:
    """Draw precision at each k with its 95 % interval, beside the most popular items'."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.2, 3.2)
        places = range(len(KS))
        width = 0.38
        ours = [quality.precision[k] for k in KS]
        usual = [quality.baseline[k] for k in KS]
        errors = [quality.half_width[k] for k in KS]
        axes.bar([p - width / 2 for p in places], ours, width, yerr=errors, color=ACCENT,
                 ecolor=FAINT, label="recommender")  # fmt: skip
        axes.bar([p + width / 2 for p in places], usual, width, color=LIGHT, label="most popular")
        _finish(axes, "precision")
        axes.legend(frameon=False)
        return svg_of(figure)


def coverage_figure(quality: Quality) -> str:
    """Draw which part of the catalogue is recommended to anybody, at each k."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.2, 3.2)
        bars = axes.bar(range(len(KS)), [quality.coverage[k] for k in KS], 0.6, color=ACCENT)
        labels = [f"{quality.coverage[k]:.0%}" for k in KS]
        axes.bar_label(bars, labels=labels, padding=3, fontsize=9)
        _finish(axes, "part of the catalogue")
        axes.set_ylim(0, 1.05)
        return svg_of(figure)


def popularity_figure(counts: Sequence[int], items: int) -> str:
    """Draw how often each item is among a user's first ten, the most frequent first."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(10.4, 2.6)
        padded = [*counts, *[0] * (items - len(counts))]
        axes.fill_between(range(len(padded)), padded, step="pre", color=ACCENT, alpha=0.7, lw=0)
        axes.set_xlim(0, max(items, 1))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("items, the most recommended first")
        axes.set_ylabel("users")
        return svg_of(figure)


def _finish(axes: Any, label: str) -> None:
    axes.set_xticks(range(len(KS)), [f"{k}" for k in KS])
    axes.set_xlabel("first k")
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
