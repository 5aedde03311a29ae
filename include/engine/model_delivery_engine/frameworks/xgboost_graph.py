"""A booster as ONNX: its trees (or weights) sum to margins, its objective turns those to answers.

Read from XGBoost's own JSON model, so that every booster (gbtree, dart, gblinear) and every
objective that has a form in ONNX is carried over the same way.
"""

import json
from typing import Any

import numpy as np

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.frameworks.conversion import OPSET

_ML_OPSET = 3
_IR_VERSION = 10
_CLASSES = ("multi:softprob", "multi:softmax")
# What an objective does to the margin; ranking and regression leave it as it is.
_LINKS = {
    "binary:hinge": "step", "binary:logistic": "sigmoid", "binary:logitraw": None,
    "count:poisson": "exp", "rank:map": None, "rank:ndcg": None, "rank:pairwise": None,
    "reg:absoluteerror": None, "reg:gamma": "exp", "reg:linear": None, "reg:logistic": "sigmoid",
    "reg:expectileerror": None, "reg:pseudohubererror": None, "reg:quantileerror": None,
    "reg:squarederror": None, "reg:squaredlogerror": None, "reg:tweedie": "exp",
    "survival:aft": "exp", "survival:cox": "exp",
}  # fmt: skip


def booster_to_onnx(booster: Any, name: str, batch: int | None) -> Any:
    """Return an ``onnx.ModelProto``.

    :param booster: an ``xgboost.Booster``
    :param name: of the input, FLOAT [batch, features]; NaN is a missing value
    :param batch: rows in a run, None for any number
    :returns: outputs ``label`` and ``probabilities`` of a classifier, else ``variable``
    :raises ConversionError: categorical splits, an objective or a booster without a form in ONNX
    """
    import xgboost
    from onnx import TensorProto, helper

    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    if objective not in (*_CLASSES, *_LINKS):
        raise ConversionError(
            f"XGBoost objective {objective!r} has no ONNX form here; train with one of "
            f"{', '.join(sorted({*_CLASSES, *_LINKS}))}",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=objective,
        )
    zeros = np.zeros((1, booster.num_features()), np.float32)
    margin = booster.predict(xgboost.DMatrix(zeros), output_margin=True).reshape(-1)
    nodes, constants = _margins(learner, zeros[0], margin, name)
    # Several targets of `binary:logistic` are several truths, not two classes.
    alone = objective == "binary:logistic" and len(margin) == 1
    if objective in _CLASSES or alone:
        outputs, more, further = _classifier(objective)
    else:
        outputs, more, further = _regression(_LINKS[objective])
    columns = 2 if alone else len(margin)
    values = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [batch])
        if each == "label"
        else helper.make_tensor_value_info(each, TensorProto.FLOAT, [batch, columns])
        for each in outputs
    ]
    rows = helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, booster.num_features()])
    graph = helper.make_graph([*nodes, *more], "booster", [rows], values, [*constants, *further])
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)


def _margins(
    learner: dict[str, Any], zeros: Any, margin: Any, name: str
) -> tuple[list[Any], list[Any]]:
    """Return the nodes that give ``margins`` FLOAT [batch, targets], and their constants.

    :param margin: what the booster itself gives a row of zeros
    """
    from onnx import helper, numpy_helper

    gradient = learner["gradient_booster"]
    if gradient["name"] == "gblinear":
        weights = np.asarray(gradient["model"]["weights"], np.float64).reshape(-1, len(margin))
        constants = {
            "weights": weights[:-1].astype(np.float32),
            # At zero the weights add nothing: what is left is the bias and the base score.
            "bias": margin.astype(np.float32),
            "zero": np.zeros((), np.float32),
        }
        nodes = [
            helper.make_node("IsNaN", [name], ["missing"]),
            helper.make_node("Where", ["missing", "zero", name], ["present"]),
            helper.make_node("Gemm", ["present", "weights", "bias"], ["margins"]),
        ]
        return nodes, [numpy_helper.from_array(array, key) for key, array in constants.items()]
    if gradient["name"] not in ("gbtree", "dart"):
        raise ConversionError(
            f"XGBoost booster {gradient['name']!r} has no ONNX form here; train with gbtree, dart "
            "or gblinear",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=gradient["name"],
        )
    dart = gradient["name"] == "dart"
    model = gradient["gbtree"]["model"] if dart else gradient["model"]
    factors = gradient["weight_drop"] if dart else [1.0] * len(model["trees"])
    trees = [
        _Tree(tree, group, factor, len(margin))
        for tree, group, factor in zip(model["trees"], model["tree_info"], factors, strict=True)
    ]
    # The base score is kept before the objective's link in one release and behind it in another;
    # what the margin of any row has beyond its leaves is the same in all.
    base = margin.astype(np.float64) - sum(tree.leaf_of(zeros) for tree in trees)
    attributes = _attributes(trees)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [name],
        ["margins"],
        domain="ai.onnx.ml",
        n_targets=len(margin),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=[float(value) for value in base.astype(np.float32)],
        **attributes,
    )
    return [node], []


