"""The inputs that an ONNX graph takes, as it says them; read inside the sandbox too."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.golden import refuse_strings
from model_delivery_engine.tensors import TensorSpec


def input_specs(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[TensorSpec]:
    """Return the inputs of an ``onnx.GraphProto``, in order.

    :param shapes: by input, where they are known better (default: the graph's own)
    :raises ConversionError: an input of a type that no bundle carries
    :raises CompilationError: one that takes strings
    """
    constants = {tensor.name for tensor in graph.initializer}
    specs = []
    for node in graph.input:
        if node.name in constants:
            continue
        tensor = node.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        spec = TensorSpec(node.name, _dtype(node), shapes.get(node.name, dims))
        refuse_strings(spec)
        specs.append(spec)
    return specs


def _dtype(node: Any) -> str:
    import onnx

    kind = node.type.tensor_type.elem_type
    known = kind in onnx.TensorProto.DataType.values() and kind
    name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).name if known else "no tensor"
    if name not in _DTYPES:
        raise ConversionError(
            f"input {node.name!r} is of the type {name}, which no bundle carries; export the model "
            "with inputs of numbers",
            reason=Reason.TENSOR_UNSUPPORTED,
        )
    return _DTYPES[name]


_DTYPES = {
    "object": "BYTES",
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
