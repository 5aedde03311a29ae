"""Products and sums with one constant for each channel become part of a convolution.

ONNX Runtime folds constants of a channel's shape behind a convolution; not single numbers, and none
in front. What can go into no convolution becomes one BatchNormalization instead of two operators:
ONNX Runtime keeps that in the layout of its convolutions, and would leave it for the others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model_delivery_engine.rewrite.graph import Graph, attribute
from model_delivery_engine.tensors import Array

_IMAGE_RANK = 4
_AFFINE = ("Add", "BatchNormalization", "Div", "Mul", "Sub")


@dataclass(frozen=True)
class _Run:
    """Nodes one after the other that come to ``x * scale + shift``, both in double precision."""

    start: str
    nodes: list[Any]
    scale: Array
    shift: Array

    @property
    def end(self) -> str:
        return str(self.nodes[-1].output[0])


def fold_affine(graph: Graph) -> int:
    """Fold every such run; return how many."""
    found = 0
    skip: set[str] = set()
    while run := _next(graph, skip):
        skip.add(run.nodes[0].name)
        if _into_maker(graph, run) or _into_takers(graph, run) or _into_one(graph, run):
            found += 1
    return found


def _next(graph: Graph, skip: set[str]) -> _Run | None:
    for node in graph.nodes:
        if node.name not in skip and (run := _run_from(graph, node)):
            return run
    return None


def _run_from(graph: Graph, node: Any) -> _Run | None:
    """Return the run that starts with a node, None if it starts earlier or is none."""
    tensor = _variable(graph, node)
    shape = graph.shape(tensor) if tensor else None
    if tensor is None or shape is None or len(shape) != _IMAGE_RANK or shape[1] < 1:
        return None
    before = graph.maker(tensor, *_AFFINE)
    if before is not None and graph.only_taker(tensor) is node and _of(graph, before, shape[1]):
        return None
    scale, shift = np.ones(shape[1]), np.zeros(shape[1])
    nodes: list[Any] = []
    following: Any | None = node
    while following is not None and (one := _of(graph, following, shape[1])):
        nodes.append(following)
        scale, shift = scale * one[0], shift * one[0] + one[1]
        following = graph.only_taker(following.output[0], *_AFFINE)
    return _Run(tensor, nodes, scale, shift) if nodes else None


def _variable(graph: Graph, node: Any) -> str | None:
    """Return the tensor that a node takes beside constants."""
    if not graph.is_a(node, *_AFFINE):
        return None
    if node.op_type == "BatchNormalization":
        return str(node.input[0])
    parts = graph.split(node)
    return parts[0] if parts else None


def _of(graph: Graph, node: Any, channels: int) -> tuple[Array, Array] | None:
    """Return scale and shift of a node, by channel."""
    if node.op_type == "BatchNormalization":
        return _of_normalization(graph, node)
    parts = graph.split(node)
    constant = _by_channel(graph, parts[1], channels) if parts else None
    if parts is None or constant is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return constant, zero
    if node.op_type == "Add":
        return one, constant
    if node.input[0] != parts[0]:  # a constant less or by the tensor
        return (-one, constant) if node.op_type == "Sub" else None
    if node.op_type == "Sub":
        return one, -constant
    return (1 / constant, zero) if constant.all() else None


def _of_normalization(graph: Graph, node: Any) -> tuple[Array, Array] | None:
    values = [graph.constant(name) for name in node.input[1:]]
    if attribute(node, "training_mode", 0) or len(node.output) != 1:
        return None
    if any(value is None or value.dtype != np.float32 for value in values):
        return None
    gamma, beta, mean, variance = (
        value.astype(np.float64) for value in values if value is not None
    )
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _by_channel(graph: Graph, name: str, channels: int) -> Array | None:
    """Return a constant's value for each channel of an image, None where it varies otherwise."""
    shape = graph.shape(name)
    fits = shape is not None and (
        (np.prod(shape) == 1 and len(shape) <= _IMAGE_RANK)
        or shape in ((channels, 1, 1), (1, channels, 1, 1))
    )
    array = graph.constant(name) if fits else None
    if array is None or array.dtype != np.float32:
        return None
    return np.broadcast_to(array.ravel(), (channels,)).astype(np.float64)


