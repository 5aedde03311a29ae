"""Branches that a model always takes are put in their place, and names stay apart."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.branches import take_branches
from model_delivery_engine.graph import prepare_graph
from model_delivery_engine.runtime import Model, open_session, session_options
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph

node, info = helper.make_node, helper.make_tensor_value_info
TRUE = {"yes": np.array(True), "no": np.array(False), "one": np.array(1.0, np.float32)}


def graph(nodes: list[Any], output: str, weights: dict[str, float] | None = None) -> Any:
    made = [
        onnx.numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (weights or {}).items()
    ]
    outputs = [info(output, TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, output, [], outputs, made)


def choose(condition: str, then: Any, other: Any, output: str) -> Any:
    return node("If", [condition], [output], then_branch=then, else_branch=other)


def answered(tmp_path: Path, nodes: list[Any], output: str) -> tuple[Any, list[str]]:
    """Prepare a model of `x`, and return what it answers to 1 and 2, and its operators."""
    path = save_graph(
        tmp_path / "m.onnx", nodes, {"x": (TensorProto.FLOAT, [2])},
        {output: (TensorProto.FLOAT, [2])}, TRUE,
    )  # fmt: skip
    prepared = tmp_path / "s.onnx"
    prepare_graph(path, {"x": (2,)}, prepared)
    onnx.checker.check_model(prepared, full_check=True)
    model = Model(open_session(prepared, session_options()), "m")
    left = [each.op_type for each in onnx.load(prepared).graph.node]
    return model.run({"x": np.float32([1, 2])})[output].tolist(), left


@pytest.mark.parametrize(("condition", "want"), [("yes", [2.0, 3.0]), ("no", [1.0, 2.0])])
def test_a_constant_condition_leaves_one_branch(
    condition: str, want: list[float], tmp_path: Path
) -> None:
    """Also where no input is fixed: ONNX Runtime ends the process over some of them."""
    then, other = (
        graph([choose(condition, graph([each], "i"), graph([each], "i"), "o")], "o")
        for each in (node("Add", ["x", "one"], ["i"]), node("Identity", ["x"], ["i"]))
    )
    found, left = answered(tmp_path, [choose(condition, then, other, "y")], "y")
    assert found == want
    assert "If" not in left


def test_a_name_that_another_branch_has_is_not_taken(tmp_path: Path) -> None:
    """`h` and `w` are the taken branch's and the other's whose condition is asked."""
    asked = graph([node("Mul", ["t", "w"], ["h"])], "h", {"w": 5.0})
    other = graph([node("Identity", ["t"], ["h"])], "h")
    taken = graph([node("Mul", ["x", "w"], ["h"])], "h", {"w": 3.0})
    nodes = [
        choose("yes", taken, graph([node("Identity", ["x"], ["h"])], "h"), "t"),
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "one"], ["asked"]),
        choose("asked", asked, other, "y"),
    ]
    found, left = answered(tmp_path, nodes, "y")
    assert found == [15.0, 30.0]
    assert left.count("If") == 1


def test_a_name_that_a_loop_has_is_not_taken(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            node("Add", ["h", "one"], ["grown"]),
            node("Identity", ["on"], ["still"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("on", TensorProto.BOOL, []),
         info("h", TensorProto.FLOAT, None)],
        [info("still", TensorProto.BOOL, []), info("grown", TensorProto.FLOAT, None)],
    )  # fmt: skip
    taken = graph(
        [node("Mul", ["x", "grown"], ["i"]), node("Add", ["i", "one"], ["h"])],
        "h",
        {"grown": 2.0},
    )
    turns = helper.make_tensor("turns", TensorProto.INT64, [], [4])
    nodes = [
        choose("yes", taken, graph([node("Identity", ["x"], ["h"])], "h"), "t"),
        node("Constant", [], ["n"], value=turns),
        node("Loop", ["n", "yes", "t"], ["y"], body=body),
    ]
    found, left = answered(tmp_path, nodes, "y")
    assert found == [7.0, 9.0]
    assert "If" not in left


def test_a_new_name_is_nobodys_either(tmp_path: Path) -> None:
    """What the branch's `h` would be called is taken, too."""
    taken = graph([node("Mul", ["x", "w"], ["h"])], "h", {"w": 3.0})
    nodes = [
        node("Add", ["x", "one"], ["h"]),
        node("Add", ["h", "one"], ["t/h"]),
        choose("yes", taken, graph([node("Identity", ["x"], ["h"])], "h"), "t"),
        node("Sum", ["t", "h", "t/h"], ["y"]),
    ]
    found, _ = answered(tmp_path, nodes, "y")
    assert found == [8.0, 13.0]


