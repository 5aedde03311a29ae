"""Where a model's time goes, operator by operator."""

from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.profiling import profile_model
from onnx import TensorProto, helper, save

STEPS, SIZE = 40, 256


def loop(path: Path) -> Path:
    """Write a loop of products, and an operator of no name beside it and in its body."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "weights"], ["product"], name="product"),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"], name="on"),
        ],
        "body",
        [value("step", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("state", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    weights = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32) / 16
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["positive"]),
            helper.make_node("Tanh", ["positive"], ["small"]),
            helper.make_node("Loop", ["steps", "yes", "small"], ["y"], body=body, name="loop"),
        ],
        "graph",
        [value("x", TensorProto.FLOAT, [SIZE, SIZE])],
        [value("y", TensorProto.FLOAT, [SIZE, SIZE])],
        [
            helper.make_tensor(
                "weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), True
            ),
            helper.make_tensor("steps", TensorProto.INT64, [], [STEPS]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_loop_s_body_counts_once_and_as_often_as_it_runs(tmp_path: Path) -> None:
    inputs = {"x": np.ones((SIZE, SIZE), np.float32)}
    figures = profile_model(loop(tmp_path / "loop.onnx"), inputs, 1)
    found = {each["name"]: each for each in figures["operators"]}
    tanh = [name for name, each in found.items() if each["type"] == "Tanh"]
    assert sorted("loop/" in name for name in tanh) == [False, True], "those of no name are two"
    assert {"loop", "loop/product", "loop/on"} < set(found)
    assert found["loop/product"]["share"] > 0.4
    assert found["loop"]["share"] < 0.2
    assert sum(each["share"] for each in found.values()) == pytest.approx(1.0)
    # All of them together are about one run.
    whole = sum(each["ms"] for each in found.values())
    assert 0.3 < whole / np.median(figures["inference_ms"]) < 3
