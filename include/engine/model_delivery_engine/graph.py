"""Reading an ONNX graph and refusing what cannot be compiled, each reason by name."""

import contextlib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from model_delivery_engine import weights
from model_delivery_engine.branches import take_branches
from model_delivery_engine.errors import CompilationError, InferenceError, Reason, one_line
from model_delivery_engine.fixed_inputs import FixedInputs, fix_inputs
from model_delivery_engine.nodes import all_nodes, all_tensors
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.runtime import open_session, session_options
from model_delivery_engine.shape_inference import infer_shapes, inferable
from model_delivery_engine.shapes import Shapes, fix_shapes, own_shapes
from model_delivery_engine.soundness import refuse_unsound

# The domains whose operators ONNX Runtime's published builds carry.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MAX_BYTES = weights.MOST_BYTES
# Of a model with its functions written out, as checker and runtime do with each call of one.
_MOST_NODES = 1_000_000
# What the checker finds; a data type or a text that the format does not have, its binding beneath.
_CHECKS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)
_MOST_CALLS = 32  # functions that call one another


def prepare_graph(
    path: Path, shapes: Shapes, into: Path, values: FixedInputs | None = None
) -> None:
    """Write a model with its shapes fixed, every node named, its weights beside it, and checked.

    :param shapes: from `parse_data_input_config`; empty takes the model's own
    :param into: the ONNX file to write, with its weights as `weights.save` lays them
    :param values: of inputs that become constants (default: none)
    :raises CompilationError: a model that cannot be compiled; DataInputError where the shapes do
        not fit, or the model does not say its own; OptionsError where the values do not
    """
    graph = load_graph(path)
    fix_shapes(graph, shapes or own_shapes(graph))
    if values:
        fix_inputs(graph, values)
    take_branches(graph)
    constants_to_weights(graph)
    refuse_unsound(graph, path.name)
    name_nodes(graph)
    weights.save(graph, into)
    declare_outputs(graph, into)
    # The checker reads the file: given the message, it would copy it twice.
    del graph
    check_graph(into, path.name)


def load_graph(path: Path) -> Any:
    """Read an ONNX model that is to be compiled, with the weights it keeps in files beside it.

    :returns: an ``onnx.ModelProto``
    :raises CompilationError: not an ONNX model, over 2 GiB, an operator set or a custom operator
        that nothing here runs, functions that call one another without end
    """
    model = read_whole(path)
    _check_operator_sets(model, path.name)
    _check_operators(model, path.name)
    _check_functions(model, path.name)
    return model


