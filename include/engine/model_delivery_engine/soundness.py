"""What no answer can be proved of: weights that are no numbers, operators that draw at random.

A NaN among the weights may hide behind an operator that answers integers, and a model that draws
random numbers answers differently each time. Both are found in the graph, not in its answers.
"""

from collections.abc import Iterable, Iterator, Mapping
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
        "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DequantizeLinear", "Div",
        "DynamicQuantizeMatMul", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm",
        "GroupNormalization", "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul",
        "MatMulIntegerToFloat", "MatMulNBits", "Mul", "QLinearConv", "QLinearMatMul",
        "QuantizeLinear", "RNN",
    }
)  # fmt: skip
# Operators that put a constant in the place of a value, or look for it: NaN is its name there.
_FILLS = frozenset({"ConstantOfShape", "Equal", "Expand", "IsNaN", "Pad", "Where"})
# Attributes in which NaN is the name of a missing value, or parts a list: by operator.
_NAMING = {
    "ConstantOfShape": ("value",),
    "Imputer": ("imputed_value_floats", "replaced_value_float"),
    "LabelEncoder": (
        "default_float", "default_tensor", "keys_floats", "keys_tensor", "values_floats",
        "values_tensor",
    ),
    "Pad": ("value",),
    "TreeEnsemble": ("membership_values",),
}  # fmt: skip
# Attributes that are weights, of a classic model's operators and of trees.
_WEIGHTS = frozenset(
    {
        "base_values", "class_weights", "coefficients", "intercepts", "leaf_weights", "offset",
        "prob_a", "prob_b", "rho", "scale", "support_vectors", "target_weights", "vectors",
    }
)  # fmt: skip
# What a constant goes through unchanged, so that it is what takes the result that counts.
_SHAPING = frozenset(
    {
        "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze",
        "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# What a lone value goes through on its way there.
_PASSING = frozenset({"Cast", "CastLike", "Identity", "Reshape", "Unsqueeze"})
# Read piece by piece, as they lie there; of other floats a copy is made.
_FLOATS: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.DOUBLE: np.dtype("<f8"),
    onnx.TensorProto.FLOAT16: np.dtype("<f2"),
}
_SMALL_FLOATS = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("BFLOAT", "FLOAT8", "FLOAT4")) and number not in _FLOATS
)
_CHUNK = 2**22  # bytes looked at in one go


def refuse_unsound(model: Any, name: str) -> None:
    """Refuse an ``onnx.ModelProto`` that nothing can be proved of.

    :param name: how messages call the model
    :raises CompilationError: an operator that draws at random, a weight that is NaN, or infinite
        where it is a factor; names the node or the weight
    """
    functions = _Functions(model.functions)
    # A function's names are its own; a branch sees those around it.
    for body in (model.graph, *model.functions):
        uses = _Uses(functions)
        truths = [
            each for graph in _graphs(body) for each in _constants(graph) if _is_true(each[1])
        ]
        for graph in _graphs(body):
            for node in graph.node:
                if node.op_type in _RANDOM or _trains(node, dict(truths)):
                    raise _random(node, name)
                _check_attributes(node, name)
            uses.add(graph)
        for graph in _graphs(body):
            for what, tensor in _constants(graph):
                _check(what, tensor, uses, name)


class _Functions:
    """What a model's own functions do with what they are given, each looked at once."""

    def __init__(self, functions: Iterable[Any]) -> None:
        self._functions = {(each.domain, each.name): each for each in functions}
        self._uses: dict[tuple[str, str], _Uses] = {}
        self._reached: dict[tuple[str, str, int], set[str]] = {}

    def reached(self, node: Any, place: int) -> set[str]:
        """Return what a call's input reaches inside; nothing for an operator that is no call."""
        key = (node.domain, node.op_type)
        function = self._functions.get(key)
        if function is None or place >= len(function.input):
            return set()
        if (*key, place) not in self._reached:
            self._reached[*key, place] = set()  # where a function calls itself, which none may
            if key not in self._uses:
                self._uses[key] = _Uses(self)
                for graph in _graphs(function):
                    self._uses[key].add(graph)
            self._reached[*key, place] = self._uses[key].reached(function.input[place])
        return self._reached[*key, place]


