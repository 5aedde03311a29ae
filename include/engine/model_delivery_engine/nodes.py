"""Walking the nodes and the weights of an ONNX graph, and of the graphs inside it."""

from collections.abc import Iterable, Iterator
from typing import Any


def all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes and those in their branches and loop bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from all_nodes(graph.node)


def all_tensors(graph: Any) -> Iterator[Any]:
    """Yield a graph's weights, and those of its branches, loop bodies and constant nodes."""
    yield from graph.initializer
    yield from inner_tensors(graph)


def inner_tensors(graph: Any) -> Iterator[Any]:
    """Yield the same without the graph's own weights."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from all_tensors(inner)
