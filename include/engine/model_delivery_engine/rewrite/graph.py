"""A graph to rewrite: who makes a tensor, who takes it, and what is constant."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from model_delivery_engine.shape_inference import infer_shapes
from model_delivery_engine.tensors import Array

CONTRIBUTED = "com.microsoft"
_STANDARD = ("", "ai.onnx")


class Graph:
    """An ``onnx.ModelProto`` with its larger weights in files beside it.

    :param folder: of those files
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shapes = _shapes(model)
        self.nodes: list[Any] = list(model.graph.node)
        self.outputs = {each.name for each in model.graph.output}
        # An initialiser that is an input too may be replaced by whoever runs the model.
        self._inputs = {each.name for each in model.graph.input}
        self._index()

    @property
    def opset(self) -> int:
        """Version of the standard operator set, 0 for a model of other operators alone."""
        found = (each.version for each in self._model.opset_import if each.domain in _STANDARD)
        return next(found, 0)

    def maker(self, tensor: str, *types: str) -> Any | None:
        """Return the standard node that makes a tensor, if it is one of these types."""
        node = self._makers.get(tensor)
        return node if node is not None and self.is_a(node, *types) else None

    def takers(self, tensor: str) -> list[Any]:
        """Return the nodes that take a tensor, one that takes it twice twice."""
        return self._takers.get(tensor, [])

    def only_taker(self, tensor: str, *types: str) -> Any | None:
        """Return the one standard node of these types that takes a tensor nothing else needs."""
        takers = self.takers(tensor)
        if tensor in self.outputs or tensor in self._captured or len(takers) != 1:
            return None
        return takers[0] if self.is_a(takers[0], *types) else None

    @staticmethod
    def is_a(node: Any, *types: str) -> bool:
        """Whether a node is a standard operator, of one of these types if any are given."""
        return node.domain in _STANDARD and (not types or node.op_type in types)

    def constant(self, tensor: str) -> Array | None:
        """Return the values of a tensor that is the same in every run, None for another."""
        found = self._tensors.get(tensor)
        if found is None or tensor in self._inputs:
            return None
        return numpy_helper.to_array(found, str(self._folder))

    def scalar(self, tensor: str) -> float | None:
        """Return the one value of a constant."""
        size = int(np.prod(self._tensors[tensor].dims)) if tensor in self._tensors else 0
        array = self.constant(tensor) if size == 1 else None
        return None if array is None else float(array.ravel()[0])

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Return a tensor's dimensions, -1 for an open one; None where they are not known."""
        if tensor in self._tensors:
            return tuple(self._tensors[tensor].dims)
        return self._shapes.get(tensor)

    def split(self, node: Any) -> tuple[str, str] | None:
        """Return the tensor and the constant that a node of two inputs takes, in that order."""
        if len(node.input) != 2:
            return None
        first, second = node.input
        if second in self._tensors and first not in self._tensors:
            return first, second
        return (second, first) if first in self._tensors and second not in self._tensors else None

    def add_constant(self, name: str, array: Array) -> str:
        """Add a constant under a name like that one; return its name."""
        taken = self._tensors.keys() | self._makers.keys() | self._inputs
        unique = next(n for n in _names(name) if n not in taken)
        self._tensors[unique] = numpy_helper.from_array(np.ascontiguousarray(array), unique)
        return unique

    def add_node(
        self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> None:
        """Add a node that makes ``output``; `remove` what made it before."""
        name = f"{output}_{kind}"
        node = helper.make_node(kind, inputs, [output], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        self._index()

    def remove(self, *nodes: Any) -> None:
        """Remove nodes."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self._index()

    def set_shape(self, tensor: str, shape: tuple[int, ...]) -> None:
        """Say the dimensions of a tensor that was added, where a later pass asks for them."""
        self._shapes[tensor] = shape

    def finish(self) -> Any:
        """Return the model: its nodes in order, without constants that nothing takes."""
        graph = self._model.graph
        nodes = list(_in_order(self.nodes, self._makers))
        used = {name for node in nodes for name in node.input} | self.outputs | self._captured
        made = {name for node in nodes for name in node.output}
        infos = [each for each in graph.value_info if each.name in made & self._shapes.keys()]
        kept = [t for name, t in self._tensors.items() if name in used or name in self._inputs]
        for field, values in (("node", nodes), ("value_info", infos), ("initializer", kept)):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            graph.ClearField(field)
            getattr(graph, field).extend(copies)
        if any(node.domain == CONTRIBUTED for node in nodes) and not any(
            each.domain == CONTRIBUTED for each in self._model.opset_import
        ):
            self._model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
        return self._model

    def _index(self) -> None:
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._takers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)
        # What a branch or a loop's body takes from outside is in no list of inputs.
        inner = (a.g for node in self.nodes for a in node.attribute if a.HasField("g"))
        self._captured = {name for body in inner for name in _taken_inside(body)}


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute."""
    for each in node.attribute:
        if each.name == name:
            return helper.get_attribute_value(each)
    return default


def _names(name: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{name}_{number}" if number else name
        number += 1


def _taken_inside(body: Any) -> Iterator[str]:
    for node in body.node:
        yield from node.input
        for each in node.attribute:
            if each.HasField("g"):
                yield from _taken_inside(each.g)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    try:
        inferred = infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        inferred = model.graph
    known = {}
    for each in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = each.type.tensor_type
        if tensor.HasField("shape"):
            known[each.name] = tuple(
                d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim
            )
    return known


def _in_order(nodes: Sequence[Any], makers: dict[str, Any]) -> Iterator[Any]:
    """Yield nodes so that each comes after those that make what it takes."""
    done: set[int] = set()
    for last in nodes:
        waiting = [last]
        while waiting:
            node = waiting[-1]
            names = [*node.input, *(n for a in node.attribute for n in _taken_inside(a.g))]
            before = [makers[name] for name in names if name in makers]
            missing = [each for each in before if id(each) not in done]
            if missing:
                waiting.extend(missing)
                continue
            waiting.pop()
            if id(node) not in done:
                done.add(id(node))
                yield node
