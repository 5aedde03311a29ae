"""What no answer can be proved of: weights that are no numbers, operators that draw at random.

A NaN among the weights may hide behind an operator that answers integers, and a model that draws
random numbers answers differently each time. Both are found in the graph, not in its answers.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx

from model_delivery_engine.errors import CompilationError, Reason

_RANDOM = frozenset(
    {
        "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike",
    }
)  # fmt: skip
# Operators in which a constant is a factor or a statistic: an infinite one makes each answer
# infinite or NaN. Elsewhere it is a mask (attention adds one), or a bound of Clip, Min or Max.
_FACTORS = frozenset(
    {
        "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "Einsum", "GRU", "Gemm",
        "GroupNormalization", "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul",
        "RNN",
    }
)  # fmt: skip
# Operators that put a constant in the place of a value, or look for it: NaN is its name there.
_FILLS = frozenset({"ConstantOfShape", "Equal", "Expand", "IsNaN", "Pad", "Where"})
# What a lone value goes through on its way there.
_PASSING = frozenset({"Cast", "CastLike", "Identity", "Reshape", "Unsqueeze"})
_FLOATS: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.DOUBLE: np.dtype("<f8"),
    onnx.TensorProto.FLOAT16: np.dtype("<f2"),
}
_CHUNK = 2**22  # bytes looked at in one go


def refuse_unsound(model: Any, name: str) -> None:
    """Refuse an ``onnx.ModelProto`` that nothing can be proved of.

    :param name: how messages call the model
    :raises CompilationError: an operator that draws at random, a weight that is NaN, or infinite
        where it is a factor; names the node or the weight
    """
    takers: dict[str, set[str]] = {}
    bodies = [inner for body in (model.graph, *model.functions) for inner in _graphs(body)]
    for graph in bodies:
        for node in graph.node:
            if node.op_type in _RANDOM:
                raise _random(node, name)
            if node.op_type == "Dropout" and _trains(node, graph):
                raise _random(node, name)
            for tensor in node.input:
                takers.setdefault(tensor, set()).add(node.op_type)
            for attribute in node.attribute:
                if attribute.name.endswith("_weights") and not np.isfinite(attribute.floats).all():
                    raise _unsound(f"leaves of trees ({node.name or node.op_type})", "NaN", name)
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            _check(tensor, takers.get(tensor.name, set()), name)


def _check(tensor: Any, takers: set[str], name: str) -> None:
    if not takers:  # what no operator takes harms none
        return
    has_nan, has_infinite = _look(tensor)
    lone = int(np.prod(tensor.dims)) == 1
    if has_nan and not takers <= (_FILLS | _PASSING if lone else _FILLS):
        raise _unsound(f"weight {tensor.name!r}", "NaN", name)
    if has_infinite and takers & _FACTORS:
        raise _unsound(f"weight {tensor.name!r}", "infinite", name)


def _look(tensor: Any) -> tuple[bool, bool]:
    """Return whether a tensor has NaN, and whether it has infinities; without a copy of it."""
    dtype = _FLOATS.get(tensor.data_type)
    if dtype is None:
        return False, False
    if not tensor.HasField("raw_data"):
        values = _array(tensor)
        return bool(np.isnan(values).any()), bool(np.isinf(values).any())
    has_nan = has_infinite = False
    data = memoryview(tensor.raw_data)
    for start in range(0, len(data) - len(data) % dtype.itemsize, _CHUNK):
        part = data[start : start + _CHUNK]
        values = np.frombuffer(part, dtype, len(part) // dtype.itemsize)
        if not np.isfinite(values).all():
            has_nan |= bool(np.isnan(values).any())
            has_infinite |= bool(np.isinf(values).any())
    return has_nan, has_infinite


def _array(tensor: Any) -> Any:
    """Return a tensor's values; none where it does not fit its shape, which the checker says."""
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError):
        return np.zeros(0)


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph (or a function) and those of its branches and loop bodies."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _inner(attribute):
                yield from _graphs(inner)


def _inner(attribute: Any) -> Iterable[Any]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs)


def _trains(node: Any, graph: Any) -> bool:
    """Tell whether a Dropout drops: its third input says so, where it is a constant."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    for tensor in getattr(graph, "initializer", ()):
        if tensor.name == node.input[2]:
            return bool(_array(tensor).any())
    return False


def _random(node: Any, name: str) -> CompilationError:
    return CompilationError(
        f"{name}: node {node.name or node.op_type} draws random numbers ({node.op_type}), so that "
        "no two runs answer alike and nothing can be proved of the model; take the numbers as an "
        "input, or export it for inference (model.eval())",
        reason=Reason.OPERATOR_UNSUPPORTED,
        operator=node.op_type,
    )


def _unsound(what: str, value: str, name: str) -> CompilationError:
    return CompilationError(
        f"{name}: {what} has {value} values; look where training diverged, and train or export "
        "the model again",
        reason=Reason.WEIGHTS_NOT_FINITE,
    )
