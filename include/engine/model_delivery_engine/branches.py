"""Branches that a model always takes: the other one is left out.

ONNX Runtime does so itself where it optimises, and with branches inside of branches it breaks a
model, or ends the process: so what is known is settled before it reads the graph.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from model_delivery_engine.errors import InferenceError
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.runtime import Model, open_session


def take_branches(model: Any) -> None:
    """Put the branch that each ``If`` of an ``onnx.ModelProto`` is known to take in its place.

    Known is a condition that depends on no input, also of an ``If`` that a branch brings with it.
    """
    graph = model.graph
    left = set()  # by condition: those that depend on an input, or that nothing here computes
    while node := next((n for n in graph.node if _branches(n) and n.input[0] not in left), None):
        condition = _known(model, node.input[0])
        if condition is None:
            left.add(node.input[0])
            continue
        _put(graph, node, _branches(node)["then_branch" if condition else "else_branch"])


def _branches(node: Any) -> dict[str, Any]:
    return {each.name: each.g for each in node.attribute} if node.op_type == "If" else {}


def _known(model: Any, name: str) -> bool | None:
    """Return a condition's value; None where it depends on an input."""
    graph = model.graph
    makers = {made: node for node in graph.node for made in node.output if made}
    constants = {each.name: each for each in graph.initializer}
    needed, waiting, seen = [], [name], set()
    while waiting:
        wanted = waiting.pop()
        if wanted in seen or not wanted:
            continue
        seen.add(wanted)
        if wanted in constants:
            continue
        node = makers.get(wanted)
        if node is None or any(each.HasField("g") or each.graphs for each in node.attribute):
            return None
        needed.append(node.output[0])
        waiting += node.input
    part = onnx.helper.make_graph(
        [node for node in graph.node if node.output and node.output[0] in needed],
        "condition",
        [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None)],
        [each for name, each in constants.items() if name in seen],
    )
    asked = onnx.helper.make_model(
        part,
        opset_imports=model.opset_import,
        functions=list(model.functions),
        ir_version=model.ir_version,
    )
    try:
        opened = open_session(asked.SerializeToString(), unoptimised_options())
        return bool(Model(opened, "condition").run({})[name])
    except InferenceError:
        return None


def _put(graph: Any, node: Any, branch: Any) -> None:
    # Of inner graphs too: what one of them calls by a name of the branch's would be another thing
    # once that name stands around it.
    taken = set(node.output) | _names_in(graph, [each for each in graph.node if each is not node])
    body = copy.deepcopy(branch)
    weights = (*body.initializer, *(each.values for each in body.sparse_initializer))
    names: dict[str, str] = {}
    for name in _own_names(body):
        new = name
        while new in taken:
            new = f"{node.name or node.output[0]}/{new}"
        taken.add(new)
        if new != name:
            names[name] = new
    for each in weights:
        each.name = names.get(each.name, each.name)
    _rename(body.node, names)
    results = [names.get(each.name, each.name) for each in body.output]
    nodes = list(body.node) + [
        onnx.helper.make_node("Identity", [result], [output])
        for result, output in zip(results, node.output, strict=True)
        if output
    ]
    before = list(graph.node)
    at = next(number for number, each in enumerate(before) if each is node)
    del graph.node[:]
    graph.node.extend([*before[:at], *nodes, *before[at + 1 :]])
    graph.initializer.extend(body.initializer)
    graph.sparse_initializer.extend(body.sparse_initializer)


def _own_names(graph: Any) -> list[str]:
    """Return what a graph itself names: its weights, and what its operators make."""
    weights = (*graph.initializer, *(each.values for each in graph.sparse_initializer))
    made = (name for node in graph.node for name in node.output if name)
    return [*(each.name for each in weights), *made]


def _names_in(graph: Any, nodes: Iterable[Any]) -> set[str]:
    """Return every name in a graph of these operators, and in the graphs that they hold."""
    found = {each.name for each in (*graph.input, *graph.output)} | set(_own_names(graph))
    for node in nodes:
        found.update(node.input, node.output)
        for attribute in node.attribute:
            inner = (attribute.g, *attribute.graphs)
            found.update(*(_names_in(each, each.node) for each in inner))
    return found


def _rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    if not names:
        return
    for node in nodes:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(each, each) for each in tensors]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner.node, names)
                for output in inner.output:
                    output.name = names.get(output.name, output.name)
