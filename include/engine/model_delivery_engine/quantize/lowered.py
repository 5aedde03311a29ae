"""Whether lower precision reached a model at all.

A quantiser leaves alone what it knows no integers for: all of a booster's trees. What it writes
then is the fp32 model under another name, and would be held to less than that.
"""

from pathlib import Path

import onnx

from model_delivery_engine import weights
from model_delivery_engine.errors import CompilationError, Reason

_TYPES = {
    "fp16": (onnx.TensorProto.FLOAT16,),
    "int8": (onnx.TensorProto.INT8, onnx.TensorProto.UINT8),
}


def refuse_unchanged(source: Path, made: Path, precision: str) -> None:
    """Refuse a model with no more constants of lower precision than the one it was made from.

    :param precision: fp16 or int8
    :raises CompilationError: nothing was quantised
    """
    if _constants(made, precision) <= _constants(source, precision):
        raise CompilationError(
            f"no operator of the model can be computed in {precision}, so that it would be fp32 "
            "under another name",
            reason=Reason.OPERATOR_UNSUPPORTED,
        )


def _constants(path: Path, precision: str) -> int:
    tensors = weights.skeleton(path).graph.initializer
    return sum(tensor.data_type in _TYPES[precision] for tensor in tensors)
