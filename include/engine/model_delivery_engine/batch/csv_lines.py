"""CSV into batches: a header, then one row a line. A cell is JSON where its input is a number."""

import csv
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from model_delivery_engine.batch.batch import Batch, Fault, PartReader
from model_delivery_engine.batch.exact_json import read_json, write_json
from model_delivery_engine.batch.json_lines import (
    batched_lines,
    records_of,
    stack_samples,
)
from model_delivery_engine.batch.records import Record, RecordParser
from model_delivery_engine.errors import BatchError

QUOTE = b'"'


class CsvLines(PartReader):
    """Reads batches of rows for one model.

    A row is one line: a line break inside quotes cannot be told from a record's end where shards
    are cut, and becomes a fault that says so.

    :param header: the object's first line
    :raises BatchError: a header that is no row, or names a column twice
    """

    def __init__(self, parser: RecordParser, uri: str, header: bytes) -> None:
        self._parser = parser
        self._uri = uri
        try:
            self._columns = _row(header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n"))
        except ValueError as error:
            raise BatchError(f"{uri}: the header is no CSV row: {error}; correct it") from error
        if len(set(self._columns)) != len(self._columns):
            raise BatchError(f"{uri}: the header names a column twice; name each once")

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches, each with how many lines of it were blank."""
        if start == 0:
            header = data.find(b"\n") + 1 or len(data)
            start, data = header, data[header:]
        for offset, batch in batched_lines(data, start, size):
            yield self._read(batch, offset)

    def _read(self, lines: Sequence[bytes], start: int) -> tuple[Batch, int]:
        good: list[Record] = []
        faults: dict[int, Fault] = {}
        pairs = records_of(lines, start)
        for place, (at, line) in enumerate(pairs):
            found = self._parse(line, at)
            if isinstance(found, Fault):
                faults[place] = found
            else:
                good.append(found)
        count = len(pairs)
        tensors = stack_samples([record.tensors for record in good])
        echoes = [write_json(record.fields) for record in good]

        def fault_of(place: int, reason: str) -> Fault:
            at, line = records_of(lines, start)[place]
            record = dict(zip(self._columns, map(_value, _row(line)), strict=True))
            return Fault(reason, self._uri, at, write_json(record))

        return Batch(count, echoes, tensors, fault_of, faults), len(lines) - count

    def _parse(self, line: bytes, offset: int) -> Record | Fault:
        try:
            cells = _row(line)
        except ValueError as error:
            text = orjson.dumps(line.decode(errors="replace"))
            return Fault(f"not a CSV row: {error}", self._uri, offset, text)
        record = dict(zip(self._columns, map(_value, cells), strict=False))
        if len(cells) != len(self._columns):
            reason = f"{len(cells)} cells in a row of {len(self._columns)} columns"
            return Fault(reason, self._uri, offset, write_json(record))
        parsed = self._parser.parse_fields(offset, record)
        if parsed.reason is None:
            return parsed
        return Fault(parsed.reason, self._uri, offset, write_json(record))


def _row(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()], strict=True))
    except csv.Error as error:
        hint = "; a line break inside quotes is not supported, use JSON lines or Parquet"
        raise ValueError(f"{error}{hint if QUOTE in line else ''}") from error


def _value(cell: str) -> Any:
    """Return a number or a list of them as such, anything else as text."""
    if cell[:1] in "-0123456789[" and cell:
        try:
            return read_json(cell.encode())
        except ValueError:
            return cell
    return cell
