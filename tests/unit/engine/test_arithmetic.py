"""Models that compute in lower precision themselves are held to what that rounds."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.agreement import CONVERTED
from model_delivery_engine.arithmetic import precision_of
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.compile.evidence import Evidence
from model_delivery_engine.errors import ParityError
from model_delivery_engine.parity import SINGLE, tolerance_for
from model_delivery_engine.probes import Probe, Run
from model_delivery_engine.runtime import Model, check_golden
from model_delivery_engine.targets import Target
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def model(nodes: list[Any], kind: int, weights: dict[str, Any]) -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, ["n", 4])],
        [helper.make_tensor_value_info("y", kind, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def in_branch() -> Any:
    """Return a node whose halves are in its branches alone."""
    inner = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["h"], to=HALF),
            helper.make_node("Cast", ["h"], ["z"], to=FLOAT),
        ],
        "inner",
        [],
        [helper.make_tensor_value_info("z", FLOAT, ["n", 4])],
    )
    return helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)


WEIGHTS = np.eye(4)
CASES: dict[str, tuple[str, list[Any], int, dict[str, Any]]] = {
    "floats": (
        "fp32",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        FLOAT,
        {"w": WEIGHTS.astype(np.float32)},
    ),
    "halves": (
        "fp16",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        HALF,
        {"w": WEIGHTS.astype(np.float16)},
    ),
    "weights kept in halves": (
        "fp32",
        [
            helper.make_node("Cast", ["h"], ["w"], to=FLOAT),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        FLOAT,
        {"h": WEIGHTS.astype(np.float16)},
    ),
    "weights kept in 8 bits": (
        "fp32",
        [
            helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        FLOAT,
        {"q": WEIGHTS.astype(np.int8), "s": np.float32(0.1)},
    ),
    "8 bits": (
        "int8",
        [
            helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
        ],
        FLOAT,
        {"s": np.float32(0.1)},
    ),
    "in a branch": ("fp16", [in_branch()], FLOAT, {"yes": np.array(True)}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_models_precision_is_what_it_computes_in(tmp_path: Path, case: Any) -> None:
    precision, nodes, kind, weights = case
    onnx.save(model(nodes, kind, weights), tmp_path / "model.onnx")
    assert precision_of(tmp_path / "model.onnx") == precision


class Images(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        drawn = np.random.default_rng(1).random((4, 8, 3, 32, 32)).astype(np.float32)
        self._batches: Iterator[Any] = iter([{"x": each} for each in drawn])

    def get_next(self) -> Any:
        return next(self._batches, None)


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    """Return a network that ONNX Runtime's own quantiser wrote, as its documentation has it."""
    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(size=(8, 3, 3, 3)) * 0.3,
        "second": random.normal(size=(16, 8, 3, 3)) * 0.2,
        "last": random.normal(size=(16, 10)) / 4,
    }
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "first"], ["a"], strides=[2, 2]),
        make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "second"], ["c"], strides=[2, 2]),
        make("Relu", ["c"], ["d"]),
        make("GlobalAveragePool", ["d"], ["e"]),
        make("Flatten", ["e"], ["f"]),
        make("MatMul", ["f", "last"], ["g"]),
        make("Softmax", ["g"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 10])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model").mkdir()
    onnx.save(made, tmp_path / "floats.onnx")
    quantization.quantize_static(
        tmp_path / "floats.onnx", tmp_path / "model" / "model.onnx", Images(),
        quant_format=quantization.QuantFormat.QDQ,
    )  # fmt: skip
    return tmp_path / "model" / "model.onnx"


def test_a_model_in_8_bits_is_compiled_and_reproduced_within_its_steps(
    tmp_path: Path, quantised: Path, target: Target, pack: Callable[[Path], Path]
) -> None:
    request = CompilationRequest(
        "ONNX", '{"x": [-1, 3, 32, 32]}', target, "network", "s3://bucket/model.tar.gz",
        json.dumps({"precision": "int8"}),
    )  # fmt: skip
    manifest = compile_model(pack(quantised), tmp_path / "bundle.tar.gz", request)
    found = {each.name: each for each in manifest.candidates}
    assert found["fp32"].status in ("chosen", "kept", "dominated")
    assert (found["int8-dynamic"].status, found["fp16"].status) == ("rejected", "rejected")
    assert found["fp16"].reason == "the model computes in 8 bits itself"
    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    lower = tolerance_for("int8", bundle.golden_outputs)
    assert bundle.manifest.golden.atol == pytest.approx(lower.atol)
    assert lower.atol > SINGLE.atol
    model = Model.load(bundle)
    check_golden(model, bundle)
    scale = max(float(np.abs(array).max()) for array in bundle.golden_outputs.values())
    answers = {name: array + scale / 255 for name, array in bundle.golden_outputs.items()}
    model.run = lambda _inputs: answers  # type: ignore[assignment, method-assign, misc]
    check_golden(model, bundle)  # as another processor may round it
    further = {name: array + 3 * lower.atol for name, array in bundle.golden_outputs.items()}
    model.run = lambda _inputs: further  # type: ignore[assignment, method-assign, misc]
    with pytest.raises(ParityError, match="does not reproduce its golden outputs"):
        check_golden(model, bundle)


def test_what_is_held_goes_by_the_sources_own_precision() -> None:
    want = {"y": np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)}
    run = Run({"x": np.zeros(1)}, want, {"y": np.zeros((8, 8))})
    floats = Evidence({"x": np.zeros(1)}, want, (Probe("unit", (run,)),))
    step = {"y": want["y"] + np.float32(1 / 255)}
    with pytest.raises(ParityError, match="misses the source model"):
        floats.hold(lambda _: step)
    integers = dataclasses.replace(floats, precision="int8")
    assert integers.hold(lambda _: step).proved == ("unit",)
    with pytest.raises(ParityError, match="misses the source model"):
        integers.hold(lambda _: step, unoptimised=True)
    with pytest.raises(ParityError, match="misses the source model"):
        integers.hold(lambda _: {"y": want["y"] + np.float32(0.1)})
    halves = dataclasses.replace(floats, precision="fp16")
    assert halves.hold(lambda _: {"y": want["y"] + np.float32(2**-11)}).proved == ("unit",)
    with pytest.raises(ParityError):
        halves.hold(lambda _: {"y": want["y"] + np.float32(0.02)})
    assert CONVERTED.scale < 2**-9
