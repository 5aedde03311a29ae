"""A record becomes one array for each input of the model, exactly or not at all."""

import fnmatch
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from model_delivery_engine.batch.exact_json import read_json, read_json_nan
from model_delivery_engine.errors import InferenceError
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec


class Missing(StrEnum):
    """What a missing value of a float input is: null, an empty cell, NaN, or a text for them."""

    ERROR = "error"  # its record has no answer
    NAN = "nan"  # NaN, to a model that takes it for one


# Texts for a missing value, as pandas reads and writes them.
_MISSING_TEXTS = {"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"}


@dataclass
class Record:
    """One record and what became of it.

    :param offset: position of the record in its object
    :param fields: the record's fields without those that became tensors; None for a line that is no
        JSON object
    :param tensors: one sample for each input; empty where the record is bad
    :param reason: why there is no answer, or None
    """

    offset: int
    fields: dict[str, Any] | None
    tensors: dict[str, Array]
    reason: str | None = None


class RecordParser:
    """Reads lines for one model.

    :param inputs: the model's inputs; the first dimension is the batch
    :param input_fields: record field to input name (default: fields are named as the inputs)
    :param missing: what a missing value of a float input is
    :raises InferenceError: a field for an unknown input, or an input without a field
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        input_fields: Mapping[str, str] | None,
        missing: Missing = Missing.ERROR,
    ) -> None:
        fields = dict(input_fields or {spec.name: spec.name for spec in inputs})
        specs = {spec.name: spec for spec in inputs}
        if wrong := sorted(set(fields.values()) ^ set(specs)):
            raise InferenceError(
                f"input_fields: input {wrong[0]!r} has no field or is unknown; "
                f"the model's inputs are {', '.join(specs)}"
            )
        self._fields = {field: specs[name] for field, name in fields.items()}
        self.missing = missing
        self._patterns = [field for field in self._fields if "*" in field]

    def ordering(self, columns: Sequence[str]) -> Sequence[str] | None:
        """Return a table's columns where their order tells what a value is of, else None."""
        return tuple(columns) if self._patterns else None

    @property
    def fields(self) -> Mapping[str, TensorSpec]:
        """The model's inputs by record field; a ``*`` in a name stands for several fields."""
        return self._fields

    def parse(self, offset: int, line: bytes, *, columns: Sequence[str] | None = None) -> Record:
        """Read one line of JSON; a bad one becomes a record with its reason.

        :param columns: of a table's row, the table's columns in order (default: it is none, and its
            fields have no order, as JSON has it)
        """
        try:
            data = self._read(line)
        except ValueError as error:
            return Record(offset, None, {}, f"not JSON: {error}")
        if not isinstance(data, dict):
            return Record(offset, None, {}, "not a JSON object")
        if columns is None:
            return self.parse_fields(offset, data, ordered=False)
        new = [name for name in data if name not in columns and name not in self._fields]
        if placeless := next(filter(self.is_input, new), None):
            reason = f"field {placeless!r} is no column of its table, and has no place among them"
            return Record(offset, None, {}, reason)
        row = {name: data[name] for name in columns if name in data}
        return self.parse_fields(offset, {**row, **data})

    def _read(self, line: bytes) -> Any:
        """Return what a line holds: JSON, and NaN as Python writes it where that is a value."""
        try:
            return read_json(line)
        except ValueError:
            if self.missing != Missing.NAN or b"NaN" not in line:
                raise
            return read_json_nan(line)

    def parse_fields(self, offset: int, data: Mapping[str, Any], *, ordered: bool = True) -> Record:
        """Turn fields into tensors; a bad value becomes a record with its reason.

        :param ordered: whether the fields have an order, as a table's columns do (default: yes)
        """
        rest = {name: value for name, value in data.items() if not self.is_input(name)}
        try:
            tensors = {
                s.name: _sample(_value(data, field, ordered), field, s, self.missing)
                for field, s in self._fields.items()
            }
        except InferenceError as error:
            return Record(offset, rest, {}, str(error))
        return Record(offset, rest, tensors)

    def is_input(self, name: str) -> bool:
        """Tell whether a field is one of the model's inputs, or a part of one."""
        return self.spec_of(name) is not None

    def spec_of(self, name: str) -> TensorSpec | None:
        """Return the model's input that a field is, or is a part of; None where it only passes."""
        if name in self._fields:
            return self._fields[name]
        found = (p for p in self._patterns if fnmatch.fnmatchcase(name, p))
        return next((self._fields[pattern] for pattern in found), None)

    def is_text(self, name: str) -> bool:
        """Tell whether a field holds one text, also where it looks like a number."""
        if name in self._fields:
            spec = self._fields[name]
            return spec.dtype == "BYTES" and takes_one(spec.shape[1:])
        return any(
            fnmatch.fnmatchcase(name, pattern) and self._fields[pattern].dtype == "BYTES"
            for pattern in self._patterns
        )


def takes_one(shape: Sequence[int]) -> bool:
    """Tell whether a record of this shape is one value, which a field may hold as it is."""
    return all(size == 1 for size in shape)


def _sample(value: Any, field: str, spec: TensorSpec, missing: Missing) -> Array:
    array = typed_array(value, field, spec, missing)
    wanted = spec.shape[1:]
    if not array.ndim and takes_one(wanted):
        return array.reshape(wanted)
    if not TensorSpec(spec.name, spec.dtype, wanted).accepts(array.shape):
        raise InferenceError(
            f"field {field!r} has shape {list(array.shape)}, input {spec.name!r} takes "
            f"{list(wanted)} for one record"
        )
    return array


