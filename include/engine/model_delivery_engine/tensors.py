"""Tensors as a bundle describes them: name, data type, shape.

Data types have the spelling of the Open Inference Protocol v2; a dynamic dimension is -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_delivery_engine.errors import InferenceError, Reason

Array = NDArray[Any]

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
_RUNTIME_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def largest(array: Array) -> float:
    """Return the largest finite magnitude of floats, 0 for anything else."""
    if array.dtype.kind != "f":
        return 0.0
    return float(np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0.0))


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ``dtype`` as in the Open Inference Protocol, -1 a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def check(self, array: Array) -> None:
        """Refuse an array of another data type or shape with an InferenceError that says which."""
        if array.dtype != NUMPY_TYPES[self.dtype]:
            raise InferenceError(
                f"input {self.name!r} takes {self.dtype}, got {array.dtype}; convert it first"
            )
        if not self.accepts(array.shape):
            raise InferenceError(
                f"input {self.name!r} takes shape {list(self.shape)} (-1: any), "
                f"got {list(array.shape)}; send that shape"
            )

    def answered(self, array: Array) -> "TensorSpec":
        """Return the spec with what an array has otherwise left open: exporters err there."""
        if self.accepts(array.shape):
            return self
        if len(self.shape) != array.ndim:
            return TensorSpec(self.name, self.dtype, (-1,) * array.ndim)
        sizes = zip(self.shape, array.shape, strict=True)
        shape = tuple(mine if mine in (-1, theirs) else -1 for mine, theirs in sizes)
        return TensorSpec(self.name, self.dtype, shape)

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            mine in (-1, theirs) for mine, theirs in zip(self.shape, shape, strict=True)
        )


def spec_from_runtime(
    name: str, runtime_type: str, shape: Sequence[int | str | None]
) -> TensorSpec:
    """Turn what ONNX Runtime reports of a tensor into a spec.

    :raises InferenceError: a type that is no plain tensor (map, sequence, bfloat16 …)
    """
    element = runtime_type.removeprefix("tensor(").removesuffix(")")
    dtype = _RUNTIME_TYPES.get(element)
    if dtype is None:
        how = "cast it to float32 in the model"
        if not runtime_type.startswith("tensor("):
            how = "export the model with plain tensors"
            how += " (skl2onnx: zipmap=False)" if "map(" in runtime_type else ""
        raise InferenceError(
            f"tensor {name!r} has the type {runtime_type}, which no bundle carries; {how}",
            reason=Reason.TENSOR_UNSUPPORTED,
        )
    return TensorSpec(name, dtype, tuple(d if isinstance(d, int) else -1 for d in shape))
