"""Runs parts through a model, in whatever process it is made: read, batch, infer, write."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_delivery_engine.batch.answers import NO_LABELS, error_line
from model_delivery_engine.batch.batch import Batch
from model_delivery_engine.batch.formats import Compression, InputFormat, OutputFormat
from model_delivery_engine.batch.inference import Runnable, answer, check_model, zeros
from model_delivery_engine.batch.parts import Part, PartData
from model_delivery_engine.batch.recommend import (
    BATCH_SIZE as RECOMMENDER_BATCH,
)
from model_delivery_engine.batch.recommend import (
    Recommendations,
    Recommender,
    RecommenderLines,
    service_error_line,
)
from model_delivery_engine.batch.records import Missing, RecordParser
from model_delivery_engine.batch.sinks import HandOver, PartFile, Sink, open_sink
from model_delivery_engine.batch.storage import check_state
from model_delivery_engine.disk import disk_watched
from model_delivery_engine.errors import (
    BatchError,
    EngineError,
    InferenceError,
    ShortageError,
    one_line,
)
from model_delivery_engine.runtime import Model, open_session, session_options

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)
_TRIAL_S = 0.05
_WORTH = 1.03  # a larger batch must be this much faster: it costs memory, and cache


@dataclass(frozen=True)
class Work:
    """All that a process needs to run parts of one shard.

    :param model_path: ONNX file on this machine
    :param uri: the input object, for error records
    :param header: a CSV object's first line
    :param input_fields: record field to input name; None: fields are named as the inputs
    :param recommendations: what to ask of a recommender; None: the model is none
    :param missing: what a missing value of a float input is
    :param spool: folder for what a part leaves
    """

    model_path: Path
    model_name: str
    uri: str
    input_format: InputFormat
    output_format: OutputFormat
    output_compression: Compression
    spool: Path
    header: bytes = b""
    input_fields: Mapping[str, str] | None = None
    recommendations: Recommendations | None = None
    missing: Missing = Missing.ERROR


@dataclass(frozen=True)
class PartOutcome:
    """What became of a part. ``records`` = ``ok`` + ``errors``; blank lines are ``skipped``.

    :param files: what it left, but for what was handed over before
    """

    part: Part
    records: int
    ok: int
    errors: int
    skipped: int
    input_digest: str
    files: tuple[PartFile, ...]


class _Reader(Protocol):
    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]: ...

    def digest(self, content: bytes) -> str: ...


class PartRunner:
    """Runs one part after the other. One thread: several runners use several cores.

    :raises BatchError: a model that does not fit the work
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        # A shard's answers must not depend on the machine's cores, and processes use them better.
        model = Model(open_session(work.model_path, session_options(threads=1)), work.model_name)
        self.model: Runnable = model
        self._labels, self._error_line = NO_LABELS, error_line
        if work.recommendations is not None:
            self.model = recommender = Recommender(model, work.recommendations)
            self._labels, self._error_line = recommender.labels, service_error_line
        else:
            check_model(model)
        self._reader = _reader(work, self.model)

    def fastest_batch_size(self) -> int:
        """Return the smallest batch size that is about as fast as any, measured on zeros.

        A recommender's is fixed: it runs its model in blocks of its own.
        """
        if self.model.batch_size:
            return self.model.batch_size
        if isinstance(self.model, Recommender):
            return RECOMMENDER_BATCH
        best, best_rate = BATCH_SIZES[0], 0.0
        for size in BATCH_SIZES:
            rate = _rate(self.model, size)
            if rate is None:
                break
            if rate > best_rate * _WORTH:
                best, best_rate = size, rate
            elif rate < best_rate / 2:
                break
        return best

    def run(self, data: PartData, batch_size: int, hand_over: HandOver) -> PartOutcome:
        """Run a part; its files appear in the spool folder.

        :param hand_over: takes a file of answers, where those are many, before the part is done
        :raises DiskFullError: no space on the disk
        :raises ShortageError: too little memory
        :raises BatchError: the file changed, or the engine itself failed
        """
        with data.path.open("rb") as file:
            check_state(file.fileno(), data.state, self._work.uri)
            file.seek(data.offset)
            content = file.read(data.length)
            check_state(file.fileno(), data.state, self._work.uri)
        if len(content) != data.length:
            raise BatchError(
                f"{self._work.uri}: {len(content)} of {data.length} bytes are left of the part at "
                f"{data.part.start}; the object changed under the job, start it again"
            )
        with disk_watched(self._work.spool, f"the answers to {self._work.uri}"):
            return self._run(data.part, content, batch_size, hand_over)

    def _run(self, part: Part, content: bytes, batch_size: int, hand_over: HandOver) -> PartOutcome:
        records = ok = skipped = 0
        try:
            with self._sink(part, hand_over) as sink:
                for batch, blank in self._reader.batches(content, part.start, batch_size):
                    answers = answer(batch, self.model)
                    sink.add(answers)
                    records += answers.count
                    ok += len(answers.echoes)
                    skipped += blank
                files = sink.files()
        except (EngineError, OSError):
            raise
        except Exception as error:
            raise self._failed(part, records, batch_size, error) from error
        digest = self._reader.digest(content)
        return PartOutcome(part, records, ok, records - ok, skipped, digest, tuple(files))

    def _failed(self, part: Part, done: int, batch_size: int, error: Exception) -> BatchError:
        """Return what ends the job: an error line would pass the engine's fault off as a record's.

        :param done: records of the part before the batch that failed
        """
        where = (
            f"{self._work.uri}: the records {done} to {done + batch_size - 1} of those from "
            f"{part.start} to {part.end}"
        )
        if isinstance(error, MemoryError):
            return ShortageError(f"{where}: too little memory for them; another try goes on there")
        failure = BatchError(
            f"{where} made the engine fail, which is no fault of theirs ({type(error).__name__}: "
            f"{one_line(error)}); report it, and take them out to go on"
        )
        failure.add_note(traceback.format_exc())
        return failure

    def _sink(self, part: Part, hand_over: HandOver) -> Sink:
        path = self._work.spool / f"out-{part.index}"
        return open_sink(
            path, self._work.output_format, self._work.output_compression, self.model.outputs,
            self._labels, self._error_line, hand_over,
        )  # fmt: skip


