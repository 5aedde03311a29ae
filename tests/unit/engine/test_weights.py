"""Weights beside the graph, and one file again."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_delivery_engine import weights
from model_delivery_engine.errors import CompilationError, Reason
from model_delivery_engine.graph import prepare_graph
from onnx import TensorProto, helper, numpy_helper

from tests.unit.engine.conftest import save_graph

ROWS = 300  # of 300 columns: three bytes say how long that is


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a model with a large weight, a small one, and one in a Constant node."""
    rng = np.random.default_rng(0)
    held = numpy_helper.from_array(rng.random((ROWS, 20), np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["a"]),
        helper.make_node("Add", ["a", "small"], ["b"]),
        helper.make_node("Constant", [], ["held"], value=held),
        helper.make_node("MatMul", ["b", "held"], ["y"]),
    ]
    constants = {
        "large": rng.random((ROWS, ROWS), np.float32),
        "small": rng.random(1, np.float32),
    }
    x, y = (TensorProto.FLOAT, ["n", ROWS]), (TensorProto.FLOAT, ["n", 20])
    return save_graph(tmp_path / "in" / "model.onnx", nodes, {"x": x}, {"y": y}, constants)


def test_large_weights_lie_beside_the_graph_and_small_ones_in_it(
    tmp_path: Path, model: Path
) -> None:
    prepare_graph(model, {"x": (-1, ROWS)}, tmp_path / "source.onnx")
    tensors = {t.name: t for t in weights.skeleton(tmp_path / "source.onnx").graph.initializer}
    assert {name for name, each in tensors.items() if each.external_data} == {"large", "held"}
    assert not tensors["large"].raw_data
    (data,) = weights.files_of(tmp_path / "source.onnx")
    assert data.stat().st_size >= ROWS * ROWS * 4
    whole = (tmp_path / "source.onnx").stat().st_size + data.stat().st_size
    assert weights.size_of(tmp_path / "source.onnx") == whole


def test_one_file_again_has_every_value(tmp_path: Path, model: Path) -> None:
    before = onnx.load(model)
    weights.save(onnx.load(model), tmp_path / "beside.onnx")
    weights.embed(tmp_path / "beside.onnx", tmp_path / "one.onnx")
    after = onnx.load(tmp_path / "one.onnx")
    onnx.checker.check_model(str(tmp_path / "one.onnx"), full_check=True)
    assert not list(weights.files_of(tmp_path / "one.onnx"))
    for each in (before, after):
        ordered = sorted(each.graph.initializer, key=lambda tensor: tensor.name)
        del each.graph.initializer[:]
        each.graph.initializer.extend(ordered)
    assert after == before


def test_what_is_over_the_formats_limit_is_refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.save(onnx.load(model), tmp_path / "beside.onnx")
    monkeypatch.setattr(weights, "MOST_BYTES", 1000)
    with pytest.raises(CompilationError, match="over 2 GiB") as refused:
        weights.embed(tmp_path / "beside.onnx", tmp_path / "one.onnx")
    assert refused.value.reason is Reason.MODEL_TOO_LARGE
    assert not (tmp_path / "one.onnx").exists()


def test_a_weight_of_fewer_bytes_than_its_shape_says_is_refused(
    tmp_path: Path, compiled: Callable[..., object]
) -> None:
    path = tmp_path / "in" / "model.onnx"
    x, y = (TensorProto.FLOAT, ["n", ROWS]), (TensorProto.FLOAT, ["n", ROWS])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    save_graph(path, [node], {"x": x}, {"y": y}, {"w": np.ones((ROWS, ROWS), np.float32)})
    broken = onnx.load(path)
    broken.graph.initializer[0].raw_data = struct.pack("<600f", *range(600))
    onnx.save(broken, path)
    with pytest.raises(CompilationError, match="w"):
        compiled(path, f'{{"x": [-1, {ROWS}]}}')
