"""Parquet in and out. Records are rows, a record's position is its row number."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_delivery_engine.batch.batch import (
    Answers,
    Batch,
    Fault,
    PartReader,
    even_cuts,
    json_record,
    spelled,
)
from model_delivery_engine.batch.json_lines import stack_samples
from model_delivery_engine.batch.labels import Labels
from model_delivery_engine.batch.parts import FIRST_PART_BYTES, Part, PartData
from model_delivery_engine.batch.records import Missing, Record, RecordParser, takes_one
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.batch.storage import Storage, Version, check_state, read_bytes
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import NUMPY_TYPES, Array

_READ_BYTES = 1024 * 1024


class RangeFile(io.RawIOBase):
    """An object as the seekable file that a Parquet reader wants."""

    def __init__(self, storage: Storage, uri: str, etag: str | None) -> None:
        super().__init__()
        self._storage, self._uri, self._etag = storage, uri, etag
        self._size = storage.stat(uri).size
        self._at = 0

    def readable(self) -> bool:
        """Say so."""
        return True

    def seekable(self) -> bool:
        """Say so."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read a range of the object."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        data = read_bytes(self._storage, self._uri, self._at, end, etag=self._etag)
        self._at += len(data)
        return data


def open_parquet(storage: Storage, uri: str, etag: str | None = None) -> Any:
    """Open an object as a ``pyarrow.parquet.ParquetFile``; BatchError for anything else.

    So is one that names a column twice: of a record's fields one would be lost.

    :param etag: the version to read, where the object is no file here (default: any)
    """
    import pyarrow
    import pyarrow.parquet

    source = storage.local_path(uri) or RangeFile(storage, uri, etag)
    try:
        # Buffered, a column is read as its rows are wanted, not a row group of it at once.
        file = pyarrow.parquet.ParquetFile(source, buffer_size=_READ_BYTES, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise BatchError(f"{uri} is no Parquet file: {error}; put a sound one there") from error
    names = file.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BatchError(f"{uri} has two columns of the name {twice[0]!r}; name each once")
    return file


def rows_bytes(storage: Storage, shard: Shard, etag: str) -> int:
    """Return about how many bytes a shard's rows are, not compressed."""
    file = open_parquet(storage, shard["uri"], etag)
    rows: int = shard["end"] - shard["start"]
    return rows * _row_bytes(file)


def _row_groups(file: Any) -> list[Any]:
    return [file.metadata.row_group(n) for n in range(file.num_row_groups)]


def _row_bytes(file: Any) -> int:
    size: int = sum(group.total_byte_size for group in _row_groups(file))
    rows: int = file.metadata.num_rows
    return max(size // max(rows, 1), 1)


class ParquetSource:
    """Parts of a Parquet object: slices of its row groups, each spooled as an Arrow file.

    A row group is read as a stream, so that a large one is not in memory: a resume within it reads
    what stands before.

    :param largest: size that parts grow to, bytes
    """

    def __init__(
        self, storage: Storage, shard: Shard, version: Version, spool: Path, largest: int
    ) -> None:
        self._file = open_parquet(storage, shard["uri"], version.etag)
        self._local = storage.local_path(shard["uri"])
        self._version = version
        self._shard = shard
        self._spool = spool
        groups = _row_groups(self._file)
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)]).tolist()
        self._row_bytes = _row_bytes(self._file)
        self._largest = largest
        self._number = self._at = -1  # the row group that is read, and the row of it that is next
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None

    def next(self, index: int, start: int) -> Part | None:
        """Cut at the wanted size or the row group's end, and spool the rows."""
        if start >= self._shard["end"]:
            return None
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        wanted = min(FIRST_PART_BYTES << min(index, 20), self._largest) // self._row_bytes + 1
        end = min(start + wanted, self._starts[number + 1], self._shard["end"])
        first = start - self._starts[number]
        pieces = list(self._rows(number, first, first + end - start))
        if self._local is not None:
            check_state(self._local, self._version.file, self._shard["uri"])
        self._write(pieces, index)
        return Part(index, start, end)

    def _rows(self, number: int, first: int, last: int) -> Iterator[Any]:
        """Yield the rows of a row group, by their places in it."""
        if self._number != number or self._at > first:
            size = max(_READ_BYTES // self._row_bytes, 1)
            self._batches = self._file.iter_batches(size, row_groups=[number])
            self._number, self._at, self._rest = number, 0, None
        while self._at < last:
            if self._rest is None or not self._rest.num_rows:
                self._rest = next(self._batches)
            before = self._at < first
            count = min(self._rest.num_rows, (first if before else last) - self._at)
            if not before:
                yield self._rest.slice(0, count)
            self._rest = self._rest.slice(count)
            self._at += count

    def fetch(self, part: Part) -> PartData:
        """Point to what was spooled."""
        path = self._spool / f"in-{part.index}"
        return PartData(part, path, 0, path.stat().st_size, spooled=True)

    def weight(self, part: Part) -> int:
        """Return about how many bytes its rows are."""
        return (part.end - part.start) * self._row_bytes

    def _write(self, pieces: Sequence[Any], index: int) -> None:
        import pyarrow

        rows = pyarrow.Table.from_batches(pieces).combine_chunks()
        path = str(self._spool / f"in-{index}")
        with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)


