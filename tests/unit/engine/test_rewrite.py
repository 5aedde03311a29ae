"""Graphs rewritten: each form is found, computes the same, and what only looks like it stays."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine import weights
from model_delivery_engine.bundle import Manifest
from model_delivery_engine.graph import complete_types
from model_delivery_engine.quantize.integers import StaticQuantizer, normalizations, scheme_for
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.rewrite import rewrite
from model_delivery_engine.rewrite.graph import Graph
from model_delivery_engine.rewrite.hard_sigmoid import fuse_hard_sigmoid
from model_delivery_engine.runtime import Model, open_session, session_options
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph

CHANNELS = 16
Shape = list[int | str | None]
IMAGE: Shape = [2, CHANNELS, 7, 6]


class Builder:
    """A model in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._rng = np.random.default_rng(0)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(self, tensor: str, kernel: int = 1, group: int = 1, **attributes: Any) -> str:
        shape = (CHANNELS, CHANNELS // group, kernel, kernel)
        weight = self.constant(self._rng.normal(0, 0.3, shape))
        bias = self.constant(self._rng.normal(size=CHANNELS))
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.add("Conv", tensor, weight, bias, group=group, **attributes)

    def hard_swish(self, tensor: str, *, early: bool = False) -> str:
        raised = self.add("Add", tensor, self.constant([3.0]))
        clipped = self.add("Clip", raised, self.constant(0.0), self.constant(6.0))
        if early:
            return self.add("Mul", tensor, self.add("Mul", clipped, self.constant(1 / 6)))
        return self.add("Div", self.add("Mul", tensor, clipped), self.constant([6.0]))


Made = Callable[..., tuple[dict[str, int], Counter[str]]]


@pytest.fixture
def rewritten(tmp_path: Path) -> Made:
    """Rewrite a model, hold it to the original's answers, and return what was found and is left."""

    def _rewritten(
        builder: Builder, output: str, shape: Shape = IMAGE, given: Any = None, opset: int = 18
    ) -> tuple[dict[str, int], Counter[str]]:
        if given is None:
            given = np.random.default_rng(1).normal(0, 4, shape).astype(np.float32)
        kind = helper.np_dtype_to_tensor_dtype(given.dtype)
        path = save_graph(
            tmp_path / "source.onnx",
            builder.nodes,
            {"x": (kind, shape)},
            {output: (TensorProto.FLOAT, [None] * 4 if len(shape) == 4 else None)},  # type: ignore[dict-item]
            builder.constants,
            {"": opset},
        )
        found = rewrite(path, tmp_path / "rewritten.onnx")
        models = [
            Model(open_session(each, session_options(1)), each.stem)
            for each in (path, tmp_path / "rewritten.onnx")
        ]
        before, after = (model.run({"x": given})[output] for model in models)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
        left = weights.skeleton(tmp_path / "rewritten.onnx").graph.node
        return found, Counter(node.op_type for node in left)

    return _rewritten


@pytest.mark.parametrize("early", [False, True])
def test_a_hard_swish_is_put_together(rewritten: Made, early: bool) -> None:
    builder = Builder()
    out = builder.conv(builder.hard_swish(builder.conv("x"), early=early))
    found, left = rewritten(builder, out)
    assert found["fuse_hard_sigmoid"] == 1
    assert left == {"Conv": 2, "HardSigmoid": 1, "Mul": 1}


def test_a_clip_to_another_range_or_taken_twice_stays(rewritten: Made) -> None:
    builder = Builder()
    a = builder.conv("x")
    raised = builder.add("Add", a, builder.constant([3.0]))
    clipped = builder.add("Clip", raised, builder.constant(0.0), builder.constant(6.0))
    halved = builder.add("Div", clipped, builder.constant([5.0]))  # five is not six
    out = builder.add("Mul", builder.add("Mul", a, clipped), halved)
    found, left = rewritten(builder, out)
    assert found["fuse_hard_sigmoid"] == 0
    assert left["Clip"] == 1


@pytest.mark.parametrize("value", [[1.5], np.linspace(0.5, 2, CHANNELS).reshape(1, CHANNELS, 1, 1)])
def test_factors_and_shifts_behind_a_convolution_go_into_it(rewritten: Made, value: Any) -> None:
    builder = Builder()
    scaled = builder.add("Mul", builder.constant(value), builder.conv("x", 3))
    moved = builder.add("Sub", builder.add("Add", scaled, builder.constant([0.3])),
                        builder.constant(value))  # fmt: skip
    found, left = rewritten(builder, builder.add("Div", moved, builder.constant([4.0])))
    assert found["fold_affine"] == 1
    assert left == {"Conv": 1}


@pytest.mark.parametrize("group", [1, 4, CHANNELS])
def test_in_front_of_a_convolution_without_a_border_too(rewritten: Made, group: int) -> None:
    builder = Builder()
    values = np.linspace(-1, 2, CHANNELS).reshape(CHANNELS, 1, 1)
    scaled = builder.add("Mul", builder.add("Relu", "x"), builder.constant(values))
    moved = builder.add("Add", scaled, builder.constant(values[::-1]))
    found, left = rewritten(builder, builder.conv(moved, 3, group, pads=[0] * 4))
    assert found["fold_affine"] == 1
    assert left == {"Relu": 1, "Conv": 1}


def test_in_front_of_a_border_a_shift_stays_one_operator(rewritten: Made) -> None:
    """What padding adds is zero behind the shift: folded in, it would be shifted with the rest."""
    builder = Builder()
    scaled = builder.add("Mul", builder.add("Relu", "x"), builder.constant([0.5]))
    moved = builder.add("Add", scaled, builder.constant([0.7]))
    found, left = rewritten(builder, builder.conv(moved, 3))
    assert found["fold_affine"] == 1
    assert left == {"Relu": 1, "BatchNormalization": 1, "Conv": 1}


def test_a_factor_that_something_else_takes_is_kept(rewritten: Made) -> None:
    builder = Builder()
    scaled = builder.add("Mul", builder.conv("x"), builder.constant([0.5]))
    out = builder.add("Add", builder.conv(builder.add("Relu", scaled)), scaled)
    _, left = rewritten(builder, out)
    assert left == {"Conv": 2, "Relu": 1, "Add": 1}


def test_a_shortcut_around_a_gate_goes_into_the_gate(rewritten: Made) -> None:
    builder = Builder()
    a = builder.conv("x")
    gate = builder.add("Sigmoid", builder.conv(builder.add("GlobalAveragePool", a)))
    out = builder.conv(builder.add("Add", a, builder.add("Mul", a, gate)))
    found, left = rewritten(builder, out)
    assert found["merge_gate"] == 1
    assert left["Mul"] == 1


def test_a_gelu_is_put_together_in_any_order(rewritten: Made, tmp_path: Path) -> None:
    builder = Builder()
    x = builder.add("Relu", "x")
    cube = builder.add(
        "Mul", x, builder.add("Mul", x, builder.add("Mul", builder.constant(0.044715), x))
    )
    inner = builder.add("Mul", builder.constant(0.79788458), builder.add("Add", x, cube))
    plus_one = builder.add("Add", builder.constant(1.0), builder.add("Tanh", inner))
    half = builder.add("Mul", builder.constant(0.5), plus_one)
    found, left = rewritten(builder, builder.add("Mul", x, half))
    assert found["fuse_gelu"] == 1
    assert left == {"Relu": 1, "FastGelu": 1}


@pytest.mark.parametrize("first", [0, 5])
def test_a_product_with_one_hot_rows_takes_rows(rewritten: Made, first: int) -> None:
    builder = Builder()
    classes = builder.constant(np.arange(first, first + 9).reshape(1, 9), np.int32)
    one_hot = builder.add("Cast", builder.add("Equal", "x", classes), to=TensorProto.FLOAT)
    table = builder.constant(np.random.default_rng(2).normal(size=(9, 4)))
    rows = builder.add("MatMul", one_hot, table)
    out = builder.add("Tanh", builder.add("Add", rows, builder.constant([[[0.1, 0.2, 0.3, 0.4]]])))
    # Also what is out of range, as far out as the type goes: its rows are zero.
    limits = np.iinfo(np.int32)
    values = np.array([*range(-3, 17), limits.min, limits.max], np.int32)
    found, left = rewritten(builder, out, [2, 11, 1], values.reshape(2, 11, 1))
    assert (found["one_hot_to_gather"], found["sink_gathers"]) == (1, 2)
    assert left["Gather"] == 1
    assert "MatMul" not in left


@pytest.mark.parametrize(("width", "found"), [(1, 1), (5, 0)])
def test_an_index_that_is_expanded_by_its_own_batch(
    rewritten: Made, width: int, found: int
) -> None:
    """Five columns would be five comparisons with five classes, not one of each."""
    builder = Builder()
    batch = builder.add("Shape", "x", start=0, end=1)
    sizes = builder.add("Concat", batch, builder.constant([3, width], np.int64), axis=0)
    index = builder.add("Expand", "x", sizes)
    classes = builder.constant(np.arange(5).reshape(1, 1, 5), np.int32)
    one_hot = builder.add("Cast", builder.add("Equal", index, classes), to=TensorProto.FLOAT)
    table = builder.constant(np.random.default_rng(2).normal(size=(5, 4)))
    out = builder.add("MatMul", one_hot, table)
    given = np.arange(-3, 3, dtype=np.int32).reshape(2, 3, 1)
    assert rewritten(builder, out, ["n", 3, 1], given)[0]["one_hot_to_gather"] == found


def test_a_table_with_an_infinite_value_stays_a_product(rewritten: Made) -> None:
    builder = Builder()
    classes = builder.constant(np.arange(3).reshape(1, 3), np.int32)
    one_hot = builder.add("Cast", builder.add("Equal", "x", classes), to=TensorProto.FLOAT)
    out = builder.add("MatMul", one_hot, builder.constant([[1.0], [np.inf], [2.0]]))
    found, _ = rewritten(builder, out, [4, 1], np.array([[0], [1], [2], [3]], np.int32))
    assert found["one_hot_to_gather"] == 0


def test_an_older_operator_set_is_left_as_it_is_where_it_lacks_a_form(rewritten: Made) -> None:
    builder = Builder()
    classes = builder.constant(np.arange(3).reshape(1, 3), np.int32)
    one_hot = builder.add("Cast", builder.add("Equal", "x", classes), to=TensorProto.FLOAT)
    out = builder.add("MatMul", one_hot, builder.constant([[1.0], [3.0], [2.0]]))
    given = np.array([[0], [1], [2], [3]], np.int32)
    assert rewritten(builder, out, [4, 1], given, 11)[0]["one_hot_to_gather"] == 0


def test_a_rewritten_model_can_be_quantised(rewritten: Made, tmp_path: Path) -> None:
    builder = Builder()
    scaled = builder.add("Mul", builder.hard_swish(builder.conv("x")), builder.constant([0.5]))
    moved = builder.add("Add", scaled, builder.constant([0.7]))
    out = builder.conv(builder.add("Relu", builder.conv(moved, 3, CHANNELS)))
    _, left = rewritten(builder, out)
    assert left["BatchNormalization"] == 1
    complete_types(tmp_path / "rewritten.onnx", tmp_path / "typed.onnx")
    samples = Samples({"x": np.random.default_rng(1).normal(size=IMAGE).astype(np.float32)})
    leave = normalizations(tmp_path / "typed.onnx")
    quantizer = StaticQuantizer(
        tmp_path / "typed.onnx", samples, 2, scheme_for("X86_64", True), tmp_path, leave=leave
    )
    quantizer.quantize(tmp_path / "integers.onnx")
    nodes = weights.skeleton(tmp_path / "integers.onnx").graph.node
    behind = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 3
    assert all(node.input[0] in behind for node in convolutions)


@pytest.fixture
def hard_swish_model(tmp_path: Path) -> Path:
    builder = Builder()
    out = builder.conv(builder.hard_swish(builder.conv("x", 3)), 3, CHANNELS)
    tensor = (TensorProto.FLOAT, IMAGE)
    path = tmp_path / "model" / "model.onnx"
    return save_graph(path, builder.nodes, {"x": tensor}, {out: tensor}, builder.constants)


def test_a_compiled_model_is_rewritten(
    hard_swish_model: Path,
    compiled: Callable[..., tuple[Manifest, Path]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        manifest, _ = compiled(hard_swish_model, f'{{"x": {IMAGE}}}')
    assert "'fuse_hard_sigmoid': 1" in caplog.text
    fp32 = next(each for each in manifest.candidates if each.name == "fp32")
    assert (fp32.snr_db or 200) > 80
    assert fp32.throughput


def test_a_pass_that_answers_otherwise_is_left_out(
    hard_swish_model: Path,
    compiled: Callable[..., tuple[Manifest, Path]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(graph: Graph) -> int:
        add = next(node for node in graph.nodes if graph.is_a(node, "Mul"))
        graph.remove(add)
        graph.add_node("Sub", list(add.input), add.output[0])
        return 1

    passes = (broken, fuse_hard_sigmoid)
    monkeypatch.setattr("model_delivery_engine.compile.candidates.PASSES", passes)
    monkeypatch.setattr(rewrite, "__defaults__", (passes,))
    with caplog.at_level(logging.INFO):
        manifest, _ = compiled(hard_swish_model, f'{{"x": {IMAGE}}}')
    assert "rewritten: {'fuse_hard_sigmoid': 1}" in caplog.text
    fp32 = next(each for each in manifest.candidates if each.name == "fp32")
    assert (fp32.snr_db or 200) > 80