class _Uses:
    """Which operators take a tensor of a graph or a function, itself or unchanged in another."""

    def __init__(self, functions: _Functions) -> None:
        self._functions = functions
        self._takers: dict[str, list[tuple[Any, int]]] = {}

    def add(self, graph: Any) -> None:
        """Add the nodes of a graph, without those of its branches."""
        for node in graph.node:
            for place, tensor in enumerate(node.input):
                self._takers.setdefault(tensor, []).append((node, place))

    def direct(self, tensor: str) -> set[str]:
        """Return the types of the operators that take a tensor as it is."""
        return {node.op_type for node, _ in self._takers.get(tensor, ())}

    def reached(self, tensor: str) -> set[str]:
        """Return the types of the operators that a tensor's values reach unchanged."""
        found: set[str] = set()
        seen, waiting = {tensor}, [tensor]
        while waiting:
            for node, place in self._takers.get(waiting.pop(), ()):
                found.add(node.op_type)
                if node.op_type in _SHAPING:
                    waiting += [each for each in node.output if each not in seen]
                    seen |= set(node.output)
                waiting += [each for each in _given(node, place) if each not in seen]
                seen |= set(_given(node, place))
                found |= self._functions.reached(node, place)
        return found


def _given(node: Any, place: int) -> list[str]:
    """Return what a loop's body calls the tensor that the loop takes at a place."""
    bodies = [inner for attribute in node.attribute for inner in _inner(attribute)]
    if node.op_type not in ("Loop", "Scan"):
        return []
    return [body.input[place].name for body in bodies if place < len(body.input)]


def _check_attributes(node: Any, name: str) -> None:
    named = _NAMING.get(node.op_type, ())
    for attribute in node.attribute:
        has_nan, has_infinite = _look_attribute(attribute)
        if node.op_type == "Constant" or str(attribute.name).endswith("hitrates"):
            continue  # looked at as weights are; counts of training that no answer depends on
        what = f"{attribute.name} of {node.op_type} {node.name!r}"
        if has_nan and attribute.name not in named:
            raise _unsound(what, "NaN", name)
        weight = attribute.name in _WEIGHTS or (
            node.op_type == "Gemm" and attribute.name in ("alpha", "beta")
        )
        if has_infinite and weight:
            raise _unsound(what, "infinite", name)


def _look_attribute(attribute: Any) -> tuple[bool, bool]:
    floats = np.asarray([attribute.f, *attribute.floats])
    found = [_look(attribute.t), *map(_look, attribute.tensors)]
    has_nan = bool(np.isnan(floats).any()) or any(each[0] for each in found)
    return has_nan, bool(np.isinf(floats).any()) or any(each[1] for each in found)


def _constants(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a graph that are no node's result, with the names that nodes take."""
    for tensor in getattr(graph, "initializer", ()):
        yield tensor.name, tensor
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield sparse.values.name, sparse.values
    for node in graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name == "sparse_value":
                yield node.output[0], attribute.sparse_tensor.values
            elif attribute.name in ("value_float", "value_floats"):
                values = np.asarray(attribute.floats or [attribute.f], np.float32)
                yield node.output[0], onnx.numpy_helper.from_array(values)
            elif attribute.name == "value":
                yield node.output[0], attribute.t


def _check(what: str, tensor: Any, uses: _Uses, name: str) -> None:
    has_nan, has_infinite = _look(tensor)
    if not (has_nan or has_infinite):
        return
    direct, reached = uses.direct(what), uses.reached(what)
    lone = int(np.prod(tensor.dims)) == 1
    # What no operator takes harms none.
    if has_nan and not direct <= (_FILLS | _PASSING if lone else _FILLS):
        raise _unsound(f"weight {what!r}", "NaN", name)
    if has_infinite and reached & _FACTORS:
        raise _unsound(f"weight {what!r}", "infinite", name)


def _look(tensor: Any) -> tuple[bool, bool]:
    """Return whether a tensor has NaN, and whether it has infinities; without a copy of it."""
    dtype = _FLOATS.get(tensor.data_type)
    if dtype is None and tensor.data_type not in _SMALL_FLOATS:
        return False, False
    if dtype is None or not tensor.HasField("raw_data"):
        values = _array(tensor).astype(np.float32 if dtype is None else dtype)
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


def _trains(node: Any, truths: Mapping[str, Any]) -> bool:
    """Tell whether a Dropout drops: its third input says so, where it is a constant."""
    return node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in truths


def _is_true(tensor: Any) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and bool(_array(tensor).any())


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
