"""Write user and item factors as an ONNX model that `Recommender` runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.recommend import (
    DEFAULT_RESULTS,
    ITEM_SCORES,
    METADATA,
    RESULTS,
)
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import Array

_OPSET = 18
_IR_VERSION = 10
_MOST_BYTES = 2**31 - 2**20  # of a model in one file, which is one protobuf message


def write_recommender(
    path: Path,
    *,
    recipe: Recipe,
    users: Sequence[str],
    items: Sequence[str],
    user_factors: Array,
    item_factors: Array,
) -> None:
    """Write the ONNX file of a matrix factorisation; a score is the product of two factors.

    Related items are compared by the cosine of their factors.

    :param users: ids, one for each row of ``user_factors``
    :param items: ids, one for each row of ``item_factors``
    :param user_factors: [users, factors]
    :param item_factors: [items, factors]
    :raises BatchError: ids that repeat, or whose number differs from the factors' rows; more than
        2 GiB of factors and ids
    """
    for kind, names, factors in (
        ("users", users, user_factors), ("items", items, item_factors)
    ):  # fmt: skip
        if len(set(names)) != len(names) or len(names) != len(factors) or not len(names):
            raise BatchError(
                f"{len(names)} {kind} ({len(set(names))} distinct) for {len(factors)} rows of "
                "factors; give each row one id of its own"
            )
    facts = json.dumps({"recipe": str(recipe), "users": list(users), "items": list(items)})
    size = 4 * (np.size(user_factors) + np.size(item_factors)) + len(facts)
    if size > _MOST_BYTES:
        raise BatchError(
            f"{len(users)} users and {len(items)} items make a model of {size / 2**30:.1f} GiB, "
            "ONNX holds 2 in one file; use fewer factors, or a recommender for each part of the "
            "users"
        )
    graph = _GRAPHS[recipe](
        np.ascontiguousarray(user_factors, np.float32),
        np.ascontiguousarray(item_factors, np.float32),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    helper.set_model_props(model, {METADATA: facts})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _user_personalization(users: Array, items: Array) -> onnx.GraphProto:
    nodes = [helper.make_node("Gather", ["users", "user"], ["of_user"], axis=0)]
    return _best("user", nodes, "of_user", {"users": users}, items)


def _related_items(_users: Array, items: Array) -> onnx.GraphProto:
    lengths = np.linalg.norm(items, axis=1, keepdims=True)
    unit = (items / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["rows", "item"], ["of_item"], axis=0)]
    return _best("item", nodes, "of_item", {"rows": unit}, unit)


def _best(
    name: str, nodes: list[onnx.NodeProto], factors: str, constants: dict[str, Array], items: Array
) -> onnx.GraphProto:
    nodes += [
        helper.make_node("MatMul", [factors, "items_by_factor"], [ITEM_SCORES]),
        helper.make_node("TopK", [ITEM_SCORES, RESULTS], ["scores", "items"], axis=-1),
    ]
    count = len(items)
    results: dict[str, Array] = {RESULTS: np.array([min(DEFAULT_RESULTS, count)], np.int64)}
    constants = {**constants, "items_by_factor": np.ascontiguousarray(items.T), **results}
    # A constant that is also listed as an input is one that a run may replace.
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info(RESULTS, TensorProto.INT64, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", "results"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "results"]),
        helper.make_tensor_value_info(ITEM_SCORES, TensorProto.FLOAT, ["batch", count]),
    ]
    tensors = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    return helper.make_graph(nodes, "recommender", inputs, outputs, tensors)


def _personalized_ranking(users: Array, items: Array) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Gather", ["users", "user"], ["of_user"], axis=0),
        helper.make_node("Gather", ["items", "item"], ["of_item"], axis=0),
        helper.make_node("Mul", ["of_user", "of_item"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axes"], ["scores"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs"])
        for name in ("user", "item")
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["pairs"])]
    constants = {"users": users, "items": items, "axes": np.array([1], np.int64)}
    tensors = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    return helper.make_graph(nodes, "recommender", inputs, outputs, tensors)


_GRAPHS = {
    Recipe.USER_PERSONALIZATION: _user_personalization,
    Recipe.RELATED_ITEMS: _related_items,
    Recipe.PERSONALIZED_RANKING: _personalized_ranking,
}