def _reader(work: Work, model: Runnable) -> _Reader:
    if isinstance(model, Recommender):
        if work.input_format != InputFormat.JSONL:
            raise BatchError(f"{work.uri}: a recommender takes JSON lines, not {work.input_format}")
        return RecommenderLines(model, work.uri)
    if work.input_format == InputFormat.RAW:
        from model_delivery_engine.batch.raw_records import RawRecords

        return RawRecords(model.inputs[0], work.uri, work.missing)
    if work.input_format == InputFormat.IMAGES:
        from model_delivery_engine.batch.images import Images

        return Images(model.inputs[0], work.uri)
    try:
        parser = RecordParser(model.inputs, work.input_fields, work.missing)
    except InferenceError as error:
        raise BatchError(f"model {model.name!r}: {error}") from error
    if work.input_format == InputFormat.CSV:
        from model_delivery_engine.batch.csv_lines import CsvLines

        return CsvLines(parser, work.uri, work.header)
    if work.input_format == InputFormat.PARQUET:
        from model_delivery_engine.batch.parquet import ParquetRows

        return ParquetRows(parser, work.uri)
    from model_delivery_engine.batch.json_lines import JsonLines

    return JsonLines(parser, work.uri)


def _rate(model: Runnable, size: int) -> float | None:
    """Return records a second at a batch size; None where zeros or open dimensions tell nothing."""
    inputs = zeros(model, size)
    return None if inputs is None else _timed(lambda: model.run(inputs), size)


def _timed(run: Callable[[], object], size: int) -> float | None:
    try:
        run()
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < _TRIAL_S:
            run()
            count += 1
    except (InferenceError, MemoryError):
        return None
    return size * count / (time.perf_counter() - started)
