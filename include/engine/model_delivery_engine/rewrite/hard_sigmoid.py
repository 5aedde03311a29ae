"""``clip(x + b, 0, h) / h`` is a hard sigmoid; ``x`` times it, a hard swish.

Written out they are three and four operators. In one, ONNX Runtime makes them part of the
convolution before, and tensors keep the layout of its convolutions.
"""

from typing import Any

from model_delivery_engine.rewrite.graph import Graph, attribute


def fuse_hard_sigmoid(graph: Graph) -> int:
    """Put hard sigmoids together, alone or times their own input; return how many."""
    found = 0
    for clip in [node for node in graph.nodes if graph.is_a(node, "Clip")]:
        found += _fuse(graph, clip)
    return found


def _fuse(graph: Graph, clip: Any) -> bool:
    add = graph.maker(clip.input[0], "Add")
    parts = graph.split(add) if add is not None else None
    height = _height(graph, clip)
    if add is None or parts is None or height is None or graph.only_taker(add.output[0]) != clip:
        return False
    x, offset = parts[0], graph.scalar(parts[1])
    taker = graph.only_taker(clip.output[0], "Mul", "Div")
    if offset is None or taker is None:
        return False
    sigmoid: dict[str, Any] = {"alpha": 1 / height, "beta": offset / height}
    if _divides(graph, taker, clip.output[0], height):
        graph.remove(add, clip, taker)
        graph.add_node("HardSigmoid", [x], taker.output[0], **sigmoid)
        return True
    # x · clip(…), and only then the division
    last = graph.only_taker(taker.output[0], "Mul", "Div")
    if taker.op_type != "Mul" or x not in taker.input or last is None:
        return False
    if not _divides(graph, last, taker.output[0], height):
        return False
    graph.remove(add, clip, taker, last)
    graph.add_node("HardSigmoid", [x], clip.output[0], **sigmoid)
    graph.add_node("Mul", [x, clip.output[0]], last.output[0])
    return True


def _height(graph: Graph, clip: Any) -> float | None:
    """Return the upper bound of a clip from 0 on, None for any other."""
    if len(clip.input) == 1:
        low, high = attribute(clip, "min"), attribute(clip, "max")
    else:
        low, high = ([graph.scalar(name) for name in clip.input[1:]] + [None])[:2]
    return high if low == 0 and high is not None and high > 0 else None


def _divides(graph: Graph, node: Any, tensor: str, by: float) -> bool:
    if node.op_type == "Div":
        return node.input[0] == tensor and graph.scalar(node.input[1]) == by
    parts = graph.split(node)
    factor = graph.scalar(parts[1]) if parts and parts[0] == tensor else None
    return factor is not None and abs(factor * by - 1) < 1e-6
