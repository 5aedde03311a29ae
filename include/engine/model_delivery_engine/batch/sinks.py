"""Where a part's answers go: files in the spool folder, hashed as they are written."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from model_delivery_engine.batch.answers import error_line, json_text
from model_delivery_engine.batch.batch import Answers
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import SUFFIX, Compression, OutputFormat
from model_delivery_engine.batch.labels import Labels
from model_delivery_engine.tensors import TensorSpec


@dataclass(frozen=True)
class PartFile:
    """A file that a part left: its size in bytes and its SHA-256."""

    path: Path
    size: int
    digest: str


class Sink(Protocol):
    """Takes answers; leaving its context closes its files."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def add(self, answers: Answers) -> None:
        """Take the answers of one batch."""

    def files(self) -> tuple[PartFile, PartFile | None]:
        """Return the answers and, if there are any, the error lines."""


class _Sink:
    def __init__(self) -> None:
        self._files = contextlib.ExitStack()

    def _opened(self, file: "_HashedFile") -> "_HashedFile":
        self._files.callback(file.close)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()


class _JsonSink(_Sink):
    """Writes answers as they come; errors also into a file of their own."""

    def __init__(self, path: Path, compression: Compression, labels: Mapping[str, Labels]) -> None:
        super().__init__()
        self._labels = labels
        self._answers = self._opened(_HashedFile(path, compression))
        self._errors = self._opened(_HashedFile(path.with_name(f"{path.name}-errors"), compression))

    def add(self, answers: Answers) -> None:
        self._answers.write(json_text(answers, self._labels))
        if answers.faults:
            lines = [error_line(answers.faults[place]) for place in sorted(answers.faults)]
            self._errors.write(b"".join(lines))

    def files(self) -> tuple[PartFile, PartFile | None]:
        return self._answers.file() or self._answers.empty(), self._errors.file()


class _ParquetSink(_Sink):
    def __init__(
        self, path: Path, outputs: Sequence[TensorSpec], labels: Mapping[str, Labels]
    ) -> None:
        from model_delivery_engine.batch.parquet import ParquetAnswers, column_types

        super().__init__()
        types = {spec.name: (spec.dtype, len(spec.shape)) for spec in outputs}
        self._path = path
        self._table = ParquetAnswers(column_types(types), labels)
        errors = _HashedFile(path.with_name(f"{path.name}-errors"), Compression.NONE)
        self._errors = self._opened(errors)

    def add(self, answers: Answers) -> None:
        self._errors.write(b"".join(self._table.add(answers)))

    def files(self) -> tuple[PartFile, PartFile | None]:
        self._table.write(self._path)
        with self._path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return PartFile(self._path, self._path.stat().st_size, digest), self._errors.file()


class _HashedFile:
    """A file that is made at its first byte. Compressed, each write is a member of its own."""

    def __init__(self, path: Path, compression: Compression) -> None:
        self._path, self._compression = path, compression
        self._hash = hashlib.sha256()
        self._file: Any = None
        self._size = 0

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._file is None:
            self._file = self._path.open("wb", buffering=0)
        data = compress(data, self._compression)
        rest = memoryview(data)
        while rest:  # an unbuffered write may take less than all of it
            rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self._size += len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def file(self) -> PartFile | None:
        if self._file is None:
            return None
        return PartFile(self._path, self._size, f"sha256:{self._hash.hexdigest()}")

    def empty(self) -> PartFile:
        self._path.write_bytes(b"")
        return PartFile(self._path, 0, f"sha256:{self._hash.hexdigest()}")


def open_sink(
    path: Path,
    output: OutputFormat,
    compression: Compression,
    outputs: Sequence[TensorSpec],
    labels: Mapping[str, Labels],
) -> Sink:
    """Return where a part's answers go.

    :param path: file for the answers; error lines go beside it
    :param outputs: the model's, for Parquet's columns
    :param labels: outputs that hold places of texts, and the texts
    """
    if output == OutputFormat.PARQUET:
        return _ParquetSink(path, outputs, labels)
    return _JsonSink(path, compression, labels)


def part_suffix(output: OutputFormat, compression: Compression) -> str:
    """Return the end of a part's name."""
    return ".parquet" if output == OutputFormat.PARQUET else f".jsonl{SUFFIX[compression]}"
