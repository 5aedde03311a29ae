"""Numbers that are none, wherever a model hides them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.errors import CompilationError, Reason
from model_delivery_engine.soundness import refuse_unsound
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
value = helper.make_tensor_value_info


def model_of(
    nodes: list[Any],
    constants: dict[str, Any] | None = None,
    functions: list[Any] | None = None,
    **outputs: list[Any],
) -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", FLOAT, ["n", 4]), value("go", TensorProto.BOOL, [])],
        [value(name, FLOAT, shape) for name, shape in (outputs or {"y": ["n", 4]}).items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    imports = [
        helper.make_opsetid(*each)
        for each in (("", 18), ("ai.onnx.ml", 5), ("own", 1), ("com.microsoft", 1))
    ]
    return helper.make_model(graph, opset_imports=imports, functions=functions or [])


def bad(number: float, shape: tuple[int, ...] = (4, 4)) -> Any:
    array = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    array.flat[-1] = number
    return array


def constant(number: float, name: str = "w", shape: tuple[int, ...] = (4, 4)) -> Any:
    tensor = numpy_helper.from_array(bad(number, shape))
    return helper.make_node("Constant", [], [name], value=tensor)


def classic(operator: str, **attributes: Any) -> Any:
    return model_of([helper.make_node(operator, ["x"], ["y"], "one", None, "ai.onnx.ml",
                                      **attributes)])  # fmt: skip


def trees(number: float) -> Any:
    floats = {name: numpy_helper.from_array(np.array(values, np.float32)) for name, values in {
        "nodes_splits": [0.5], "leaf_weights": [1.0, number]}.items()}  # fmt: skip
    modes = numpy_helper.from_array(np.array([0], np.uint8))
    return classic(
        "TreeEnsemble", tree_roots=[0], nodes_featureids=[0], nodes_modes=modes, n_targets=1,
        nodes_truenodeids=[0], nodes_trueleafs=[1], nodes_falsenodeids=[1], nodes_falseleafs=[1],
        leaf_targetids=[0, 0], **floats,
    )  # fmt: skip


def branched(number: float) -> Any:
    def branch(name: str, weight: float) -> Any:
        product = helper.make_node("MatMul", ["x", f"w_{name}"], [f"y_{name}"])
        nodes = [constant(weight, f"w_{name}"), product]
        return helper.make_graph(nodes, name, [], [value(f"y_{name}", FLOAT, ["n", 4])])

    branches = {"then_branch": branch("a", 1.0), "else_branch": branch("b", number)}
    return model_of([helper.make_node("If", ["go"], ["y"], **branches)])


def called(number: float, inside: bool) -> Any:
    """Put the weight into a function's body, or pass it in through another function."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["a", "t"],
                                                                          ["b"])]  # fmt: skip
    given = ["a"] if inside else ["a", "w"]
    product = helper.make_function("own", "Product", given, ["b"],
                                   [constant(number), *body] if inside else body,
                                   imports)  # fmt: skip
    call = helper.make_node("Product", given, ["b"], domain="own")
    outer = helper.make_function("own", "Outer", given, ["b"], [call], imports)
    node = helper.make_node("Outer", ["x"] if inside else ["x", "w"], ["y"], domain="own")
    return model_of([node], {} if inside else {"w": bad(number)}, [product, outer])


