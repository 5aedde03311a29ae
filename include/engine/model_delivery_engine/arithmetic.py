"""The precision that a model itself computes in, which what is made of it can be held to.

A model in 8 bits or in halves rounds at every layer. Whoever computes it in another order, fused or
on another processor, rounds elsewhere, and ends some of those steps away.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

from model_delivery_engine import weights
from model_delivery_engine.agreement import HALF_PRECISION, QUANTISED, REWRITTEN, Closeness
from model_delivery_engine.nodes import all_nodes

_HALF = onnx.TensorProto.FLOAT16
_INTEGERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
_INTEGER_FAMILIES = ("QLinear", "QGemm", "QAttention", "DynamicQuantize")
# How close another form of a model has to be, by the model's precision.
CLOSENESS: dict[str, Closeness] = {"fp32": REWRITTEN, "fp16": HALF_PRECISION, "int8": QUANTISED}


def precision_of(path: Path) -> str:
    """Return the lowest precision that a model computes in: fp32, fp16 or int8.

    Weights that are kept in fewer bits and widened before they are used leave it fp32.

    :param path: an ONNX file; its weights are not read
    """
    model = weights.skeleton(path)
    nodes = list(all_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]))
    if any(_in_integers(node.op_type) for node in nodes):
        return "int8"
    return "fp16" if _in_halves(model.graph, nodes) else "fp32"


def _in_integers(operator: str) -> bool:
    return operator in _INTEGERS or operator.startswith(_INTEGER_FAMILIES)


def _in_halves(graph: Any, nodes: Iterable[Any]) -> bool:
    named = {each.name for each in graph.initializer if each.data_type == _HALF}
    named |= {
        each.name
        for each in (*graph.input, *graph.output)
        if each.type.tensor_type.elem_type == _HALF
    }
    for node in nodes:
        if node.op_type == "Cast":
            if any(each.name == "to" and each.i == _HALF for each in node.attribute):
                return True
        elif named.intersection((*node.input, *node.output)):
            return True
    return False