def _value(data: Mapping[str, Any], field: str, ordered: bool) -> Any:
    if field in data:
        return data[field]
    found = _matching(field, tuple(data), ordered) if "*" in field else ()
    if found is None:
        raise InferenceError(
            f"the fields of {field!r} have no order in JSON; number them, or give one list of them"
        )
    if not found:
        raise InferenceError(f"field {field!r} is missing")
    return [data[name] for name in found]


@functools.lru_cache(maxsize=1024)
def _matching(pattern: str, names: tuple[str, ...], ordered: bool) -> Sequence[str] | None:
    """Return the names that a pattern stands for: as they come, or by the numbers in them.

    :param ordered: whether they come in an order that means something
    :returns: None where they do not, and have no numbers to tell them apart by
    """
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if ordered or len(found) < 2:
        return found
    numbers = {name: tuple(map(int, _DIGITS.findall(name))) for name in found}
    alike = len({_DIGITS.sub("0", name) for name in found}) == 1
    if not alike or len(set(numbers.values())) < len(found):
        return None
    return sorted(found, key=numbers.__getitem__)


_SAID = 80  # characters of a wrong value that its reason quotes
_DIGITS = re.compile("[0-9]+")
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


def typed_array(
    value: Any, field: str, spec: TensorSpec, missing: Missing = Missing.ERROR
) -> Array:
    """Convert without loss: no text to number, no fraction to integer, no overflow."""
    dtype = NUMPY_TYPES[spec.dtype]
    if dtype.kind == "O":
        return _texts(value, field, spec)
    if _is_mixed(value):  # numpy would take the truth values for numbers
        raise InferenceError(f"field {field!r} holds values of several kinds")
    try:
        array = np.asarray(value)  # in what type it comes: text does not become a number
    except (ValueError, OverflowError) as error:
        raise InferenceError(f"field {field!r} is not a regular array: {error}") from error
    if array.dtype.kind in "OU" and dtype.kind == "f":
        array = _floats(value, array, missing)
    if array.dtype.kind in "fO" and dtype.kind in "iu":
        try:
            array = _whole(value, array)
        except OverflowError as error:
            raise _out_of_range(field, spec) from error
    if array.dtype.kind not in _KINDS[dtype.kind]:
        raise _wrong_kind(value, field, spec)
    with np.errstate(over="ignore"):
        # By way of a double, as the parser of arrays reads them: a record's values must not depend
        # on whether others of its batch are bad.
        typed = (array.astype(np.float64) if dtype.kind == "f" else array).astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(typed, array):
        raise _out_of_range(field, spec)
    if dtype.kind == "f" and not np.isfinite(typed).all():
        _check_missing(typed, field, spec, missing)
    return typed


def _texts(value: Any, field: str, spec: TensorSpec) -> Array:
    """Return texts as objects: numpy's own would lose a zero at the end."""
    texts = np.asarray(value, object)
    if not all(type(each) is str for each in texts.flat):
        raise InferenceError(f"field {field!r} does not hold {spec.dtype} values")
    return texts


def _is_mixed(value: Any) -> bool:
    """Whether a list, at any depth, has truth values beside others."""
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    if bool in kinds and len(kinds) > 1:
        return True
    return list in kinds and any(map(_is_mixed, value))


def _out_of_range(field: str, spec: TensorSpec) -> InferenceError:
    return InferenceError(f"field {field!r} has a value outside the range of {spec.dtype}")


def _wrong_kind(value: Any, field: str, spec: TensorSpec) -> InferenceError:
    floats = NUMPY_TYPES[spec.dtype].kind == "f"
    if floats and any(map(_is_missing, np.asarray(value, object).flat)):
        return InferenceError(
            f"field {field!r} does not hold {spec.dtype} values: one is missing; put a number "
            f"there, {_OR_NAN}"
        )
    said = f": {value!r:.{_SAID}}" if type(value) in (str, int, float) else ""
    return InferenceError(f"field {field!r} does not hold {spec.dtype} values{said}")


def _check_missing(typed: Array, field: str, spec: TensorSpec, missing: Missing) -> None:
    """Raise an InferenceError for floats some of which are not finite, unless those are missing."""
    if np.isinf(typed).any():
        raise _out_of_range(field, spec)
    if missing != Missing.NAN:
        raise InferenceError(f"field {field!r} holds NaN; put a number there, {_OR_NAN}")


_OR_NAN = "or say missing='nan' where the model takes NaN"


def _is_missing(value: Any) -> bool:
    return value is None or (type(value) is str and value.strip().lower() in _MISSING_TEXTS)


def _whole(value: Any, array: Array) -> Array:
    """Return whole numbers as such; numpy takes some from 2**63 on, beside others, for floats."""
    numbers = np.asarray(value, object)
    if not all(type(n) is int for n in numbers.flat):
        return array
    return numbers.astype(np.int64 if min(numbers.flat, default=0) < 0 else np.uint64)


def _floats(value: Any, array: Array, missing: Missing) -> Array:
    """Return floats for numbers some of which numpy has no type for, else its array.

    These are whole and beyond 64 bits, or missing.
    """
    numbers = list(np.asarray(value, object).flat)
    if missing == Missing.NAN:
        numbers = [math.nan if _is_missing(each) else each for each in numbers]
    if not all(type(each) in (int, float) for each in numbers):
        return array
    return np.array(numbers, np.float64).reshape(array.shape)
