"""A product with one-hot rows takes rows from a table, and what follows can be done to the table.

``matmul(x == 0 … n-1, table)`` multiplies mostly zeros. As a Gather it copies rows, with a row of
zeros for what is out of range. What is then done to each element of a row alone (an activation, a
bias) is done once to each row of the table, ahead of time.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_delivery_engine.rewrite.graph import Graph, attribute
from model_delivery_engine.tensors import Array

_FLOAT = 1
_CLIP_OF_INTEGERS = 12  # the operator set that has it
_AXES_AS_INPUT = 13
_ELEMENTWISE = (
    "Abs", "Add", "Clip", "Div", "Erf", "Exp", "HardSigmoid", "Log", "Max", "Min", "Mul", "Neg",
    "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh",
)  # fmt: skip


def one_hot_to_gather(graph: Graph) -> int:
    """Turn products with one-hot rows into Gathers; return how many."""
    if graph.opset < _CLIP_OF_INTEGERS:
        return 0
    return sum(_gather(graph, node) for node in list(graph.nodes) if graph.is_a(node, "MatMul"))


def _gather(graph: Graph, product: Any) -> bool:
    cast = graph.maker(product.input[0], "Cast")
    equal = graph.maker(cast.input[0], "Equal") if cast is not None else None
    table = graph.constant(product.input[1])
    parts = graph.split(equal) if equal is not None else None
    if cast is None or equal is None or parts is None or table is None or table.ndim != 2:
        return False
    index, classes = parts[0], graph.constant(parts[1])
    shape = _shape_of_index(graph, index)
    if classes is None or not _are_classes(classes, len(table)):
        return False
    if shape is None or shape[-1:] != (1,) or len(shape) < classes.ndim:
        return False
    if attribute(cast, "to") != _FLOAT or not np.isfinite(table).all():  # 0 · ∞ is no zero
        return False
    if graph.only_taker(equal.output[0]) is None or graph.only_taker(cast.output[0]) is None:
        return False
    out = product.output[0]
    zeros = np.zeros((1, table.shape[1]), table.dtype)
    rows = graph.add_constant(f"{out}_rows", np.concatenate([zeros, table, zeros]))
    kind = classes.dtype
    # Every value out of range, also one that a subtraction would wrap, comes to a row of zeros.
    first, last = int(classes.flat[0]), int(classes.flat[-1])
    low = graph.add_constant(f"{out}_low", np.array(first - 1, kind))
    high = graph.add_constant(f"{out}_high", np.array(last + 1, kind))
    graph.remove(product, cast, equal)
    graph.add_node("Clip", [index, low, high], f"{out}_clipped")
    graph.add_node("Sub", [f"{out}_clipped", low], f"{out}_index")
    if graph.opset < _AXES_AS_INPUT:
        graph.add_node("Squeeze", [f"{out}_index"], f"{out}_flat", axes=[len(shape) - 1])
    else:
        axes = graph.add_constant(f"{out}_axes", np.array([len(shape) - 1], np.int64))
        graph.add_node("Squeeze", [f"{out}_index", axes], f"{out}_flat")
    graph.add_node("Gather", [rows, f"{out}_flat"], out, axis=0)
    graph.set_shape(f"{out}_flat", shape[:-1])
    return True


@dataclass(frozen=True)
class _Taken:
    """What a Gather takes: its table of so many rows, and the index with its rank."""

    table: str
    rows: int
    index: str
    rank: int


def _shape_of_index(graph: Graph, index: str) -> tuple[int, ...] | None:
    """Return an index's dimensions; of one that is expanded by its own batch, the last one too."""
    shape, expand = graph.shape(index), graph.maker(index, "Expand")
    given = graph.shape(expand.input[0]) if expand is not None else None
    if expand is None or shape is None or given is None or given[-1:] != (1,):
        return shape
    sizes = graph.maker(expand.input[1], "Concat") or graph.maker(expand.input[1], "Cast")
    if sizes is not None and sizes.op_type == "Cast":
        sizes = graph.maker(sizes.input[0], "Concat")
    last = graph.constant(sizes.input[-1]) if sizes is not None else None
    return (*shape[:-1], 1) if last is not None and last.ravel()[-1:] == 1 else shape


def _are_classes(classes: Array, count: int) -> bool:
    """Whether a constant is that many integers in turn, with one more on either side of them."""
    if classes.dtype not in (np.int32, np.int64) or classes.shape[-1:] != (count,):
        return False
    limits = np.iinfo(classes.dtype)
    values = classes.ravel()
    inside = limits.min < values[0] and values[-1] < limits.max
    return len(values) == count and bool(inside) and not (np.diff(values) != 1).any()


def sink_gathers(graph: Graph) -> int:
    """Do to tables what is done to each element of the rows taken from them; return how often.

    Behind it are nodes of constants alone, which ONNX Runtime's folding turns into the new table.
    """
    taken: dict[str, _Taken] = {}
    for node in graph.nodes:
        if graph.is_a(node, "Gather") and (found := _from_table(graph, node)):
            taken[node.output[0]] = found
    count, sunk = 0, bool(taken)
    while sunk:
        sunk = False
        for node in list(graph.nodes):
            if node.output[0] not in taken and _sink(graph, node, taken):
                count, sunk = count + 1, True
    return count


def _from_table(graph: Graph, gather: Any) -> _Taken | None:
    table, index = (graph.shape(name) for name in gather.input)
    if attribute(gather, "axis", 0) != 0 or table is None or len(table) != 2 or index is None:
        return None
    # Where fewer rows are taken than there are, doing it to all of them would be more.
    many = -1 in index or table[0] < np.prod(index)
    if not many or graph.constant(gather.input[0]) is None:
        return None
    return _Taken(gather.input[0], table[0], gather.input[1], len(index))


def _sink(graph: Graph, node: Any, taken: dict[str, _Taken]) -> bool:
    sources = [taken[name] for name in node.input if name in taken]
    if not sources or not graph.is_a(node, *_ELEMENTWISE):
        return False
    first = sources[0]
    if any((each.index, each.rows) != (first.index, first.rows) for each in sources):
        return False
    inputs = []
    for name in node.input:
        row = taken[name].table if name in taken else _for_a_row(graph, name, first.rank + 1)
        if row is None:
            return False
        inputs.append(row)
    out = node.output[0]
    table = f"{out}_table"
    kept = {each.name: attribute(node, each.name) for each in node.attribute}
    graph.remove(node)
    graph.add_node(node.op_type, inputs, table, **kept)
    graph.add_node("Gather", [table, first.index], out, axis=0)
    taken[out] = dataclasses.replace(first, table=table)
    for name in node.input:
        gather = graph.maker(name, "Gather") if name in taken else None
        if gather is not None and not graph.takers(name) and name not in graph.outputs:
            graph.remove(gather)
    return True


def _for_a_row(graph: Graph, name: str, rank: int) -> str | None:
    """Return a constant in the form that goes with a row of the table, None where it has none."""
    if not name:
        return name
    array = graph.constant(name)
    if array is None or array.ndim > rank or (array.ndim and array.size != array.shape[-1]):
        return None
    return graph.add_constant(f"{name}_row", array.reshape(array.shape[-1:]))
