"""TorchScript operators that PyTorch's own exporter converts wrongly, or not at all.

``floor_divide`` truncates in PyTorch's exporter since the days when PyTorch did; ``logsigmoid`` is
the logarithm of a sigmoid there, which is zero for large negative inputs.
"""

from typing import Any

from model_delivery_engine.frameworks.conversion import OPSET


def register_operators() -> None:
    """Register the operators, inside the environment."""
    import torch
    from torch.onnx import register_custom_op_symbolic, symbolic_helper

    def floor_divide(g: Any, one: Any, other: Any) -> Any:
        if not symbolic_helper._is_fp(one) and not symbolic_helper._is_fp(other):
            # The modulus has the divisor's sign, so that what is left divides without a rest.
            return g.op("Div", g.op("Sub", one, g.op("Mod", one, other, fmod_i=0)), other)
        if symbolic_helper._is_fp(one):
            other = g.op("CastLike", other, one)
        else:
            one = g.op("CastLike", one, other)
        # As PyTorch does it: the floor of a rounded quotient is one too many just below a multiple.
        rest = g.op("Mod", one, other, fmod_i=1)
        zero = g.op("CastLike", g.op("Constant", value_t=torch.tensor(0.0)), one)
        some = g.op("Not", g.op("Equal", rest, zero))
        differ = g.op("Xor", g.op("Less", rest, zero), g.op("Less", other, zero))
        modulus = g.op("Where", g.op("And", some, differ), g.op("Add", rest, other), rest)
        return g.op("Round", g.op("Div", g.op("Sub", one, modulus), other))

    def trunc(g: Any, x: Any) -> Any:
        if not symbolic_helper._is_fp(x):
            return x
        return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))

    def log_sigmoid(g: Any, x: Any) -> Any:
        return g.op("Neg", g.op("Softplus", g.op("Neg", x)))

    for name, symbolic in (
        ("aten::floor_divide", floor_divide),
        ("aten::trunc", trunc),
        ("aten::fix", trunc),
        ("aten::log_sigmoid", log_sigmoid),
    ):
        register_custom_op_symbolic(name, symbolic, OPSET)
