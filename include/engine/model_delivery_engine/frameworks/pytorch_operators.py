"""TorchScript operators that PyTorch's own exporter converts wrongly, or not at all.

``floor_divide`` truncates in PyTorch's exporter since the days when PyTorch did; ``logsigmoid`` is
the logarithm of a sigmoid there, which is zero for large negative inputs.
"""

from typing import Any

from model_delivery_engine.frameworks.conversion import OPSET


def register_operators() -> None:
    """Register the operators, inside the environment."""
    from torch.onnx import register_custom_op_symbolic, symbolic_helper

    def floor_divide(g: Any, one: Any, other: Any) -> Any:
        one, other = _promoted(g, one, other)
        quotient = g.op("Div", one, other)
        if symbolic_helper._is_fp(one):
            return g.op("Floor", quotient)
        # ONNX truncates a quotient of integers. Where that dropped something and the signs differ,
        # the floor is one less.
        rest = g.op("Sub", one, g.op("Mul", quotient, other))
        zero = g.op("Sub", rest, rest)
        dropped = g.op("Not", g.op("Equal", rest, zero))
        differ = g.op("Xor", g.op("Less", rest, zero), g.op("Less", other, zero))
        less = g.op("CastLike", g.op("And", dropped, differ), quotient)
        return g.op("Sub", quotient, less)

    def div(g: Any, one: Any, other: Any, *rounding: Any) -> Any:
        from torch.onnx import symbolic_opset10

        mode = symbolic_helper._maybe_get_const(rounding[0], "s") if rounding else None
        if mode == "floor":
            return floor_divide(g, one, other)
        return symbolic_opset10.div(g, one, other, *rounding)

    def trunc(g: Any, x: Any) -> Any:
        if not symbolic_helper._is_fp(x):
            return x
        return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))

    def log_sigmoid(g: Any, x: Any) -> Any:
        return g.op("Neg", g.op("Softplus", g.op("Neg", x)))

    def _promoted(g: Any, one: Any, other: Any) -> tuple[Any, Any]:
        """Give both the type that PyTorch computes in: a float's, where one is."""
        if symbolic_helper._is_fp(one) == symbolic_helper._is_fp(other):
            return one, g.op("CastLike", other, one)
        if symbolic_helper._is_fp(one):
            return one, g.op("CastLike", other, one)
        return g.op("CastLike", one, other), other

    for name, symbolic in (
        ("aten::floor_divide", floor_divide),
        ("aten::div", div),
        ("aten::trunc", trunc),
        ("aten::fix", trunc),
        ("aten::log_sigmoid", log_sigmoid),
    ):
        register_custom_op_symbolic(name, symbolic, OPSET)