class ParquetRows(PartReader):
    """Reads batches of rows for one model; columns go to tensors whole where they can."""

    def __init__(self, parser: RecordParser, uri: str) -> None:
        self._parser = parser
        self._uri = uri

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches; nothing is ever skipped."""
        import pyarrow

        table = pyarrow.ipc.open_file(pyarrow.py_buffer(data)).read_all()
        for at, end in even_cuts(table.num_rows, size):
            rows = table.slice(at, end - at).combine_chunks()
            yield self._columns(rows, start + at) or self._each(rows, start + at), 0

    def _columns(self, rows: Any, start: int) -> Batch | None:
        fields = self._parser.fields
        tensors: dict[str, Array] = {}
        for field, spec in fields.items():
            if field not in rows.column_names or spec.dtype == "BYTES":
                return None
            dtype = NUMPY_TYPES[spec.dtype]
            gaps = dtype.kind == "f" and self._parser.missing == Missing.NAN
            array = _column(rows.column(field), dtype, spec.shape[1:], gaps=gaps)
            if array is None:
                return None
            tensors[spec.name] = array
        echoes = [json_record(row) for row in _plain_rows(rows.drop_columns(list(fields)))]
        return Batch(rows.num_rows, echoes, tensors, self._fault_of(rows, start))

    def _each(self, rows: Any, start: int) -> Batch:
        good: list[Record] = []
        faults: dict[int, Fault] = {}
        echoes: list[bytes] = []
        names = rows.column_names
        own = {name: _values(rows.column(name)) for name in names if self._parser.is_input(name)}
        for place, plain in enumerate(_plain_rows(rows)):
            given = {name: own[name][place] if name in own else plain[name] for name in names}
            record = self._parser.parse_fields(start + place, given)
            if record.reason is None:
                good.append(record)
                echoes.append(json_record(record.fields or {}))
            else:
                faults[place] = self._fault(record.reason, start + place, plain)
        tensors = stack_samples([record.tensors for record in good])
        return Batch(rows.num_rows, echoes, tensors, self._fault_of(rows, start), faults)

    def _fault_of(self, rows: Any, start: int) -> Callable[[int, str], Fault]:
        def fault_of(place: int, reason: str) -> Fault:
            return self._fault(reason, start + place, next(_plain_rows(rows.slice(place, 1))))

        return fault_of

    def _fault(self, reason: str, row: int, plain: Mapping[str, Any]) -> Fault:
        columns = self._parser.ordering(tuple(plain))
        return Fault(reason, self._uri, row, json_record(plain), columns=columns)


def _plain_rows(rows: Any) -> Iterator[dict[str, Any]]:
    """Yield rows as JSON can spell them: bytes as base64, NaN and infinity by their names."""
    names = rows.column_names
    if not names:
        yield from ({} for _ in range(rows.num_rows))
        return
    columns = []
    for column in rows.columns:
        values = _values(column)
        columns.append(list(map(spelled, values)) if _unspellable(column.type) else values)
    yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _values(column: Any) -> list[Any]:
    """Return a column's values; text of those that Python has none for, as a year beyond 9999."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(each) for each in column]


def _value(scalar: Any) -> Any:
    import pyarrow

    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        if pyarrow.types.is_string(scalar.type) or pyarrow.types.is_large_string(scalar.type):
            return scalar.as_buffer().to_pybytes()  # text that is no UTF-8
        return str(scalar.cast(pyarrow.string()))


def _unspellable(kind: Any) -> bool:
    """Whether a type can have values that JSON has not."""
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(kind):
        return _unspellable(kind.value_type)
    plain = (types.is_integer, types.is_boolean, types.is_decimal, types.is_temporal, types.is_null)
    if any(is_plain(kind) for is_plain in plain):
        return False
    fields = range(kind.num_fields)
    return not fields or any(_unspellable(kind.field(n).type) for n in fields)


