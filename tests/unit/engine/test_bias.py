"""Biases of quantised operators: what rounding adds on average is taken out of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine import weights
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.quantize.bias import correct_biases, distance, measure_shifts
from model_delivery_engine.quantize.integers import StaticQuantizer, scheme_for
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import open_session
from onnx import TensorProto, helper, numpy_helper

from tests.unit.engine.conftest import save_graph

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(3)
FLOAT = TensorProto.FLOAT
Case = tuple[list[Any], dict[str, Array], list[int | str]]


def _weight(*shape: int) -> Array:
    # Weights of one sign and inputs of one sign: what rounding does adds up.
    return np.abs(RANDOM.normal(0, 0.1, shape)).astype(np.float32)


def convolution(groups: int, *, bias: bool) -> Case:
    """Return a convolution of 8 channels into 16."""
    constants = {"w": _weight(16, 8 // groups, 1, 1)}
    names = ["x", "w"]
    if bias:
        constants["b"] = _weight(16)
        names.append("b")
    node = helper.make_node("Conv", names, ["y"], name="op", group=groups)
    return [node], constants, ["n", 8, 5, 5]


def product(*, transposed: bool, bias: bool) -> Case:
    """Return a Gemm of 8 into 16."""
    constants = {"w": _weight(16, 8) if transposed else _weight(8, 16)}
    names = ["x", "w"]
    if bias:
        constants["b"] = _weight(16)
        names.append("b")
    node = helper.make_node("Gemm", names, ["y"], name="op", transB=int(transposed))
    return [node], constants, ["n", 8]


def matrix_product() -> Case:
    """Return a MatMul over a sequence, and the Add behind it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="op"),
        helper.make_node("Add", ["h", "b"], ["y"], name="add"),
    ]
    return nodes, {"w": _weight(8, 16), "b": _weight(16)}, ["n", 3, 8]


CASES = {
    "convolution": convolution(1, bias=True),
    "convolution without a bias": convolution(1, bias=False),
    "convolution of groups": convolution(4, bias=True),
    "product": product(transposed=False, bias=True),
    "product, transposed": product(transposed=True, bias=False),
    "matrix product": matrix_product(),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Samples]:
    nodes, constants, shape = CASES[request.param]
    given = RANDOM.uniform(1, 2, (64, *(int(size) for size in shape[1:]))).astype(np.float32)
    path = save_graph(
        tmp_path / "model.onnx", nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, None)}, constants
    )
    return path, Samples({"x": given})


def _answer(path: Path, samples: Samples) -> Array:
    (found,) = open_session(path, unoptimised_options()).run(None, dict(samples.inputs))
    return np.asarray(found)


def _quantizer(path: Path, samples: Samples) -> StaticQuantizer:
    return StaticQuantizer(path, samples, None, scheme_for("X86_64", False), path.parent)


def _mean_error(source: Path, other: Path, samples: Samples) -> float:
    error = _answer(other, samples) - _answer(source, samples)
    axis = 1 if error.ndim == 4 else error.ndim - 1
    each = np.moveaxis(error, axis, 0).reshape(error.shape[axis], -1).mean(axis=1)
    return float(np.abs(each).mean())


def test_no_channel_is_shifted_on_average(
    case: tuple[Path, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, samples = case
    corrected, plain = path.with_name("corrected-int8.onnx"), path.with_name("plain-int8.onnx")
    _quantizer(path, samples).quantize(corrected)
    monkeypatch.setattr(
        "model_delivery_engine.quantize.integers.measure_shifts", lambda *_given: {}
    )
    _quantizer(path, samples).quantize(plain)
    assert _mean_error(path, corrected, samples) < _mean_error(path, plain, samples) / 2
    assert distance(path, corrected, samples, None) < distance(path, plain, samples, None)


def test_what_stays_in_floating_point_keeps_its_bias(case: tuple[Path, Samples]) -> None:
    path, samples = case
    quantizer = _quantizer(path, samples)
    quantizer.quantize(path.with_name("all.onnx"))
    kept = path.with_name("kept.onnx")
    quantizer.quantize(kept, keep=[node.name for node in weights.skeleton(path).graph.node])
    np.testing.assert_allclose(_answer(kept, samples), _answer(path, samples), rtol=1e-6)


def test_a_correction_that_takes_answers_away_is_left_out(
    case: tuple[Path, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, samples = case
    plain, left = path.with_name("plain-int8.onnx"), path.with_name("left-int8.onnx")
    module = "model_delivery_engine.quantize.integers.measure_shifts"
    monkeypatch.setattr(module, lambda *_given: {})
    _quantizer(path, samples).quantize(plain)
    wrong: Callable[..., dict[str, Array]] = lambda *_given: {"op": np.full(16, 9, np.float32)}  # noqa: E731
    monkeypatch.setattr(module, wrong)
    _quantizer(path, samples).quantize(left)
    np.testing.assert_array_equal(_answer(left, samples), _answer(plain, samples))


def test_a_model_whose_means_cannot_be_taken_is_quantised_as_it_is(
    case: tuple[Path, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, samples = case
    module = "model_delivery_engine.quantize.integers."

    def failing(*_given: Any) -> Any:
        raise RuntimeError("no kernel for it")

    for name in ("measure_shifts", "distance"):
        with monkeypatch.context() as patch:
            patch.setattr(module + name, failing)
            _quantizer(path, samples).quantize(path.with_name(f"{name}.onnx"))
    with monkeypatch.context() as patch:
        patch.setattr(module + "measure_shifts", lambda *_given: {})
        _quantizer(path, samples).quantize(path.with_name("plain.onnx"))
    plain = _answer(path.with_name("plain.onnx"), samples)
    for name in ("measure_shifts", "distance"):
        np.testing.assert_array_equal(_answer(path.with_name(f"{name}.onnx"), samples), plain)


def test_a_bias_that_is_no_constant_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["b"], ["given"], name="relu"),
        helper.make_node("Gemm", ["x", "w", "given"], ["y"], name="op"),
    ]
    path = save_graph(
        tmp_path / "model.onnx",
        nodes,
        {"x": (FLOAT, ["n", 8]), "b": (FLOAT, [16])},
        {"y": (FLOAT, None)},
        {"w": _weight(8, 16)},
    )
    integers = path.with_name("int8.onnx")
    scale = numpy_helper.from_array(np.float32(0.01), "scale")
    model = onnx.load(path)
    weight = np.round(numpy_helper.to_array(model.graph.initializer[0]) / 0.01).astype(np.int8)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "integers"))
    model.graph.initializer.append(scale)
    read = helper.make_node("DequantizeLinear", ["integers", "scale"], ["w"], name="read")
    model.graph.node.insert(0, read)
    onnx.save(model, integers)
    given = {"x": np.ones((4, 8), np.float32), "b": np.ones((4, 16), np.float32)}
    assert measure_shifts(path, integers, Samples(given), None) == {}
    correct_biases(path, path.with_name("same.onnx"), {})
