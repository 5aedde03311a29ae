"""Half arithmetic where a processor has none: each result is rounded to half as it is made.

ONNX Runtime computes a node of halves that it has no kernel for in single precision, and leaves out
the conversions between two of them. What is beyond 65,504 in between is a number there, and
infinite on a device that does compute in halves. Sums inside of an operator are not rounded here,
nor is what the bodies of loops and branches compute.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx

from model_delivery_engine import weights
from model_delivery_engine.errors import EngineError
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.runtime import Model, open_session
from model_delivery_engine.tensors import Array

LARGEST = 65_504.0
_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def round_results(source: Path, half: Path, into: Path) -> None:
    """Write a model that answers as its form in halves does where those are computed in halves.

    :param source: in single precision, with the type of every tensor written, as
        `graph.complete_types` leaves it
    :param half: what `floating.to_fp16` made of it, whose weights are taken
    :param into: in the folder of ``source``, whose other weights it shares
    """
    model = weights.skeleton(source)
    graph = model.graph
    halves = {t.name: t for t in onnx.load(half).graph.initializer if t.data_type == _HALF}
    floats = _floats(graph)
    nodes = []
    for tensor in graph.initializer:
        name = tensor.name
        if tensor.data_type == _FLOAT and name in halves:
            tensor.CopyFrom(halves[name])
            tensor.name = f"{name}.half"
            nodes.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=_FLOAT))
    inputs = {each.name: f"{each.name}.rounded" for each in graph.input if each.name in floats}
    for name, rounded in inputs.items():
        nodes += _rounding(name, rounded)
    for node in graph.node:
        node.input[:] = [inputs.get(name, name) for name in node.input]
        made = [name for name in node.output if name in floats]
        node.output[:] = [f"{name}.single" if name in made else name for name in node.output]
        nodes.append(node)
        for name in made:
            nodes += _rounding(f"{name}.single", name)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    weights.save(model, into)


def _floats(graph: Any) -> set[str]:
    """Return the names of a graph's tensors in single precision."""
    typed = (*graph.input, *graph.value_info, *graph.output)
    return {each.name for each in typed if each.type.tensor_type.elem_type == _FLOAT}


def _rounding(name: str, into: str) -> list[Any]:
    make = onnx.helper.make_node
    return [
        make("Cast", [name], [f"{into}.half"], to=_HALF),
        make("Cast", [f"{into}.half"], [into], to=_FLOAT),
    ]


def find_overflow(source: Path, runs: Iterable[Mapping[str, Array]], into: Path) -> str | None:
    """Return in words the first operator that computes beyond half's range; None for none.

    The largest magnitude of each result is an output of its own, so that none of them is kept.

    :param source: in single precision, as `round_results` takes it
    :param runs: inputs
    :param into: a file to write, in the folder of ``source``
    """
    model = weights.skeleton(source)
    graph, floats = model.graph, _floats(model.graph)
    made = [(node, name) for node in graph.node for name in node.output if name in floats]
    del graph.output[:]
    for place, (_, name) in enumerate(made):
        sizes, largest = f"sizes.{place}", f"largest.{place}"
        graph.node.append(onnx.helper.make_node("Abs", [name], [sizes]))
        graph.node.append(onnx.helper.make_node("ReduceMax", [sizes], [largest], keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info(largest, _FLOAT, []))
    onnx.save(model, into)
    try:
        opened = Model(open_session(into, unoptimised_options()), into.stem)
        for inputs in runs:
            for found, (node, _) in zip(opened.run(inputs).values(), made, strict=True):
                if found > LARGEST:
                    return f"operator {node.name!r} ({node.op_type}) reaches {float(found):.3g}"
    except EngineError:  # an empty result has no largest value
        return None
    return None
