"""The compile report's figures as coordinates, which the templates draw as SVG.

The pages load nothing and run no script, and their content policy allows no inline style: so the
figures are plain SVG elements with classes of the style sheet.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 40
ROW = 24
LABELS = 170
MOST_OPERATORS = 12
RIGHT_HALF = 0.6
LABEL_WIDTH, LINE = 140, 14
VALUES = 110  # room for the text of a bar
LONGEST_LABEL = 76  # characters above a bar
_UNITS = (("B", 1), ("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30))


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart, in the chart's own units; `mark` is a style's name."""

    label: str
    text: str
    y: float
    width: float
    mark: str


@dataclass(frozen=True)
class Bars:
    """A bar chart; `line` is the place of a reference value, None for none.

    `above`: each label stands above its bar, where there is room for the whole of it.
    """

    bars: Sequence[Bar]
    height: float
    line: float | None
    width: int = WIDTH
    left: int = LABELS
    above: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot, labelled to its left or right at the height `label_y`."""

    label: str
    x: float
    y: float
    mark: str
    anchor: str
    label_y: float


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its place and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Scatter:
    """A scatter plot with its axes; `unit` is that of the one across."""

    unit: str
    points: Sequence[Point]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM
    right: int = WIDTH - RIGHT
    top: int = TOP


def compile_charts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the charts of a bundle's manifest; those without figures are left out."""
    measured = [each for each in manifest.get("candidates", []) if each["speedup"] is not None]
    charts: dict[str, Any] = {}
    if measured:
        charts["size_and_speed"] = _size_and_speed(measured)
        charts["speedups"] = _bars(
            [
                (each["name"], each["speedup"], f"{each['speedup']:.2f} times", each["status"])
                for each in measured
            ],
            reference=1.0,
        )
    answered = [each for each in measured if each.get("throughput") is not None]
    if answered:
        charts["throughputs"] = _bars(
            [
                (
                    each["name"],
                    each["throughput"],
                    f"{each['throughput']:.2f} times",
                    each["status"],
                )
                for each in answered
            ],
            reference=1.0,
        )
    profile = manifest.get("profile")
    if profile:
        times = profile["inference_ms"]
        charts["runs"] = _bars(
            [(f"run {n + 1}", ms, f"{ms:.3f} ms", "kept") for n, ms in enumerate(times)]
        )
        operators = profile["operators"][:MOST_OPERATORS]
        charts["operators"] = _bars_below(
            [
                (
                    _shortened(f"{each['type']} {each['name']}"),
                    each["ms"],
                    f"{each['ms']:.3f} ms, {each['share']:.0%}",
                    "kept",
                )
                for each in operators
            ]
        )
    return charts


def _bars_below(rows: Sequence[tuple[str, float, str, str]]) -> Bars:
    """Return a chart whose labels are too long to stand beside their bars."""
    most = max((value for _, value, _, _ in rows), default=0.0) or 1.0
    bars = [
        Bar(label, text, (2 * n + 1) * ROW, max(1.0, value / most * (WIDTH - VALUES)), mark)
        for n, (label, value, text, mark) in enumerate(rows)
    ]
    return Bars(bars, 2 * len(rows) * ROW, None, left=0, above=True)


def _shortened(label: str) -> str:
    """Leave out the middle of a label that is too long: names differ at their ends."""
    if len(label) <= LONGEST_LABEL:
        return label
    half = (LONGEST_LABEL - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def _bars(rows: Sequence[tuple[str, float, str, str]], reference: float | None = None) -> Bars:
    room = WIDTH - LABELS - VALUES
    most = max([value for _, value, _, _ in rows] + [reference or 0.0]) or 1.0
    bars = [
        Bar(label, text, n * ROW + 4, max(1.0, value / most * room), mark)
        for n, (label, value, text, mark) in enumerate(rows)
    ]
    line = None if reference is None else LABELS + reference / most * room
    return Bars(bars, len(rows) * ROW + 8, line)


def _size_and_speed(candidates: Sequence[Mapping[str, Any]]) -> Scatter:
    most = max(each["size_bytes"] for each in candidates)
    unit, length = next(each for each in reversed(_UNITS) if most >= each[1] or each[1] == 1)
    sizes = [each["size_bytes"] / length for each in candidates]
    speeds = [each["speedup"] for each in candidates]
    x_ticks, x_end = _ticks(max(sizes))
    y_ticks, y_end = _ticks(max(speeds))
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    points: list[Point] = []
    for each, size, speed in zip(candidates, sizes, speeds, strict=True):
        x, y = LEFT + size / x_end * across, HEIGHT - BOTTOM - speed / y_end * up
        anchor = "end" if size / x_end > RIGHT_HALF else "start"
        label_y = _free_height(x, y - 8, points)
        points.append(Point(each["name"], x, y, each["status"], anchor, label_y))
    return Scatter(
        unit,
        points,
        [Tick(LEFT + value / x_end * across, f"{value:g}") for value in x_ticks],
        [Tick(HEIGHT - BOTTOM - value / y_end * up, f"{value:g}") for value in y_ticks],
    )


def _free_height(x: float, y: float, points: Sequence[Point]) -> float:
    """Return the height nearest to y where a label near x covers none of those drawn before it."""
    taken = [point.label_y for point in points if abs(point.x - x) < LABEL_WIDTH]
    tries = (y + sign * LINE * n for n in itertools.count() for sign in (1, -1))
    return next(at for at in tries if all(abs(at - other) >= LINE for other in taken))


def _ticks(most: float) -> tuple[list[float], float]:
    """Return round values from 0 to past the largest, and the axis' end."""
    step = 10 ** math.floor(math.log10(most)) if most > 0 else 1.0
    for part in (5, 2, 1):
        if most / (step / part) <= 5:
            step /= part
            break
    count = math.ceil(most * 1.02 / step)
    return [round(n * step, 10) for n in range(count + 1)], count * step
