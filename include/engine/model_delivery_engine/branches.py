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

_BRANCHES = ("then_branch", "else_branch")


def take_branches(model: Any) -> None:
    """Put the branch that each ``If`` of an ``onnx.ModelProto`` is known to take in its place.

    Known is a condition that depends on no input, also of an ``If`` that a branch brings with it,
    or that stands in a loop's body or in a branch that may be taken.
    """
    _take(model, (model.graph,))


def _take(model: Any, scopes: tuple[Any, ...]) -> None:
    """Take the branches of the last of these graphs, each of which stands in the one before."""
    graph = scopes[-1]
    left = set()  # by condition: those that depend on an input, or that nothing here computes
    while node := next((n for n in graph.node if _branches(n) and n.input[0] not in left), None):
        condition = _known(model, scopes, node.input[0])
        if condition is None:
            left.add(node.input[0])
            continue
        branch = _branches(node)["then_branch" if condition else "else_branch"]
        _put(model.graph, graph, node, branch)
    for node in graph.node:
        for attribute in node.attribute:
            held = (attribute.g,) if attribute.HasField("g") else ()
            for inner in (*held, *attribute.graphs):
                _take(model, (*scopes, inner))


def _branches(node: Any) -> dict[str, Any]:
    """Return the two branches of a whole ``If``; empty for what only ONNX Runtime can refuse."""
    if node.op_type != "If" or len(node.input) != 1:
        return {}
    found = {each.name: each.g for each in node.attribute if each.name in _BRANCHES}
    as_many = all(len(each.output) == len(node.output) for each in found.values())
    return found if len(found) == len(_BRANCHES) and as_many else {}


def _known(model: Any, scopes: tuple[Any, ...], name: str) -> bool | None:
    """Return a condition's value; None where it depends on an input."""
    makers: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    nodes = []
    for graph in scopes:
        if graph is not model.graph:  # what a loop passes to its body is no constant around it
            for each in graph.input:
                makers.pop(each.name, None)
                constants.pop(each.name, None)
        makers |= {made: node for node in graph.node for made in node.output if made}
        constants |= {each.name: each for each in graph.initializer}
        nodes += graph.node
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
        needed.append(node)
        waiting += node.input
    part = onnx.helper.make_graph(
        [n for n in nodes if any(n is each for each in needed)],
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
        answer = Model(opened, "condition").run({})[name]
        return bool(answer) if answer.size == 1 else None
    except InferenceError:
        return None


def _put(whole: Any, graph: Any, node: Any, branch: Any) -> None:
    # Of all graphs: what one of them calls by a name of the branch's would be another thing once
    # that name stands around it.
    taken = set(node.output) | _names_in(whole, node)
    body = copy.deepcopy(branch)
    weights = (*body.initializer, *(each.values for each in body.sparse_initializer))
    inside = _names_in(branch, None)
    names: dict[str, str] = {}
    for name in _own_names(body):
        new = name
        while new in taken or (new != name and new in inside):
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


def _names_in(graph: Any, without: Any) -> set[str]:
    """Return every name in a graph and in those that it holds, but for one operator's."""
    found = {each.name for each in (*graph.input, *graph.output)} | set(_own_names(graph))
    for node in (each for each in graph.node if each is not without):
        found.update(node.input, node.output)
        for attribute in node.attribute:
            inner = (attribute.g, *attribute.graphs)
            found.update(*(_names_in(each, without) for each in inner))
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