def looped(number: float) -> Any:
    """Take the weight as what a loop carries along."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", "held"], ["v_out"]),
            helper.make_node("Identity", ["held"], ["held_out"]),
            helper.make_node("Identity", ["on"], ["on_out"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, []),
         value("v", FLOAT, ["n", 4]), value("held", FLOAT, [4, 4])],
        [value("on_out", TensorProto.BOOL, []), value("v_out", FLOAT, ["n", 4]),
         value("held_out", FLOAT, [4, 4])],
    )  # fmt: skip
    node = helper.make_node("Loop", ["times", "", "x", "w"], ["y", "last"], body=body)
    return model_of([node], {"times": np.int64(2), "w": bad(number)})


def shaped(number: float) -> Any:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Identity", ["t"], ["u"]),
        helper.make_node("MatMul", ["x", "u"], ["y"]),
    ]
    return model_of(nodes, {"w": bad(number)})


def product(number: float) -> Any:
    return model_of([helper.make_node("Mul", ["x", "w"], ["y"])], {"w": bad(number, (4,))})


def brain(number: float) -> Any:
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.0, number])
    model = model_of([helper.make_node("Cast", ["w"], ["c"], to=FLOAT),
                      helper.make_node("Mul", ["x", "c"], ["y"])])  # fmt: skip
    model.graph.initializer.append(tensor)
    return model


def few_floats(number: float) -> Any:
    nodes = [
        helper.make_node("Constant", [], ["w"], value_floats=[1.0, number, 2.0, 3.0]),
        helper.make_node("Mul", ["x", "w"], ["y"]),
    ]
    return model_of(nodes)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: classic("LinearClassifier", coefficients=[0.1, n], classlabels_ints=[0, 1]),
        lambda n: classic("LinearRegressor", coefficients=[0.1, 1.0], intercepts=[n]),
        lambda n: classic("Scaler", offset=[0.0], scale=[n]),
        lambda n: classic("SVMRegressor", coefficients=[1.0], support_vectors=[n], rho=[0.0]),
        lambda n: model_of([helper.make_node("Gemm", ["x", "x"], ["y"], alpha=n)]),
        trees, branched, shaped, product, brain, few_floats, looped,
        lambda n: called(n, inside=True), lambda n: called(n, inside=False),
    ],
    ids=["linear", "intercept", "scaler", "vectors", "gemm", "trees", "branch", "transposed",
         "product", "bfloat16", "floats", "loop", "function", "function's input"],
)  # fmt: skip
def test_numbers_that_are_none_are_found(make: Callable[[float], Any], number: float) -> None:
    refuse_unsound(make(0.5), "m.onnx")
    with pytest.raises(CompilationError, match=r"has (NaN|infinite) values") as caught:
        refuse_unsound(make(number), "m.onnx")
    assert caught.value.reason is Reason.WEIGHTS_NOT_FINITE


def sparse(number: float) -> Any:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])])
    values = numpy_helper.from_array(np.array([number], np.float32), "w")
    places = numpy_helper.from_array(np.array([3], np.int64), "w_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 4]))
    return model


def test_sparse_weights_are_looked_at() -> None:
    refuse_unsound(sparse(0.5), "m.onnx")
    with pytest.raises(CompilationError, match="weight 'w' has NaN values"):
        refuse_unsound(sparse(np.nan), "m.onnx")


@pytest.mark.parametrize(
    "model",
    [
        classic("Imputer", imputed_value_floats=[0.0], replaced_value_float=float("nan")),
        classic("LabelEncoder", keys_floats=[1.0, float("nan")], values_floats=[0.0, 1.0]),
        model_of([constant(-np.inf, shape=(4,)), helper.make_node("Add", ["x", "w"], ["y"])]),
        model_of([helper.make_node("Where", ["go", "w", "x"], ["y"])], {"w": np.float32("nan")}),
        model_of([helper.make_node("Clip", ["x", "", "w"], ["y"])], {"w": np.float32("inf")}),
    ],
    ids=["imputer", "encoder", "mask", "filler", "bound"],
)  # fmt: skip
def test_names_masks_and_bounds_are_no_weights(model: Any) -> None:
    refuse_unsound(model, "m.onnx")


def test_functions_that_call_each_other_twice_are_looked_at_once() -> None:
    """Thirty of them would otherwise be a thousand million calls."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for number in range(30):
        calls = [
            helper.make_node(f"F{number + 1}", ["w"], [name], domain="own") for name in ("a", "b")
        ]
        last = helper.make_node("Add", ["a", "b"], ["c"])
        functions.append(helper.make_function("own", f"F{number}", ["w"], ["c"], [*calls, last],
                                              imports))  # fmt: skip
    node = helper.make_node("F0", ["w"], ["y"], domain="own")
    refuse_unsound(model_of([node], {"w": bad(np.inf)}, functions), "m.onnx")


def test_a_dropout_that_drops_in_a_branch_is_found() -> None:
    def branch(name: str) -> Any:
        nodes = [
            helper.make_node("Constant", [], [f"on_{name}"],
                             value=numpy_helper.from_array(np.array(True))),
            helper.make_node("Dropout", ["x", "", f"on_{name}"], [f"y_{name}"]),
        ]  # fmt: skip
        return helper.make_graph(nodes, name, [], [value(f"y_{name}", FLOAT, ["n", 4])])

    node = helper.make_node("If", ["go"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    with pytest.raises(CompilationError, match="draws random numbers"):
        refuse_unsound(model_of([node]), "m.onnx")


def test_a_file_with_it_is_read_so(tmp_path: Path) -> None:
    onnx.save(branched(np.nan), tmp_path / "m.onnx")
    with pytest.raises(CompilationError, match="weight 'w_b' has NaN values"):
        refuse_unsound(onnx.load(tmp_path / "m.onnx"), "m.onnx")
