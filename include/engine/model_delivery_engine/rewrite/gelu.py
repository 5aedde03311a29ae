"""``x · 0.5 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))`` is one operator of ONNX Runtime's.

ONNX Runtime puts it together where the products stand in one of two orders; here any order is read.
"""

import math
from typing import Any

from model_delivery_engine.rewrite.graph import CONTRIBUTED, Graph

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715
_NEAR = 1e-4  # exporters write the constants with five digits and more


def fuse_gelu(graph: Graph) -> int:
    """Put Gelu by its tanh approximation together; return how many."""
    return sum(_fuse(graph, node) for node in list(graph.nodes) if graph.is_a(node, "Tanh"))


def _fuse(graph: Graph, tanh: Any) -> bool:
    inside = graph.maker(tanh.input[0], "Mul")
    total = _times(graph, inside, _SCALE)
    add = graph.maker(total, "Add") if total else None
    plus_one = graph.only_taker(tanh.output[0], "Add")
    parts = graph.split(plus_one) if plus_one is not None else None
    if add is None or plus_one is None or parts is None or graph.scalar(parts[1]) != 1:
        return False
    for x, cube in (tuple(add.input), tuple(reversed(add.input))):
        chain = [tanh, inside, add, plus_one]
        if not _is_cubic(graph, cube, x, chain):
            continue
        last = _half_of_x_times(graph, plus_one.output[0], x, chain)
        if last is not None and _is_closed(graph, chain, last):
            graph.remove(*chain)
            graph.add_node("FastGelu", [x], last, CONTRIBUTED)
            return True
    return False


def _times(graph: Graph, node: Any | None, factor: float) -> str | None:
    """Return what a node multiplies by that constant."""
    parts = graph.split(node) if node is not None else None
    value = graph.scalar(parts[1]) if parts else None
    return parts[0] if parts and value is not None and abs(value - factor) < _NEAR else None


def _is_cubic(graph: Graph, tensor: str, x: str, chain: list[Any]) -> bool:
    """Whether a tensor is 0.044715 · x³, the product in any order; adds its nodes to the chain."""
    powers, factor, waiting = 0, 1.0, [tensor]
    while waiting:
        name = waiting.pop()
        value = graph.scalar(name)
        node = graph.maker(name, "Mul")
        if name == x:
            powers += 1
        elif value is not None:
            factor *= value
        elif node is not None and powers < 3:
            chain.append(node)
            waiting.extend(node.input)
        else:
            return False
    return powers == 3 and abs(factor - _CUBIC) < _NEAR


def _half_of_x_times(graph: Graph, tensor: str, x: str, chain: list[Any]) -> str | None:
    """Follow the products behind a tensor; return where they come to x/2 times it."""
    seen_x = half = False
    while not (seen_x and half):
        node = graph.only_taker(tensor, "Mul")
        if node is None:
            return None
        other = node.input[1] if node.input[0] == tensor else node.input[0]
        halved = _times(graph, graph.maker(other, "Mul"), 0.5)
        if other == x and not seen_x:
            seen_x = True
        elif halved == x and not seen_x and not half:
            seen_x = half = True
            chain.append(graph.maker(other, "Mul"))
        elif graph.scalar(other) == 0.5 and not half:
            half = True
        else:
            return None
        chain.append(node)
        tensor = node.output[0]
    return tensor


def _is_closed(graph: Graph, chain: list[Any], last: str) -> bool:
    """Whether nothing outside of the chain takes what is made inside it."""
    members = {id(node) for node in chain}
    inner = [node.output[0] for node in chain if node.output[0] != last]
    return all(
        name not in graph.outputs and all(id(taker) in members for taker in graph.takers(name))
        for name in inner
    )
