"""Where a part's answers go: files in the spool folder, hashed as they are written.

A part is cut by what is read of it, and its answers may be a thousand times as long. So they become
several files, each handed over when it is large enough, and neither disk nor memory holds them all.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from model_delivery_engine.batch.answers import error_line, json_text
from model_delivery_engine.batch.batch import Answers, Fault
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import SUFFIX, Compression, OutputFormat
from model_delivery_engine.batch.labels import Labels
from model_delivery_engine.tensors import TensorSpec

_MEMBER_BYTES = 1024 * 1024  # of plain lines: of a few lines each, members are six times as large
FILE_BYTES = 64 * 1024 * 1024  # of answers; the batch that reaches it is still written
ErrorLine = Callable[[Fault], bytes]


@dataclass(frozen=True)
class PartFile:
    """A file that a part left: its size in bytes and its SHA-256.

    :param number: counts the part's files of its kind
    :param errors: whether it has the error lines, or the answers
    """

    path: Path
    size: int
    digest: str
    number: int
    errors: bool


HandOver = Callable[[PartFile], None]


class Sink(Protocol):
    """Takes answers; leaving its context closes its files."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def add(self, answers: Answers) -> None:
        """Take the answers of one batch."""

    def files(self) -> list[PartFile]:
        """Return the files that are not handed over yet."""


class _Lines:
    """Files of lines, one after the other. Compressed, a MiB of lines is a member of its own.

    :param path: of the first file, which is made at its first byte
    """

    def __init__(
        self, path: Path, compression: Compression, hand_over: HandOver, *, errors: bool
    ) -> None:
        self._path, self._compression, self._hand_over = path, compression, hand_over
        self._errors = errors
        self._number = 0
        self._file: Any = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def write(self, data: bytes) -> None:
        if self._compression == Compression.NONE:
            self._put(data)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _MEMBER_BYTES:
            self._put(self._member())

    def _member(self) -> bytes:
        data, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
        return compress(data, self._compression) if data else b""

    def _put(self, data: bytes) -> None:
        self._append(data)
        if self._file is not None and self._size >= FILE_BYTES:
            for file in self._ended():
                self._hand_over(file)

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._file is None:
            self._begin()
        rest = memoryview(data)
        while rest:  # an unbuffered write may take less than all of it
            rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self._size += len(data)

    def _begin(self) -> None:
        path = numbered(self._path, self._number)
        self._file = path.open("wb", buffering=0)
        self._hash, self._size = hashlib.sha256(), 0

    def files(self) -> list[PartFile]:
        """Return the file that is written, if any, and begin the next."""
        self._append(self._member())
        return self._ended()

    def _ended(self) -> list[PartFile]:
        if self._file is None:
            return []
        self.close()
        path, digest = numbered(self._path, self._number), f"sha256:{self._hash.hexdigest()}"
        file = PartFile(path, self._size, digest, self._number, self._errors)
        self._number += 1
        return [file]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _JsonSink:
    """Writes answers as they come; errors also into files of their own."""

    def __init__(
        self, path: Path, compression: Compression, labels: Mapping[str, Labels],
        in_results: ErrorLine, hand_over: HandOver,
    ) -> None:  # fmt: skip
        self._labels, self._in_results = labels, in_results
        self._answers = _Lines(path, compression, hand_over, errors=False)
        self._errors = _Lines(errors_of(path), compression, hand_over, errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._answers.close()
        self._errors.close()

    def add(self, answers: Answers) -> None:
        self._answers.write(json_text(answers, self._labels, self._in_results))
        if answers.faults:
            self._errors.write(_error_lines(answers))

    def files(self) -> list[PartFile]:
        return [*self._answers.files(), *self._errors.files()]


class _ParquetSink:
    """Writes answers as Parquet, errors as lines. A part leaves a file even without a row."""

    def __init__(
        self, path: Path, outputs: Sequence[TensorSpec], labels: Mapping[str, Labels],
        hand_over: HandOver,
    ) -> None:  # fmt: skip
        from model_delivery_engine.batch.parquet import ParquetAnswers, column_types

        types = {spec.name: (spec.dtype, len(spec.shape)) for spec in outputs}
        self._path, self._hand_over, self._number = path, hand_over, 0
        self._table = ParquetAnswers(column_types(types), labels)
        self._errors = _Lines(errors_of(path), Compression.NONE, hand_over, errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._errors.close()

    def add(self, answers: Answers) -> None:
        self._table.add(answers)
        self._errors.write(_error_lines(answers))
        if self._table.size >= FILE_BYTES:
            self._hand_over(self._written())

    def files(self) -> list[PartFile]:
        last = [self._written()] if self._table.size or not self._number else []
        return [*last, *self._errors.files()]

    def _written(self) -> PartFile:
        path = numbered(self._path, self._number)
        self._table.write(path)
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        written = PartFile(path, path.stat().st_size, digest, self._number, errors=False)
        self._number += 1
        return written


def _error_lines(answers: Answers) -> bytes:
    return b"".join(error_line(answers.faults[place]) for place in sorted(answers.faults))


def numbered(path: Path, number: int) -> Path:
    """Return the path of a part's n-th file of a kind, counted from 0."""
    return path.with_name(f"{path.name}-{number}") if number else path


def errors_of(path: Path) -> Path:
    """Return where the error lines beside a part's answers go."""
    return path.with_name(f"{path.name}-errors")


def open_sink(
    path: Path,
    output: OutputFormat,
    compression: Compression,
    outputs: Sequence[TensorSpec],
    labels: Mapping[str, Labels],
    in_results: ErrorLine,
    hand_over: HandOver,
) -> Sink:
    """Return where a part's answers go.

    :param path: file for the answers; error lines go beside it
    :param outputs: the model's, for Parquet's columns
    :param labels: outputs that hold places of texts, and the texts
    :param in_results: writes the line of a record without an answer among the answers
    :param hand_over: takes a file that is large enough, while others follow
    """
    if output == OutputFormat.PARQUET:
        return _ParquetSink(path, outputs, labels, hand_over)
    return _JsonSink(path, compression, labels, in_results, hand_over)


def part_suffix(output: OutputFormat, compression: Compression) -> str:
    """Return the end of a part's name."""
    return ".parquet" if output == OutputFormat.PARQUET else f".jsonl{SUFFIX[compression]}"
