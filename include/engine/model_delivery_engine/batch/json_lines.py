"""JSON lines into batches: simdjson where every record is as it should be, else one by one."""

import base64
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from model_delivery_engine.batch.batch import (
    Batch,
    Fault,
    PartReader,
    even_cuts,
    record_text,
)
from model_delivery_engine.batch.exact_json import read_json, write_json
from model_delivery_engine.batch.records import Record, RecordParser
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

_SLAB = 64 * 1024
_LONG_LINE = 512  # bytes: to look for the next end is faster than to split
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_FEED = ord("\n")
_ENVELOPE = {"input", "output", "error"}
_OFFSETS = 2**63  # Parquet's column of them is INT64
_BUFFER_TYPES = {"f": "d", "i": "i", "u": "u"}


def split_lines(data: bytes) -> list[bytes]:
    """Split a part into its lines, without line ends."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def batched_lines(data: bytes, start: int, size: int) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Cut a part into lines, and those into batches; each with the position of its first line.

    A byte order mark before an object's first line is no part of it.
    """
    if not start and data.startswith(_BYTE_ORDER_MARK):
        start, data = len(_BYTE_ORDER_MARK), data[len(_BYTE_ORDER_MARK) :]
    long = data.find(b"\n", 0, _LONG_LINE) < 0
    offset = start
    for batch in _long_lines(data, size) if long else _short_lines(data, size):
        yield offset, batch
        offset += sum(map(len, batch)) + len(batch)


def _long_lines(data: bytes, size: int) -> Iterator[Sequence[bytes]]:
    """Look for each line's end, and copy each line once."""
    ends, at = [], data.find(b"\n")
    while at >= 0:
        ends.append(at)
        at = data.find(b"\n", at + 1)
    if data and not data.endswith(b"\n"):
        ends.append(len(data))
    begins = [0, *(end + 1 for end in ends[:-1])]
    for first, last in even_cuts(len(ends), size):
        yield [data[begins[n] : ends[n]] for n in range(first, last)]


def _short_lines(data: bytes, size: int) -> Iterator[Sequence[bytes]]:
    """Split a slab at a time: all of a part's lines at once would not stay in the cache."""
    lines: list[bytes] = []
    slab = 0
    for first, end in even_cuts(_count_lines(data), size):
        while len(lines) < end - first:
            slab_end = data.find(b"\n", slab + _SLAB) + 1 or len(data)
            lines += split_lines(data[slab:slab_end])
            slab = slab_end
        yield lines[: end - first]
        del lines[: end - first]


def _count_lines(data: bytes) -> int:
    """Count them, by numpy: bytes.count looks at one byte at a time."""
    codes = np.frombuffer(data, np.uint8)
    ends = sum(
        int(np.count_nonzero(codes[at : at + _SLAB] == _LINE_FEED))
        for at in range(0, len(data), _SLAB)
    )
    return ends + (not data.endswith(b"\n") and bool(data))


class JsonLines(PartReader):
    """Reads batches of lines for one model.

    :param parser: reads one record, and says what is wrong with it
    :param uri: the object, for faults
    """

    def __init__(self, parser: RecordParser, uri: str) -> None:
        import simdjson

        self._parser = parser
        self._uri = uri
        self._fields = dict(parser.fields)
        self._fast = all(_is_vector(field, spec) for field, spec in self._fields.items())
        self._simdjson: Any = simdjson.Parser()

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches, each with how many lines of it were blank."""
        for offset, lines in batched_lines(data, start, size):
            yield self.read(lines, offset)

    def read(self, lines: Sequence[bytes], offset: int) -> tuple[Batch, int]:
        """Return a batch, and how many lines were blank.

        :param offset: position of the first line
        """
        if self._fast:
            try:
                with np.errstate(over="ignore"):
                    return self._read_fast(lines, offset), 0
            except (ValueError, TypeError, LookupError, AttributeError, RuntimeError):
                pass  # some record is not as it should be: which, and why, is said below
        return self._read_each(lines, offset)

    def _read_fast(self, lines: Sequence[bytes], offset: int) -> Batch:
        rows = {field: _Rows(spec, len(lines)) for field, spec in self._fields.items()}
        echoes = [self._read_one(line, rows) for line in lines]
        tensors = {spec.name: rows[field].tensor() for field, spec in self._fields.items()}
        return Batch(len(lines), echoes, tensors, line_faults(lines, offset, self._uri))

    def _read_one(self, line: bytes, rows: Mapping[str, "_Rows"]) -> bytes:
        """Read the arrays of a record, which stand for themselves, and then what is left of it."""
        arrays, rest, at = [], b"", 0
        for _ in rows:
            begin = line.index(b"[", at)
            end = line.index(b"]", begin)
            arrays.append(line[begin : end + 1])
            rest += line[at : begin + 1]
            at = end
        rest += line[at:]
        if rest.count(b"[") != len(rows):
            raise ValueError("not a flat record")
        record = read_json(rest)
        emptied = [name for name, value in record.items() if value == []]
        for field, array in zip(emptied, arrays, strict=True):
            values = self._simdjson.parse(array)
            rows[field].add(values.as_buffer(of_type=rows[field].kind))
            del values
            del record[field]
        return write_json(record)

    def _read_each(self, lines: Sequence[bytes], offset: int) -> tuple[Batch, int]:
        pairs = records_of(lines, offset)
        faults: dict[int, Fault] = {}
        good: list[Record] = []
        echoes: list[bytes] = []
        for place, (at, line) in enumerate(pairs):
            record = self._parse(at, line)
            try:
                echo = b"" if record.reason else write_json(record.fields)
            except ValueError as error:
                record.reason = f"cannot be written: {error}"
            if record.reason:
                faults[place] = line_fault(line, record.reason, self._uri, at)
            else:
                good.append(record)
                echoes.append(echo)
        tensors = stack_samples([record.tensors for record in good])
        fault_of = line_faults(lines, offset, self._uri)
        return Batch(len(pairs), echoes, tensors, fault_of, faults), len(lines) - len(pairs)

    def _parse(self, offset: int, line: bytes) -> Record:
        record = self._parser.parse(offset, line)
        # Few lines may be error lines, though they be read as records: the others are parsed once.
        may_be_one = record.reason is not None or "error" in (record.fields or ())
        if may_be_one and (origin := open_envelope(line)):
            return self._parser.parse(offset, origin.record, columns=origin.columns)
        return record


def records_of(lines: Sequence[bytes], offset: int) -> list[tuple[int, bytes]]:
    """Return position and bytes of each line that is not blank."""
    offsets = itertools.accumulate(lines, lambda at, line: at + len(line) + 1, initial=offset)
    return [(at, line) for at, line in zip(offsets, lines, strict=False) if line.strip()]


def line_faults(lines: Sequence[bytes], offset: int, uri: str) -> Callable[[int, str], Fault]:
    """Return what makes a fault of a line of a batch, by its place among those not blank."""

    def fault_of(place: int, reason: str) -> Fault:
        at, line = records_of(lines, offset)[place]
        return line_fault(line, reason, uri, at)

    return fault_of


def line_fault(line: bytes, reason: str, uri: str, offset: int) -> Fault:
    """Return the fault of a line; of an error line's record, where that came from at first."""
    columns = None
    if origin := open_envelope(line):
        line, uri, offset, columns = origin
    text, encoded = record_text(line)
    return Fault(reason, uri, offset, text, encoded, columns)