class _Tree:
    """One tree: its splits, and what each leaf adds to each target."""

    def __init__(self, tree: dict[str, Any], group: int, factor: float, targets: int) -> None:
        if any(tree.get("split_type", ())):
            raise ConversionError(
                "the booster has categorical splits, which ONNX's trees have not; train on "
                "categories as numbers or as columns of 0 and 1 (enable_categorical=False)",
                reason=Reason.OPERATOR_UNSUPPORTED,
                operator="categorical split",
            )
        self.left = tree["left_children"]
        self.right = tree["right_children"]
        self.feature = tree["split_indices"]
        self.threshold = np.asarray(tree["split_conditions"], np.float32)
        self.default_left = tree["default_left"]
        size = int(tree["tree_param"].get("size_leaf_vector", "1") or 1)
        self.leaves: dict[int, list[tuple[int, float]]] = {}
        for number, left in enumerate(self.left):
            if left != -1:
                continue
            if size > 1:
                values = tree["base_weights"][number * size : (number + 1) * size]
                self.leaves[number] = [(k, factor * value) for k, value in enumerate(values)]
            else:
                self.leaves[number] = [(group, factor * float(self.threshold[number]))]
        self._targets = targets

    def leaf_of(self, row: Any) -> Any:
        """Return what a row without missing values gets of this tree."""
        node = 0
        while self.left[node] != -1:
            goes_left = row[self.feature[node]] < self.threshold[node]
            node = self.left[node] if goes_left else self.right[node]
        added = np.zeros(self._targets)
        for target, value in self.leaves[node]:
            added[target] += value
        return added


def _attributes(trees: list[_Tree]) -> dict[str, Any]:
    """Return the attributes of ONNX's TreeEnsembleRegressor."""
    nodes: dict[str, list[Any]] = {
        f"nodes_{key}": []
        for key in (
            "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
            "missing_value_tracks_true",
        )
    }  # fmt: skip
    leaves: dict[str, list[Any]] = {
        f"target_{key}": [] for key in ("treeids", "nodeids", "ids", "weights")
    }
    for number, tree in enumerate(trees):
        for node, left in enumerate(tree.left):
            leaf = left == -1
            row = (
                number, node, 0 if leaf else tree.feature[node], "LEAF" if leaf else "BRANCH_LT",
                0.0 if leaf else float(tree.threshold[node]), 0 if leaf else left,
                0 if leaf else tree.right[node], 0 if leaf else int(tree.default_left[node]),
            )  # fmt: skip
            for values, value in zip(nodes.values(), row, strict=True):
                values.append(value)
            for target, weight in tree.leaves.get(node, ()):
                for values, value in zip(
                    leaves.values(), (number, node, target, float(weight)), strict=True
                ):
                    values.append(value)
    return {**nodes, **leaves}


def _classifier(objective: str) -> tuple[list[str], list[Any], list[Any]]:
    from onnx import helper, numpy_helper

    nodes = []
    constants = []
    if objective in _CLASSES:
        nodes.append(helper.make_node("Softmax", ["margins"], ["probabilities"], axis=1))
    else:
        constants.append(numpy_helper.from_array(np.ones((), np.float32), "one"))
        nodes += [
            helper.make_node("Sigmoid", ["margins"], ["positive"]),
            helper.make_node("Sub", ["one", "positive"], ["negative"]),
            helper.make_node("Concat", ["negative", "positive"], ["probabilities"], axis=1),
        ]
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    return ["label", "probabilities"], nodes, constants


def _regression(link: str | None) -> tuple[list[str], list[Any], list[Any]]:
    from onnx import TensorProto, helper, numpy_helper

    if link == "step":
        zero = numpy_helper.from_array(np.zeros((), np.float32), "origin")
        nodes = [
            helper.make_node("Greater", ["margins", "origin"], ["above"]),
            helper.make_node("Cast", ["above"], ["variable"], to=TensorProto.FLOAT),
        ]
        return ["variable"], nodes, [zero]
    operator = {"sigmoid": "Sigmoid", "exp": "Exp", None: "Identity"}[link]
    return ["variable"], [helper.make_node(operator, ["margins"], ["variable"])], []