@pytest.mark.parametrize(("condition", "want"), [("yes", [2.0, 3.0]), ("no", [1.0, 2.0])])
def test_a_constant_condition_in_a_branch_that_may_be_taken(
    condition: str, want: list[float], tmp_path: Path
) -> None:
    """The branches reuse names of the one beside them, which are other tensors."""
    inner = choose(
        condition,
        graph([node("Add", ["x", "one"], ["a"])], "a"),
        graph([node("Identity", ["x"], ["a"])], "a"),
        "i",
    )
    asked = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "one"], ["may"]),
        choose("may", graph([inner], "i"), graph([node("Neg", ["x"], ["a"])], "a"), "y"),
    ]
    found, left = answered(tmp_path, asked, "y")
    assert found == want
    assert left.count("If") == 1
    kept = next(each for each in onnx.load(tmp_path / "s.onnx").graph.node if each.op_type == "If")
    held = [each.op_type for attribute in kept.attribute for each in attribute.g.node]
    assert "If" not in held


def test_a_constant_condition_in_a_loop(tmp_path: Path) -> None:
    """It is taken there too; one that the loop passes to its body is not known."""
    name = "go"
    body = helper.make_graph(
        [
            node("Identity", [name], ["on"]),
            choose("yes", graph([node("Add", ["v", "one"], ["a"])], "a"),
                   graph([node("Identity", ["v"], ["a"])], "a"), "w"),
        ],
        "body",
        [info("n", TensorProto.INT64, []), info(name, TensorProto.BOOL, []),
         info("v", TensorProto.FLOAT, [2])],
        [info("on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    times = onnx.numpy_helper.from_array(np.array(3, np.int64), "value")
    nodes = [
        node("Constant", [], ["times"], value=times),
        node("Loop", ["times", "yes", "x"], ["y"], body=body),
    ]
    found, left = answered(tmp_path, nodes, "y")
    assert found == [4.0, 5.0]
    assert "Loop" in left
    loop = next(n for n in onnx.load(tmp_path / "s.onnx").graph.node if n.op_type == "Loop")
    assert "If" not in [each.op_type for each in loop.attribute[0].g.node]


def test_a_new_name_is_none_of_a_graph_inside(tmp_path: Path) -> None:
    """`a` stands around the branch already, and a branch inside of it has the name to go to."""
    inner = choose(
        "may",
        graph([node("Neg", ["a"], ["y/a"]), node("Add", ["y/a", "a"], ["o"])], "o"),
        graph([node("Identity", ["a"], ["o"])], "o"),
        "i",
    )
    taken = graph([node("Add", ["x", "one"], ["a"]), inner], "i")
    asked = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "one"], ["may"]),
        choose(
            "may",
            graph([node("Neg", ["x"], ["a"])], "a"),
            graph([node("Neg", ["x"], ["a"])], "a"),
            "z",
        ),
        choose("yes", taken, graph([node("Identity", ["x"], ["b"])], "b"), "y"),
    ]
    assert answered(tmp_path, asked, "y")[0] == [0.0, 0.0]


def broken(**changes: Any) -> Any:
    """Return an operator If that lacks something."""
    then, other = (graph([node("Identity", ["one"], ["o"])], "o") for _ in range(2))
    given = {"then_branch": then, "else_branch": other, **changes}
    inputs = given.pop("inputs", ["yes"])
    outputs = given.pop("outputs", ["y"])
    return node("If", inputs, outputs, **{k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"then_branch": None},
        {"else_branch": None},
        {"inputs": []},
        {"inputs": ["yes", "no"]},
        {"outputs": ["y", "z"]},
        {"inputs": ["several"]},
        {"inputs": ["none"]},
    ],
)
def test_what_is_no_whole_branch_is_left_to_be_refused(changes: dict[str, Any]) -> None:
    values = {**TRUE, "several": np.array([True, False]), "none": np.zeros(0, bool)}
    constants = [onnx.numpy_helper.from_array(np.array(v), k) for k, v in values.items()]
    held = helper.make_graph(
        [broken(**changes)], "g", [], [info("y", TensorProto.FLOAT, None)], constants
    )
    model = helper.make_model(held, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    take_branches(model)
    assert [each.op_type for each in model.graph.node] == ["If"]
