"""Weights beside a model: those of branches and loop bodies too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine import weights
from model_delivery_engine.graph import load_graph
from model_delivery_engine.optimise import optimise
from model_delivery_engine.runtime import Model, open_session, session_options
from onnx import TensorProto, helper, numpy_helper

from tests.unit.engine.conftest import save_graph

SIZE = 40  # 40 x 40 floats are 6,400 bytes: beyond what stays in the graph
FLOAT = TensorProto.FLOAT


def _square(name: str, seed: int) -> Any:
    array = np.random.default_rng(seed).normal(size=(SIZE, SIZE)).astype(np.float32)
    return numpy_helper.from_array(array / SIZE, name)


def _branch(name: str, seed: int, *, constant: bool) -> Any:
    weight = _square(f"{name}:w", seed)
    nodes = [helper.make_node("MatMul", ["x", weight.name], [f"{name}:y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    out = helper.make_tensor_value_info(f"{name}:y", FLOAT, ["n", SIZE])
    return helper.make_graph(nodes, name, [], [out], [] if constant else [weight])


def with_branches(path: Path, seed: int, *, constant: bool = False) -> Path:
    """Write a model that multiplies by one weight or by another one, and by a third."""
    choice = helper.make_node(
        "If", ["positive"], ["z"],
        then_branch=_branch("a", seed, constant=constant),
        else_branch=_branch("b", seed + 1, constant=constant),
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"]),
        choice,
        helper.make_node("MatMul", ["z", "outer"], ["y"]),
    ]
    constants = {
        "zero": np.float32(0.5),
        "outer": numpy_helper.to_array(_square("outer", 9)),
    }
    tensor = (FLOAT, ["n", SIZE])
    return save_graph(path, nodes, {"x": tensor}, {"y": tensor}, constants)


def with_loop(path: Path, seed: int) -> Path:
    """Write a model that multiplies by a weight three times."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "w"], ["next"]),
            helper.make_node("Identity", ["on"], ["still"]),
        ],
        "body",
        [info("step", TensorProto.INT64, []), info("on", TensorProto.BOOL, []),
         info("carried", FLOAT, ["n", SIZE])],
        [info("still", TensorProto.BOOL, []), info("next", FLOAT, ["n", SIZE])],
        [_square("w", seed)],
    )  # fmt: skip
    node = helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)
    tensor = (FLOAT, ["n", SIZE])
    return save_graph(path, [node], {"x": tensor}, {"y": tensor}, {"times": np.array(3)})


MODELS = {
    "branches": with_branches,
    "constants in branches": lambda path, seed: with_branches(path, seed, constant=True),
    "loop": with_loop,
}


@pytest.fixture(params=MODELS)
def made(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]


def _answers(path: Path) -> list[Any]:
    model = Model(open_session(path, session_options(1)), path.stem)
    rows = np.random.default_rng(1).normal(size=(2, SIZE)).astype(np.float32)
    return [model.run({"x": sign * np.abs(rows)})["y"] for sign in (1, -1)]


def test_an_embedded_model_needs_nothing_beside_it(made: Any, tmp_path: Path) -> None:
    source = made(tmp_path / "model.onnx", 0)
    optimised = tmp_path / "candidate" / "model.onnx"
    optimised.parent.mkdir()
    optimise(source, optimised, "portable")
    alone = tmp_path / "elsewhere" / "model.onnx"
    alone.parent.mkdir()
    weights.embed(optimised, alone)
    for found, expected in zip(_answers(alone), _answers(source), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_its_size_and_its_digest_are_of_all_weights(made: Any, tmp_path: Path) -> None:
    found = []
    for seed in (0, 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        optimise(made(folder / "source.onnx", seed), folder / "model.onnx", "portable")
        assert weights.size_of(folder / "model.onnx") > 4 * SIZE * SIZE
        found.append(weights.digest(folder / "model.onnx"))
    assert found[0] != found[1]


def test_a_body_whose_weights_lie_beside_the_model_is_read(made: Any, tmp_path: Path) -> None:
    made(tmp_path / "source.onnx", 0)
    optimised = tmp_path / "model.onnx"
    optimise(tmp_path / "source.onnx", optimised, "portable")
    assert list(weights.files_of(optimised))
    load_graph(optimised)
