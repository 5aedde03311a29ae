"""Tensors in the JSON of the Open Inference Protocol v2, read strictly.

Nothing is coerced: a number that the data type cannot hold, a wrong count, a ragged list is refused
with the tensor's name. BF16 has no NumPy type and is refused by name.
Source: the protocol's REST specification, "Tensor Data".
"""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

from model_delivery_edge.errors import RequestError

_JSON_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
    "O": frozenset({str}),
}


def read_tensor(tensor: dict[str, Any], spec: TensorSpec) -> Array:
    """Turn a request's input into an array.

    :param tensor: ``{"name", "shape", "datatype", "data"}``, data flat in row-major order or nested
    :param spec: what the model takes under this name
    :raises RequestError: anything that does not fit; says what does
    """
    shape = read_shape(tensor, spec)
    if "data" not in tensor:
        raise _refusal(spec, "has no data; send it as a JSON array")
    return _array(_flat(tensor["data"], shape, spec), shape, spec)


def read_shape(tensor: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    """Return an input's shape; RequestError where it, or its data type, is not the model's."""
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in NUMPY_TYPES:
        known = ", ".join(NUMPY_TYPES)
        raise _refusal(spec, f"has the datatype {datatype!r}; this server has {known}")
    if datatype != spec.dtype:
        raise _refusal(spec, f"takes {spec.dtype}, got {datatype}; convert it")
    return _shape(tensor.get("shape"), spec)


def write_tensor(array: Array, spec: TensorSpec) -> dict[str, Any]:
    """Turn an output into JSON, its data flat in row-major order.

    :raises RequestError: (500) NaN or infinity, which JSON does not have
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(
            f"output {spec.name!r} holds NaN or infinity, which JSON cannot carry; "
            "check the input, then the model",
            500,
        )
    return {
        "name": spec.name,
        "datatype": spec.dtype,
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }


def _shape(shape: Any, spec: TensorSpec) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _refusal(spec, f"needs a shape of non-negative integers, got {_short(shape)}")
    if not spec.accepts(shape):
        raise _refusal(spec, f"takes shape {list(spec.shape)} (-1: any), got {_short(shape)}")
    return tuple(shape)


def _flat(data: Any, shape: tuple[int, ...], spec: TensorSpec) -> list[Any]:
    """Return the values in row-major order; nested data must have exactly the shape."""
    if not isinstance(data, list):
        raise _refusal(spec, "needs its data as a JSON array")
    if data and isinstance(data[0], list):
        for axis, size in enumerate(shape[:-1]):
            if axis == 0 and len(data) != size:
                raise _refusal(spec, f"has {len(data)} rows of data, its shape says {size}")
            data = _rows(data, axis + 1, shape, spec)
    if len(data) != prod(shape):
        raise _refusal(spec, f"has {len(data)} values, its shape {list(shape)} needs {prod(shape)}")
    return list(data)


def _rows(rows: Sequence[Any], axis: int, shape: tuple[int, ...], spec: TensorSpec) -> list[Any]:
    size = shape[axis]
    if not all(isinstance(row, list) and len(row) == size for row in rows):
        raise _refusal(
            spec, f"has nested data that is not {size} long in dimension {axis}, as its shape says"
        )
    return list(chain.from_iterable(rows))


def _array(values: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> Array:
    dtype = NUMPY_TYPES[spec.dtype]
    if wrong := set(map(type, values)) - _JSON_TYPES[dtype.kind]:
        found = ", ".join(sorted(_json_name(kind) for kind in wrong))
        raise _refusal(spec, f"is {spec.dtype} and its data has {found}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=dtype)
    except OverflowError:
        raise _out_of_range(spec) from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise _out_of_range(spec)
    return array.reshape(shape)


def _json_name(kind: type) -> str:
    names = {bool: "booleans", int: "integers", float: "fractions", str: "strings"}
    return names.get(kind, "nested arrays" if kind is list else "objects or null")


def _out_of_range(spec: TensorSpec) -> RequestError:
    return _refusal(spec, f"has a value that {spec.dtype} cannot hold")


def _refusal(spec: TensorSpec, why: str) -> RequestError:
    return RequestError(f"input {spec.name!r} {why}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
