"""``x + x · g`` is ``x · (g + 1)``: the sum is then taken over a gate, not over a map.

Squeeze-and-excitation with a shortcut is written so; its gate has one value for each channel.
"""

import numpy as np

from model_delivery_engine.rewrite.graph import Graph

_IMAGE_RANK = 4


def merge_gate(graph: Graph) -> int:
    """Merge shortcuts around gates into the gates; return how many."""
    found = 0
    for add in [node for node in graph.nodes if graph.is_a(node, "Add")]:
        for x, product in (tuple(add.input), tuple(reversed(add.input))):
            mul = graph.maker(product, "Mul")
            if mul is None or x not in mul.input or graph.only_taker(product) != add:
                continue
            gate = next((name for name in mul.input if name != x), None)
            if gate is None or not _is_gate(graph.shape(gate), graph.shape(x)):
                continue
            one = graph.add_constant("gate_one", np.ones(1, np.float32))
            opened = f"{gate}_opened"
            graph.remove(add, mul)
            graph.add_node("Add", [gate, one], opened)
            graph.add_node("Mul", [x, opened], add.output[0])
            found += 1
            break
    return found


def _is_gate(gate: tuple[int, ...] | None, image: tuple[int, ...] | None) -> bool:
    if gate is None or image is None or len(gate) != _IMAGE_RANK or len(image) != _IMAGE_RANK:
        return False
    return gate[2:] == (1, 1) and image[2:] != (1, 1)