def _column(column: Any, dtype: np.dtype[Any], shape: Sequence[int], *, gaps: bool) -> Array | None:
    """Return a column as an array of the same kind of number, or None.

    :param gaps: whether values may be missing, which are NaN then
    """
    import pyarrow

    array = column.combine_chunks()
    rows: tuple[int, ...]
    if (pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type)
            or pyarrow.types.is_fixed_size_list(array.type)):  # fmt: skip
        if len(shape) != 1 or array.null_count:
            return None
        lengths = array.value_lengths().unique().to_pylist()
        flat = array.flatten()
        if len(lengths) != 1 or shape[0] not in (-1, lengths[0]):
            return None
        rows = (len(array), lengths[0])
    elif takes_one(shape):
        flat, rows = array, (len(array), *shape)
    else:
        return None
    if flat.null_count and not gaps:
        return None
    values = flat.to_numpy(zero_copy_only=False).reshape(rows)
    if values.dtype.kind not in {"f": "fiu", "i": "i", "u": "u"}.get(dtype.kind, ""):
        return None
    with np.errstate(over="ignore"):
        typed = values.astype(dtype)
    if dtype.kind != "f":
        exact = np.array_equal(typed, values)
    else:
        exact = not np.isinf(typed).any() if gaps else np.isfinite(typed).all()
    return typed if exact else None


class ParquetAnswers:
    """Collects answers into Parquet files.

    Columns: ``input`` (JSON text), one for each output (numbers, or lists of them), and ``error``
    (a struct of reason, uri and offset; null where there is an answer).
    """

    def __init__(self, outputs: Mapping[str, Any], labels: Mapping[str, Labels]) -> None:
        self._types = dict(outputs)
        self._labels = labels
        self._tables: list[Any] = []
        self.size = 0  # bytes in memory

    def add(self, answers: Answers) -> None:
        """Take a batch."""
        import pyarrow

        echoes, faults = iter(answers.echoes), answers.faults
        inputs = [faults[p].record if p in faults else next(echoes) for p in range(answers.count)]
        answered = [place for place in range(answers.count) if place not in faults]
        take = np.full(answers.count, -1)
        take[answered] = np.arange(len(answered))
        indices = pyarrow.array(take, mask=take < 0)
        columns: list[Any] = [pyarrow.array([text.decode() for text in inputs], pyarrow.string())]
        for name, kind in self._types.items():
            rows = answers.outputs.get(name)
            values = [] if rows is None else self._values(name, rows)
            columns.append(_as_declared(name, values, kind).take(indices))
        errors = [faults[p].error() if p in faults else None for p in range(answers.count)]
        columns.append(pyarrow.array(errors, error_type()))
        self._tables.append(pyarrow.table(columns, schema=self._schema()))
        self.size += self._tables[-1].nbytes

    def _schema(self) -> Any:
        import pyarrow

        fields = {"input": pyarrow.string(), **self._types, "error": error_type()}
        return pyarrow.schema(list(fields.items()))

    def _values(self, name: str, rows: Array) -> list[Any]:
        if name in self._labels:
            return list(self._labels[name].texts(rows))
        values = rows.tolist()
        return [v.tolist() if isinstance(v, np.ndarray) else v for v in values]

    def write(self, path: Path) -> None:
        """Write what was taken since the last file, and forget it."""
        import pyarrow
        import pyarrow.parquet

        tables = self._tables or [self._schema().empty_table()]
        pyarrow.parquet.write_table(pyarrow.concat_tables(tables), path, compression="zstd")
        self._tables, self.size = [], 0


def _as_declared(name: str, values: Sequence[Any], kind: Any) -> Any:
    """Return an output's column; BatchError for one that is not what its model declares."""
    import pyarrow

    try:
        return pyarrow.array(values, kind)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise BatchError(
            f"output {name!r} is not the {kind} a record that the model declares ({error}): ask "
            "for output_format='jsonl', or export the model with the shape that it answers"
        ) from error


def error_type() -> Any:
    """Return the Arrow type of the column ``error``."""
    import pyarrow

    fields = {"reason": pyarrow.string(), "uri": pyarrow.string(), "offset": pyarrow.int64()}
    return pyarrow.struct({**fields, "base64": pyarrow.string()})


def column_types(outputs: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    """Return an Arrow type for each output, from its data type and number of dimensions."""
    import pyarrow

    types = {}
    for name, (dtype, dimensions) in outputs.items():
        text = dtype == "BYTES"
        kind = pyarrow.string() if text else pyarrow.from_numpy_dtype(NUMPY_TYPES[dtype])
        for _ in range(max(dimensions - 1, 0)):
            kind = pyarrow.list_(kind)
        types[name] = kind
    return types