class Origin(NamedTuple):
    """The record inside an error line, and where it came from: its object and its offset there.

    :param columns: of a table's row, the table's columns in order; None where the line tells none
    """

    record: bytes
    uri: str
    offset: int
    columns: Sequence[str] | None


def open_envelope(line: bytes) -> Origin | None:
    """Return what is inside an error line.

    None for any other line, also one that only resembles an error line: it is a record itself.
    """
    try:
        data = read_json(line)
        if not isinstance(data, dict) or data.keys() != _ENVELOPE or data["output"] is not None:
            return None
        error, record = data["error"], data["input"]
        if not _is_origin(error) or not isinstance(record, dict | str | None):
            return None
        if error.get("base64"):
            record = base64.b64decode(error["base64"], validate=True)
        elif isinstance(record, str):
            record = record.encode()
        else:
            record = write_json(record)
    except ValueError:
        return None
    return Origin(record, error["uri"], error["offset"], error.get("columns"))


def _is_origin(error: Any) -> bool:
    """Whether this can be an error line's ``error``: whoever edits one may write anything."""
    return (
        isinstance(error, dict)
        and isinstance(error.get("reason"), str)
        and isinstance(error.get("uri"), str)
        and type(error.get("offset")) is int
        and 0 <= error["offset"] < _OFFSETS
        and isinstance(error.get("base64"), str | None)
        and isinstance(columns := error.get("columns"), list | None)
        and all(isinstance(name, str) for name in columns or ())
    )


def _is_vector(field: str, spec: TensorSpec) -> bool:
    kind = NUMPY_TYPES[spec.dtype].kind
    return "*" not in field and len(spec.shape) == 2 and kind in _BUFFER_TYPES


class _Rows:
    """A tensor that is filled row by row."""

    def __init__(self, spec: TensorSpec, count: int) -> None:
        self._spec = spec
        self._dtype = NUMPY_TYPES[spec.dtype]
        self.kind = _BUFFER_TYPES[self._dtype.kind]
        self._wide = np.dtype({"f": "f8", "i": "i8", "u": "u8"}[self._dtype.kind])
        self._count, self._row = count, 0
        self._array: Array | None = None

    def add(self, buffer: Any) -> None:
        values = np.frombuffer(buffer, self._wide)
        if self._array is None:
            if self._spec.shape[1] not in (-1, len(values)):
                raise ValueError("another length")
            # Floats are narrowed as they come; whole numbers must first be seen to fit.
            dtype = self._dtype if self._dtype.kind == "f" else self._wide
            self._array = np.empty((self._count, len(values)), dtype)
        if len(values) != self._array.shape[1]:  # numpy would repeat one value over the row
            raise ValueError("another length")
        self._array[self._row] = values
        self._row += 1

    def tensor(self) -> Array:
        """Return the rows in the model's type; ValueError where a value is out of its range."""
        assert self._array is not None
        array = self._array.astype(self._dtype, copy=False)
        exact = (
            np.isfinite(array).all()
            if self._dtype.kind == "f"
            else np.array_equal(array, self._array)
        )
        if not exact:
            raise ValueError("out of range")
        return array


def stack_samples(
    samples: Sequence[dict[str, Array]],
) -> dict[str, Array] | list[dict[str, Array]]:
    """Stack samples of equal shapes; leave others as they are."""
    if not samples:
        return []
    if any(len({s[name].shape for s in samples}) > 1 for name in samples[0]):
        return list(samples)
    return {name: np.stack([s[name] for s in samples]) for name in samples[0]}