def _into_maker(graph: Graph, run: _Run) -> bool:
    """Fold a run into the convolution that makes what it takes."""
    conv = graph.maker(run.start, "Conv")
    if conv is None or graph.only_taker(run.start) is not run.nodes[0]:
        return False
    weight, bias = _weights(graph, conv)
    if weight is None or bias is None:
        return False
    graph.remove(*run.nodes)
    scaled = weight * run.scale.reshape(-1, 1, 1, 1)
    _replace(graph, conv, run.end, scaled, bias * run.scale + run.shift)
    return True


def _into_takers(graph: Graph, run: _Run) -> bool:
    """Fold a run into the convolutions behind it, if each of them can take it."""
    takers = graph.takers(run.end)
    if run.end in graph.outputs or not takers:
        return False
    if not all(graph.is_a(node, "Conv") and node.input[0] == run.end for node in takers):
        return False
    # The border that padding adds is zero after the run, and would be shifted inside of it.
    if run.shift.any() and any(_pads(node) for node in takers):
        return False
    parts = [_weights(graph, conv) for conv in takers]
    if any(weight is None or bias is None for weight, bias in parts):
        return False
    for conv, (weight, bias) in zip(takers, parts, strict=True):
        assert weight is not None
        assert bias is not None
        groups = attribute(conv, "group", 1)
        rows = len(weight) // groups  # of output channels, for each group of input channels
        scale = np.repeat(run.scale.reshape(groups, 1, -1), rows, axis=1).reshape(len(weight), -1)
        shift = np.repeat(run.shift.reshape(groups, 1, -1), rows, axis=1).reshape(len(weight), -1)
        moved = (weight.sum(axis=(2, 3)) * shift).sum(axis=1)
        conv.input[0] = run.start
        _replace(graph, conv, conv.output[0], weight * scale[:, :, None, None], bias + moved)
    graph.remove(*run.nodes)
    return True


def _into_one(graph: Graph, run: _Run) -> bool:
    """Write a run of several nodes as one, where it stands between convolutions."""
    if len(run.nodes) == 1 and run.nodes[0].op_type == "BatchNormalization":
        return False
    if not any(graph.is_a(node, "Conv") for node in graph.takers(run.end)):
        return False
    channels = len(run.scale)
    # ONNX Runtime's quantiser takes a tensor whose name ends in _scale or _zero_point for its own.
    values = {"gamma": run.scale, "beta": run.shift, "mean": np.zeros(channels),
              "variance": np.ones(channels)}  # fmt: skip
    names = [
        graph.add_constant(f"{run.end}_{name}", value.astype(np.float32))
        for name, value in values.items()
    ]
    graph.remove(*run.nodes)
    graph.add_node("BatchNormalization", [run.start, *names], run.end, epsilon=0.0)
    return True


def _pads(conv: Any) -> bool:
    auto = attribute(conv, "auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        return True
    return auto == b"NOTSET" and any(attribute(conv, "pads", []))


def _weights(graph: Graph, conv: Any) -> tuple[Array | None, Array | None]:
    """Return weight and bias of a convolution of images in double precision, None where unknown."""
    weight = graph.constant(conv.input[1])
    if weight is None or weight.ndim != _IMAGE_RANK or weight.dtype != np.float32:
        return None, None
    if len(conv.input) < 3 or not conv.input[2]:
        return weight.astype(np.float64), np.zeros(len(weight))
    bias = graph.constant(conv.input[2])
    return weight.astype(np.float64), None if bias is None else bias.astype(np.float64)


def _replace(graph: Graph, conv: Any, output: str, weight: Array, bias: Array) -> None:
    """Put another convolution in a convolution's place, which makes ``output``."""
    names = [
        graph.add_constant(f"{output}_{name}", value.astype(np.float32))
        for name, value in (("weight", weight), ("bias", bias))
    ]
    kept = {each.name: attribute(conv, each.name) for each in conv.attribute}
    graph.remove(conv)
    graph.add_node("Conv", [conv.input[0], *names], output, **kept)
