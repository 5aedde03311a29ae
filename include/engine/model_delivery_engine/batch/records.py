"""A line of input becomes a record: its fields, and one array for each input of the model."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_delivery_engine.errors import InferenceError
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec


@dataclass
class Record:
    """One line and what became of it.

    :param offset: byte offset of the line in its object
    :param fields: the line's fields without those that became tensors; None for a line that is no
        JSON object
    :param tensors: one sample for each input; empty where the line is bad
    :param reason: why there is no answer, or None
    """

    offset: int
    fields: dict[str, Any] | None
    tensors: dict[str, Array]
    reason: str | None = None
    output: dict[str, Any] | None = None


class RecordParser:
    """Reads lines for one model.

    :param inputs: the model's inputs; the first dimension is the batch
    :param input_fields: record field to input name (default: fields are named as the inputs)
    :raises InferenceError: a field for an unknown input, or an input without a field
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], input_fields: Mapping[str, str] | None
    ) -> None:
        fields = dict(input_fields or {spec.name: spec.name for spec in inputs})
        specs = {spec.name: spec for spec in inputs}
        if wrong := sorted(set(fields.values()) ^ set(specs)):
            raise InferenceError(
                f"input_fields: input {wrong[0]!r} has no field or is unknown; "
                f"the model's inputs are {', '.join(specs)}"
            )
        self._fields = {field: specs[name] for field, name in fields.items()}

    def parse(self, offset: int, line: bytes) -> Record:
        """Read one line; a bad one becomes a record with its reason."""
        try:
            data = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            return Record(offset, None, {}, f"not JSON: {error}")
        if not isinstance(data, dict):
            return Record(offset, None, {}, "not a JSON object")
        rest = {name: value for name, value in data.items() if name not in self._fields}
        try:
            tensors = {s.name: _sample(data, field, s) for field, s in self._fields.items()}
        except InferenceError as error:
            return Record(offset, rest, {}, str(error))
        return Record(offset, rest, tensors)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is larger than any 64-bit number")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _sample(data: Mapping[str, Any], field: str, spec: TensorSpec) -> Array:
    if field not in data:
        raise InferenceError(f"field {field!r} is missing")
    array = _typed(data[field], field, spec)
    wanted = spec.shape[1:]
    if not TensorSpec(spec.name, spec.dtype, wanted).accepts(array.shape):
        raise InferenceError(
            f"field {field!r} has shape {list(array.shape)}, input {spec.name!r} takes "
            f"{list(wanted)} for one record"
        )
    return array


_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "U"}


def _typed(value: Any, field: str, spec: TensorSpec) -> Array:
    """Convert without loss: no text to number, no fraction to integer, no overflow."""
    dtype = NUMPY_TYPES[spec.dtype]
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InferenceError(f"field {field!r} is not a regular array: {error}") from error
    if array.dtype.kind not in _KINDS[dtype.kind]:
        raise InferenceError(f"field {field!r} does not hold {spec.dtype} values")
    with np.errstate(over="ignore"):
        typed = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(typed, array):
        raise InferenceError(f"field {field!r} has a value outside the range of {spec.dtype}")
    if dtype.kind == "f" and not np.isfinite(typed).all():
        raise InferenceError(f"field {field!r} has a value outside the range of {spec.dtype}")
    return typed


def rows_as_json(name: str, array: Array) -> list[Any]:
    """Turn an output into one JSON value a row; a NaN or infinity stays in for `not_finite`."""
    rows = array.tolist()
    if not isinstance(rows, list):
        raise InferenceError(f"output {name!r} has no batch dimension; export the model with one")
    return rows


def not_finite(value: Any) -> bool:
    """Whether a JSON value holds a NaN or infinity, which JSON cannot spell."""
    if isinstance(value, list):
        return any(not_finite(each) for each in value)
    return isinstance(value, float) and not math.isfinite(value)
