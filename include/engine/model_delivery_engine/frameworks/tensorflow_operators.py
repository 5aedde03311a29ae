"""tf2onnx's command with the operators that it lacks: run as a module, with its arguments.

Keras' Gelu is one of them: TensorFlow computes it by the complementary error function.
"""

from typing import Any


def register_operators() -> None:
    """Register the operators with tf2onnx, inside the environment."""
    import numpy as np
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """``1 - erf(x)``."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            name = utils.make_name(node.name)
            dtype = ctx.get_dtype(node.input[0])
            shape = ctx.get_shape(node.input[0])
            given, result = list(node.input), list(node.output)
            ctx.remove_node(node.name)
            error = ctx.make_node("Erf", given, dtypes=[dtype], shapes=[shape], name=name)
            one = np.array(1, utils.map_onnx_to_numpy_type(dtype))
            constant = ctx.make_const(utils.make_name(f"{name}_one"), one)
            ctx.make_node(
                "Sub",
                [constant.output[0], error.output[0]],
                outputs=result,
                dtypes=[dtype],
                shapes=[shape],
            )


if __name__ == "__main__":
    register_operators()
    from tf2onnx import convert

    convert.main()
