"""An input that is a mode has its value fixed, and is a constant of what is compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.errors import DataInputError, OptionsError
from model_delivery_engine.fixed_inputs import fixed_arrays
from model_delivery_engine.graph import prepare_graph
from model_delivery_engine.manifest import Manifest
from model_delivery_engine.runtime import Model, check_golden, open_session, session_options
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import TensorSpec
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph

Pack = Callable[[Path], Path]
CONFIG = '{"x": [-1, 8], "sr": []}'


def save_modes(path: Path) -> Path:
    """Write a model that is `x * 16` at a rate of 16000, and else takes rows of 4 alone."""
    node, info = helper.make_node, helper.make_tensor_value_info
    shape = helper.make_tensor("shape4", TensorProto.INT64, [2], [1, 4])
    wide = helper.make_graph(
        [node("Mul", ["x", "sixteen"], ["wide"])],
        "wide", [], [info("wide", TensorProto.FLOAT, None)],
    )  # fmt: skip
    narrow = helper.make_graph(
        [node("Constant", [], ["s"], value=shape), node("Reshape", ["x", "s"], ["narrow"])],
        "narrow", [], [info("narrow", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return save_graph(
        path,
        [
            node("Equal", ["sr", "rate"], ["is_wide"]),
            node("If", ["is_wide"], ["y"], then_branch=wide, else_branch=narrow),
        ],
        {"x": (TensorProto.FLOAT, ["batch", "size"]), "sr": (TensorProto.INT64, [])},
        {"y": (TensorProto.FLOAT, ["rows", "columns"])},
        {"rate": np.array(16000), "sixteen": np.array(16.0, np.float32)},
    )


def compiled_with(
    tmp_path: Path, pack: Pack, target: Target, options: str | None, config: str | None = CONFIG
) -> Manifest:
    archive = pack(save_modes(tmp_path / "modes" / "model.onnx"))
    request = CompilationRequest("ONNX", config, target, "m", "s3://b/m.tar.gz", options)
    return compile_model(archive, tmp_path / "bundle.tar.gz", request)


def test_a_mode_is_fixed_and_told(tmp_path: Path, pack: Pack, target: Target) -> None:
    manifest = compiled_with(tmp_path, pack, target, '{"values": {"sr": 16000}}')

    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    model = Model.load(bundle)
    check_golden(model, bundle)
    assert bundle.manifest.fixed_inputs == manifest.fixed_inputs == {"sr": 16000}
    assert [spec.name for spec in manifest.inputs] == ["x"]
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_allclose(model.run({"x": rows})["y"], rows * 16)


def test_a_model_that_runs_in_one_mode_alone_says_how_to_fix_it(
    tmp_path: Path, pack: Pack, target: Target
) -> None:
    with pytest.raises(DataInputError, match=r"'sr' is a mode .* \{\"values\": \{\"sr\": …\}\}"):
        compiled_with(tmp_path, pack, target, None)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ('{"rate": 1}', "'rate', which is no input of the model; they are x, sr"),
        ('{"sr": 1.5}', "gives 'sr' 1.5; it takes INT64 of shape"),
        ('{"sr": "16000"}', "it takes INT64"),
        ('{"sr": true}', "it takes INT64"),
        ('{"sr": null}', "it takes INT64"),
        ('{"sr": [1, 2]}', "it takes INT64"),
        ('{"sr": 1e400}', "it takes INT64"),
        ('{"x": 1.0}', "whose batch is open"),
        ('{"x": [[1, 2, 3]]}', "'x' .* it takes FP32 of shape"),
        ('{"x": [[1, 2, 3, 4, 5, 6, 7, 8]], "sr": 1}', "fixes every input"),
        ("{}", "give an object of values"),
        ("16000", "give an object of values"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, pack: Pack, target: Target, values: str, says: str
) -> None:
    with pytest.raises(OptionsError, match=says):
        compiled_with(tmp_path, pack, target, f'{{"values": {values}}}')


def test_a_number_fills_an_input() -> None:
    specs = [TensorSpec("x", "FP32", (2, 3)), TensorSpec("rest", "FP32", (1,))]

    np.testing.assert_array_equal(fixed_arrays({"x": 2}, specs)["x"], np.full((2, 3), 2.0))


def test_branches_inside_of_branches_are_taken_and_keep_their_names_apart(tmp_path: Path) -> None:
    """Two that call their tensors alike, each with one inside that the other's input decides."""
    node, info = helper.make_node, helper.make_tensor_value_info

    def graph(nodes: list[Any], output: str) -> Any:
        return helper.make_graph(nodes, output, [], [info(output, TensorProto.FLOAT, None)])

    def branch(factor: str, x: str, y: str, condition: str) -> Any:
        inner = [graph([node("Mul", ["h", each], ["i"])], "i") for each in (factor, "one")]
        then = graph(
            [
                node("Add", [x, "one"], ["h"]),
                node("If", [condition], ["o"], then_branch=inner[0], else_branch=inner[1]),
            ],
            "o",
        )
        other = graph([node("Identity", [x], ["o"])], "o")
        return node("If", ["fixed"], [y], then_branch=then, else_branch=other)

    path = save_graph(
        tmp_path / "m.onnx",
        [
            node("Equal", ["sr", "rate"], ["fixed"]),
            node("ReduceSum", ["x"], ["sum"], keepdims=0),
            node("Greater", ["sum", "one"], ["asked"]),
            branch("two", "x", "y", "asked"),
            branch("three", "y", "z", "fixed"),
        ],
        {"x": (TensorProto.FLOAT, [2]), "sr": (TensorProto.INT64, [])},
        {"z": (TensorProto.FLOAT, [2])},
        {"rate": np.array(8000), **{n: np.array(v, np.float32) for n, v in NUMBERS.items()}},
    )
    prepare_graph(path, {"x": (2,), "sr": ()}, tmp_path / "s.onnx", {"sr": 8000})

    left = [each.op_type for each in onnx.load(tmp_path / "s.onnx").graph.node]
    assert left.count("If") == 1  # whose condition is asked
    model = Model(open_session(tmp_path / "s.onnx", session_options()), "m")
    for x in (np.float32([1, 2]), np.float32([-1, -2])):
        want = ((x + 1) * (2 if x.sum() > 1 else 1) + 1) * 3
        np.testing.assert_allclose(model.run({"x": x})["z"], want)


NUMBERS = {"one": 1.0, "two": 2.0, "three": 3.0}
