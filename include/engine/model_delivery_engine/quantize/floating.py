"""Half precision: weights and arithmetic in 16 bits, inputs and outputs as they were."""

from pathlib import Path
from typing import Any

import onnx

from model_delivery_engine.quantize.integers import quantiser_call


def to_fp16(source: Path, into: Path) -> None:
    """Write a model in half precision; it keeps the types of its inputs and outputs.

    :param source: with the type of every tensor written, as `graph.complete_types` leaves it

    Half the size. A CPU without half-precision arithmetic converts back and forth and gets slower,
    which is for the measurement to say.
    """
    from onnxruntime.transformers import float16

    convert: Any = float16.convert_float_to_float16
    with quantiser_call():
        # Inferring types once more would copy the model three times.
        half = convert(onnx.load(source), keep_io_types=True, disable_shape_infer=True)
        onnx.save(half, into)
