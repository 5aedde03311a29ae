"""The compile report's figures: places that fit the picture, and labels that can be read."""

import itertools
from typing import Any

import pytest
from model_delivery_localcloud.portal.charts import HEIGHT, LINE, WIDTH, compile_charts


def candidate(name: str, size: int, speedup: float | None, status: str = "kept") -> dict[str, Any]:
    return {"name": name, "size_bytes": size, "speedup": speedup, "status": status}


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_points_lie_inside_and_labels_apart(scale: float) -> None:
    sizes = [(n, round(2**20 * part * max(scale, 1e-3))) for n, part in enumerate((1, 1, 0.5, 1))]
    made = [candidate(f"c{n}", size, scale * (1 + n / 1000)) for n, size in sizes]
    chart = compile_charts({"candidates": made})["size_and_speed"]
    for point in chart.points:
        assert chart.left <= point.x <= WIDTH
        assert 0 <= point.y <= HEIGHT
    for one, other in itertools.combinations(chart.points, 2):
        near = abs(one.x - other.x) < 50
        assert not near or abs(one.label_y - other.label_y) >= LINE
    assert [tick.at for tick in chart.x_ticks] == sorted(tick.at for tick in chart.x_ticks)


def test_what_was_not_measured_is_left_out() -> None:
    rejected = candidate("int8", 1, None, "rejected")
    assert compile_charts({"candidates": [rejected]}) == {}
    assert compile_charts({}) == {}
    charts = compile_charts({"candidates": [rejected, candidate("fp32", 9, 1.2, "chosen")]})
    (bar,) = charts["speedups"].bars
    assert (bar.label, bar.text, bar.mark) == ("fp32", "1.20 times", "chosen")
    assert bar.width > (charts["speedups"].line - charts["speedups"].left)


def test_labels_of_operators_are_whole_and_differ() -> None:
    names = [f"/encoder/layer.{n}/attention/self/query/MatMul_quant" + "x" * 60 for n in range(3)]
    operators = [
        {"type": "DynamicQuantizeMatMul", "name": name + str(n), "ms": 1.0, "share": 0.3}
        for n, name in enumerate(names)
    ]
    profile = {"inference_ms": [1.0], "operators": operators}
    chart = compile_charts({"profile": profile})["operators"]
    assert len({bar.label for bar in chart.bars}) == 3
    assert all(bar.label.startswith("DynamicQuantizeMatMul /enc") for bar in chart.bars)
    assert chart.above


@pytest.mark.parametrize(
    ("size", "unit"), [(90, "B"), (5_000, "KiB"), (2**21, "MiB"), (2**31, "GiB")]
)
def test_sizes_have_a_unit_that_fits_them(size: int, unit: str) -> None:
    chart = compile_charts({"candidates": [candidate("fp32", size, 1.0)]})["size_and_speed"]
    assert chart.unit == unit
    assert float(chart.x_ticks[-1].text) >= 1


def test_throughput_is_drawn_where_it_was_measured() -> None:
    made = [{**candidate("fp32", 9, 1.2), "throughput": 1.5}, candidate("int8", 9, 1.1)]
    (bar,) = compile_charts({"candidates": made})["throughputs"].bars
    assert (bar.label, bar.text) == ("fp32", "1.50 times")
