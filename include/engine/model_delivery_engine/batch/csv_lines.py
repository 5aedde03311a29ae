"""CSV into batches: a header, then one row a record.

A cell that is a JSON number or list is one, but for an input that takes a text.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from model_delivery_engine.batch.batch import Batch, Fault, PartReader, even_cuts, record_text
from model_delivery_engine.batch.csv_rows import QUOTE, IsRow, ends_open, split_rows
from model_delivery_engine.batch.exact_json import read_json, write_json
from model_delivery_engine.batch.json_lines import records_of, stack_samples
from model_delivery_engine.batch.records import Record, RecordParser
from model_delivery_engine.batch.shards import MAX_RECORD_BYTES
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import NUMPY_TYPES

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_EXACT = 2**53  # below, a float is the whole number that it was written as


class CsvLines(PartReader):
    """Reads batches of rows for one model.

    :param header: the object's first line
    :raises BatchError: a header that is no row, or names a column twice
    """

    def __init__(self, parser: RecordParser, uri: str, header: bytes) -> None:
        # Python's own limit on a cell, 128 KiB, is less than a list of numbers may need.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))
        self._parser = parser
        self._uri = uri
        self._columns = header_columns(header, uri)
        self._ordering = parser.ordering(self._columns)
        self._is_row = is_row(len(self._columns))
        self._readers = [_reader(parser, name) for name in self._columns]
        self._names = [orjson.dumps(name) + b":" for name in self._columns]

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches, each with how many lines of it were blank."""
        if start == 0:
            header = data.find(b"\n") + 1 or len(data)
            start, data = header, data[header:]
        rows = split_rows(data, self._is_row)
        for first, end in even_cuts(len(rows), size):
            batch = rows[first:end]
            yield self._read(batch, start)
            start += sum(map(len, batch)) + len(batch)

    def _read(self, rows: Sequence[bytes], start: int) -> tuple[Batch, int]:
        good: list[Record] = []
        echoes: list[bytes] = []
        faults: dict[int, Fault] = {}
        pairs = records_of(rows, start)
        for place, (at, row) in enumerate(pairs):
            found = self._parse(row, at)
            if isinstance(found, Fault):
                faults[place] = found
            else:
                record, echo = found
                good.append(record)
                echoes.append(echo)
        count = len(pairs)
        tensors = stack_samples([record.tensors for record in good])

        def fault_of(place: int, reason: str) -> Fault:
            at, row = records_of(rows, start)[place]
            return self._fault(reason, at, self._text(self._cells(parse_row(row))))

        return Batch(count, echoes, tensors, fault_of, faults), len(rows) - count

    def _parse(self, row: bytes, offset: int) -> tuple[Record, bytes] | Fault:
        try:
            texts = parse_row(row)
        except ValueError as error:
            hint = ""
            if QUOTE in row and ends_open(row):
                hint = "; a line break inside quotes must leave a row of as many cells as columns"
            return self._fault(f"not a CSV row: {error}{hint}", offset, *record_text(row))
        if len(texts) != len(self._columns):
            reason = f"{len(texts)} cells in a row of {len(self._columns)} columns"
            return self._fault(reason, offset, *record_text(row))
        cells = self._cells(texts)
        values = {name: value for name, (value, _) in zip(self._columns, cells, strict=True)}
        parsed = self._parser.parse_fields(offset, values)
        if parsed.reason is None:
            return parsed, self._text(cells, parsed.fields or {})
        return self._fault(parsed.reason, offset, self._text(cells))

    def _fault(self, reason: str, offset: int, text: bytes, encoded: str | None = None) -> Fault:
        return Fault(reason, self._uri, offset, text, encoded, self._ordering)

    def _cells(self, texts: Sequence[str]) -> list[tuple[Any, bytes]]:
        return [read(text) for read, text in zip(self._readers, texts, strict=True)]

    def _text(
        self, cells: Sequence[tuple[Any, bytes]], kept: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return a row as JSON text, each cell as it stands there.

        :param kept: the columns to write (default: all)
        """
        triples = zip(self._columns, self._names, cells, strict=True)
        pieces = (n + text for column, n, (_, text) in triples if kept is None or column in kept)
        return b"{%b}" % b",".join(pieces)


def header_columns(header: bytes, uri: str) -> list[str]:
    """Return a header's columns; BatchError for one that is no row, or names a column twice."""
    try:
        columns = parse_row(header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n"))
    except ValueError as error:
        raise BatchError(f"{uri}: the header is no CSV row: {error}; correct it") from error
    if len(set(columns)) != len(columns):
        raise BatchError(f"{uri}: the header names a column twice; name each once")
    return columns


def is_row(columns: int) -> IsRow:
    """Return what tells whether a text is a row of so many cells."""

    def check(text: bytes) -> bool:
        try:
            return len(parse_row(text)) == columns
        except ValueError:
            return False

    return check


def parse_row(row: bytes) -> list[str]:
    """Return the cells of a row; ValueError for what is none."""
    try:
        return next(csv.reader([row.decode()], strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _cell(cell: str) -> tuple[Any, bytes]:
    """Return a number or a list of them as such, anything else as text; and its JSON text.

    A number's text is the cell's own without spaces around it, so that 12.50 does not become 12.5.
    """
    bare = cell.strip(" ")
    if bare[:1] in "-0123456789[" and bare:
        text = bare.encode()
        try:
            value = read_json(text)
            return value, text if cell.isprintable() else write_json(value)
        except ValueError:
            pass
    return _as_text(cell)


def _truth(cell: str) -> tuple[Any, bytes]:
    """Return a truth value, as spreadsheets, Python or C write it, else the cell."""
    value = _TRUTHS.get(cell.strip(" ").lower())
    return _cell(cell) if value is None else (value, orjson.dumps(value))


def _whole(cell: str) -> tuple[Any, bytes]:
    """Return 1 for 1.0, as pandas writes the whole numbers of a column with gaps, else the cell."""
    value, text = _cell(cell)
    if type(value) is float and value.is_integer() and abs(value) < _EXACT:
        return int(value), b"%d" % int(value)
    return value, text


def _reader(parser: RecordParser, name: str) -> Callable[[str], tuple[Any, bytes]]:
    if parser.is_text(name):
        return _as_text
    spec = parser.spec_of(name)
    kind = NUMPY_TYPES[spec.dtype].kind if spec else ""
    return {"b": _truth, "i": _whole, "u": _whole}.get(kind, _cell)


def _as_text(cell: str) -> tuple[str, bytes]:
    return cell, orjson.dumps(cell)