def read_whole(path: Path) -> Any:
    """Read an ONNX file, with the weights it keeps in files beside it.

    :returns: an ``onnx.ModelProto`` that needs no other file
    :raises CompilationError: not an ONNX model, or over 2 GiB
    """
    around = sum(each.stat().st_size for each in path.parent.rglob("*") if each.is_file())
    try:
        if around > _MAX_BYTES:
            # Only the graph is read, to say so of a model and not of what lies beside it.
            sizes = _external_bytes(path)
            if path.stat().st_size + sizes > _MAX_BYTES:
                raise _too_large(path)
        model = onnx.load(path)
        size = model.ByteSize()
    except EncodeError as error:  # what was read is more than protobuf can count
        raise _too_large(path) from error
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        # Where it was unpacked tells nobody anything.
        text = one_line(str(error).replace(f"{path.parent}/", ""))
        raise CompilationError(
            f"{path.name} is not a complete ONNX model ({text}); pack it again",
            reason=Reason.MODEL_UNREADABLE,
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise CompilationError(
            f"{path.name} has no graph; export the model and pack it again",
            reason=Reason.MODEL_UNREADABLE,
        )
    if not model.graph.output:
        raise CompilationError(
            f"{path.name} has no output, so that it answers nothing; export it with the tensors "
            "that are its answers"
        )
    if size > _MAX_BYTES:
        raise _too_large(path)
    return model


def name_nodes(model: Any) -> None:
    """Give every node of an ``onnx.ModelProto`` a name of its own: quantisation goes by names."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)


def constants_to_weights(model: Any) -> None:
    """Turn the tensors of ``Constant`` nodes into initialisers, where some exporters keep weights.

    A constant that is an output of the model stays a node.
    """
    graph = model.graph
    outputs = {each.name for each in graph.output}
    kept = []
    for node in graph.node:
        values = [each.t for each in node.attribute if each.name == "value"]
        if node.op_type != "Constant" or not values or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor = graph.initializer.add()
        tensor.CopyFrom(values[0])
        tensor.name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def declare_outputs(model: Any, path: Path) -> None:
    """Give outputs that have no shape the one that ONNX, or ONNX Runtime, infers of them.

    ONNX's checker wants a shape, and ONNX Runtime runs a model without.

    :param model: what was written without its weights
    :param path: where, which is written again
    """
    silent = [each for each in model.graph.output if _lacks_shape(each)]
    if not silent:
        return
    with contextlib.suppress(*_CHECKS):  # the checker says what is wrong with the graph
        for each in infer_shapes(model).graph.output:
            for mine in (own for own in silent if own.name == each.name):
                if not _lacks_shape(each):
                    mine.type.CopyFrom(each.type)
    with contextlib.suppress(InferenceError):
        if any(map(_lacks_shape, silent)):
            session = open_session(path, unoptimised_options())
            inferred = {node.name: node for node in session.get_outputs()}
            for mine in filter(_lacks_shape, silent):
                element, shape = _ELEMENTS.get(inferred[mine.name].type), inferred[mine.name].shape
                if element and shape:
                    info = onnx.helper.make_tensor_value_info(mine.name, element, shape)
                    mine.CopyFrom(info)
    onnx.save(model, path)


def _lacks_shape(node: Any) -> bool:
    kind = node.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not node.type.tensor_type.HasField("shape"))


def complete_types(path: Path, into: Path) -> None:
    """Write a model with the type of every tensor that ONNX Runtime infers and ONNX does not.

    ONNX infers nothing behind an operator of ``ai.onnx.ml`` or ``com.microsoft``; a quantiser needs
    to know what is a float there.

    :param into: in the folder of ``path``, whose weights it shares
    """
    model = weights.skeleton(path)
    known = {each.name for each in (*model.graph.value_info, *model.graph.output)}
    made = [name for node in model.graph.node for name in node.output if name]
    wanted = [name for name in made if name not in known]
    outputs = list(model.graph.output)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    onnx.save(model, into)
    session = open_session(into, unoptimised_options())
    inferred = {node.name: node for node in session.get_outputs()}
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    for name in wanted:
        if element := _ELEMENTS.get(inferred[name].type):
            info = onnx.helper.make_tensor_value_info(name, element, _shape(inferred[name]))
            model.graph.value_info.append(info)
    onnx.save(model, into)


_ELEMENTS = {
    "tensor(float)": onnx.TensorProto.FLOAT,
    "tensor(double)": onnx.TensorProto.DOUBLE,
    "tensor(float16)": onnx.TensorProto.FLOAT16,
    "tensor(int32)": onnx.TensorProto.INT32,
    "tensor(int64)": onnx.TensorProto.INT64,
    "tensor(uint8)": onnx.TensorProto.UINT8,
    "tensor(int8)": onnx.TensorProto.INT8,
    "tensor(bool)": onnx.TensorProto.BOOL,
}


def _shape(node: Any) -> list[int | str | None] | None:
    """Return a tensor's shape, None where ONNX Runtime knows none: it says that of a scalar too."""
    if not node.shape:
        return None
    return [size if isinstance(size, (int, str)) else None for size in node.shape]


def _too_large(path: Path) -> CompilationError:
    return CompilationError(
        f"{path.name} is over 2 GiB with its weights; split or quantise it",
        reason=Reason.MODEL_TOO_LARGE,
    )


def _external_bytes(path: Path) -> int:
    """Return what a model's weights take in files beside it: to a file's end where none says."""
    total = 0
    for tensor in all_tensors(weights.skeleton(path).graph):
        said = {entry.key: entry.value for entry in tensor.external_data}
        file = path.parent / said.get("location", "")
        if said.get("length", "").isdigit():
            total += int(said["length"])
        elif said and file.is_file():
            offset = said.get("offset", "")
            total += max(0, file.stat().st_size - (int(offset) if offset.isdigit() else 0))
    return total


def check_graph(path: Path, name: str) -> None:
    """Run ONNX's own checker on a file, shapes included; CompilationError carries its finding.

    :param name: how messages call the model
    """
    try:
        onnx.checker.check_model(str(path))
        typed = path.with_name(f"{path.stem}.typed.onnx")  # beside the weights, by their names
        onnx.save(inferable(weights.skeleton(path)), typed)
        onnx.checker.check_model(str(typed), full_check=True)
        typed.unlink()
    except _CHECKS as error:
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
                f"export it with opset_version={newest} or lower",
                reason=Reason.OPSET_TOO_NEW,
            )


def _check_operators(model: Any, name: str) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in all_nodes(node for body in bodies for node in body):
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own:
            raise CompilationError(
                f"{name}: node {node.name or node.op_type!r} is the custom operator "
                f"{node.domain}.{node.op_type}, which nothing here can run; "
                "export the model with standard operators only",
                reason=Reason.OPERATOR_CUSTOM,
                operator=f"{node.domain}.{node.op_type}",
            )


def _check_functions(model: Any, name: str) -> None:
    bodies = {(each.domain, each.name): each.node for each in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def written_out(nodes: Iterable[Any], depth: int) -> int:
        size = 0
        for node in all_nodes(nodes):
            called = (node.domain, node.op_type)
            if called in bodies and called not in sizes:
                if depth == _MOST_CALLS:
                    raise _endless(f"{_MOST_CALLS} functions deep", name)
                sizes[called] = written_out(bodies[called], depth + 1)
            size += sizes.get(called, 1)
        if size > _MOST_NODES:
            raise _endless(f"into more than {_MOST_NODES:,} operators", name)
        return size

    written_out(model.graph.node, 0)


def _endless(how: str, name: str) -> CompilationError:
    return CompilationError(
        f"{name}: its functions call one another {how}; export the model without functions",
        reason=Reason.MODEL_TOO_LARGE,
    )
