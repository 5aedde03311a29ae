"""TorchScript operators that PyTorch's own exporter converts wrongly, or not at all.

``floor_divide`` truncates in PyTorch's exporter since the days when PyTorch did; ``logsigmoid`` is
the logarithm of a sigmoid there, which is zero for large negative inputs; ``atan2`` is -π for π on
its cut.
"""

import math
from typing import Any

from model_delivery_engine.frameworks.conversion import OPSET


def register_operators() -> None:
    """Register the operators, inside the environment."""
    from torch.onnx import register_custom_op_symbolic

    for name, symbolic in (
        ("floor_divide", _floor_divide),
        ("trunc", _trunc),
        ("fix", _trunc),
        ("log_sigmoid", _log_sigmoid),
        ("atan2", _atan2),
    ):
        register_custom_op_symbolic(f"aten::{name}", symbolic, OPSET)


def _is_float(value: Any) -> bool:
    from torch.onnx import symbolic_helper

    return bool(symbolic_helper._is_fp(value))


def _constant(g: Any, value: float, like: Any) -> Any:
    import torch

    return g.op("CastLike", g.op("Constant", value_t=torch.tensor(value)), like)


def _floor_divide(g: Any, one: Any, other: Any) -> Any:
    if not _is_float(one) and not _is_float(other):
        # The modulus has the divisor's sign, so that what is left divides without a rest.
        return g.op("Div", g.op("Sub", one, g.op("Mod", one, other, fmod_i=0)), other)
    if _is_float(one):
        other = g.op("CastLike", other, one)
    else:
        one = g.op("CastLike", one, other)
    # As PyTorch does it: the floor of a rounded quotient is one too many just below a multiple.
    rest, zero = g.op("Mod", one, other, fmod_i=1), _constant(g, 0.0, one)
    some = g.op("Not", g.op("Equal", rest, zero))
    differ = g.op("Xor", g.op("Less", rest, zero), g.op("Less", other, zero))
    modulus = g.op("Where", g.op("And", some, differ), g.op("Add", rest, other), rest)
    return g.op("Round", g.op("Div", g.op("Sub", one, modulus), other))


def _trunc(g: Any, x: Any) -> Any:
    if not _is_float(x):
        return x
    return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))


def _log_sigmoid(g: Any, x: Any) -> Any:
    return g.op("Neg", g.op("Softplus", g.op("Neg", x)))


def _atan2(g: Any, y: Any, x: Any) -> Any:
    height, width = g.op("Abs", y), g.op("Abs", x)
    flat, zero = g.op("Equal", height, _constant(g, 0.0, y)), _constant(g, 0.0, y)
    angle = g.op("Where", flat, zero, g.op("Atan", g.op("Div", height, width)))
    backward = g.op("Sub", _constant(g, math.pi, x), angle)
    angle = g.op("Where", _is_negative(g, x), backward, angle)
    return g.op("Where", _is_negative(g, y), g.op("Neg", angle), angle)


def _is_negative(g: Any, value: Any) -> Any:
    """Return where the sign is minus, also of zero: one by it tells."""
    zero = _constant(g, 0.0, value)
    return g.op("Or", g.op("Less", value, zero), g.op("Less", g.op("Reciprocal", value), zero))
