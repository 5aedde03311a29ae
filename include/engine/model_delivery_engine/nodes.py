"""Walking the nodes of an ONNX graph."""

from collections.abc import Iterable, Iterator
from typing import Any


def all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes and those in their branches and loop bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from all_nodes(graph.node)
