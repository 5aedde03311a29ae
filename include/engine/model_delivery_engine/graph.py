"""Reading an ONNX graph and refusing what cannot be compiled, each reason by name."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from model_delivery_engine.errors import CompilationError, InferenceError, one_line
from model_delivery_engine.runtime import open_session, session_options

# The domains whose operators ONNX Runtime's published builds carry.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message


def load_graph(path: Path) -> Any:
    """Read an ONNX file, with the weights it keeps in files beside it.

    :returns: an ``onnx.ModelProto``
    :raises CompilationError: not an ONNX model, over 2 GiB, an operator set or a custom operator
        that nothing here runs
    """
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise CompilationError(
            f"{path.name} is not a complete ONNX model ({one_line(error)}); pack it again"
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise CompilationError(f"{path.name} has no graph; export the model and pack it again")
    if model.ByteSize() > _MAX_BYTES:
        raise CompilationError(f"{path.name} is over 2 GiB with its weights; split or quantise it")
    _check_operator_sets(model, path.name)
    _check_operators(model, path.name)
    return model


def check_graph(model: Any, name: str) -> None:
    """Run ONNX's own checker, shapes included; CompilationError carries what it found."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompilationError(
            f"{name} is not valid ONNX: {one_line(error)}; export the model again"
        ) from error


@functools.cache
def newest_operator_set() -> int:
    """Return the newest operator set that both onnx and ONNX Runtime know.

    The runtime trails the format and has no call that says by how much, so it is tried.
    """
    newest: int = onnx.defs.onnx_opset_version()
    return next((version for version in range(newest, 1, -1) if _runs(version)), 1)


def _runs(operator_set: int) -> bool:
    tensors = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "probe", tensors[:1], tensors[1:])
    imports = [onnx.helper.make_opsetid("", operator_set)]
    # IR version 10 is old enough for any runtime that this package accepts.
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        open_session(model.SerializeToString(), session_options())
    except InferenceError:
        return False
    return True


def _check_operator_sets(model: Any, name: str) -> None:
    newest = newest_operator_set()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise CompilationError(
                f"{name} uses operator set {opset.version}, the newest known here is {newest}; "
                f"export it with opset_version={newest} or lower"
            )


def _check_operators(model: Any, name: str) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in _all_nodes(node for body in bodies for node in body):
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own:
            raise CompilationError(
                f"{name}: node {node.name or node.op_type!r} is the custom operator "
                f"{node.domain}.{node.op_type}, which nothing here can run; "
                "export the model with standard operators only"
            )


def _all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Nodes and those in their branches and loop bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)
