"""Runs parts through a model, in whatever process it is made: read, batch, infer, write."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_delivery_engine.batch.answers import NO_LABELS, error_line
from model_delivery_engine.batch.batch import Batch
from model_delivery_engine.batch.batch_size import SIZES, fastest_batch_size
from model_delivery_engine.batch.formats import Compression, InputFormat, OutputFormat
from model_delivery_engine.batch.inference import Runnable, answer, check_model
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

_TELL_S = 1.0  # between two counts of a part that runs
_SAMPLE_S = 0.5  # of a part that is timed
Counted = Callable[[int, int], None]  # takes records and errors of a part that runs, so far


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
        """Return how many records to run at a time: the model's own number, else a measured one.

        A recommender's is fixed: it runs its model in blocks of its own.
        """
        if self.model.batch_size:
            return self.model.batch_size
        if isinstance(self.model, Recommender):
            return RECOMMENDER_BATCH
        return fastest_batch_size(self.model)

    def seconds(self, data: PartData, batch_size: int) -> float:
        """Return about how long a part takes: its first batches are run, for half a second or one.

        Those that make the engine fail are not waited for: the part itself will say why.
        """
        content, size = self._content(data), min(batch_size, SIZES[0])
        took, ran, records = 0.0, 0, 0
        try:
            for batch, _ in self._reader.batches(content, data.part.start, size):
                records += batch.count
                if took < _SAMPLE_S:
                    started = time.perf_counter()
                    answer(batch, self.model)
                    took += time.perf_counter() - started
                    ran = records
        except Exception:
            return 0.0
        return took * records / max(ran, 1)

    def run(
        self, data: PartData, batch_size: int, hand_over: HandOver, counted: Counted
    ) -> PartOutcome:
        """Run a part; its files appear in the spool folder.

        :param hand_over: takes a file of answers, where those are many, before the part is done
        :param counted: is told how far the part is, every second
        :raises DiskFullError: no space on the disk
        :raises ShortageError: too little memory
        :raises BatchError: the file changed, or the engine itself failed
        """
        content = self._content(data)
        with disk_watched(self._work.spool, f"the answers to {self._work.uri}"):
            return self._run(data.part, content, batch_size, hand_over, counted)

    def _content(self, data: PartData) -> bytes:
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
        return content

    def _run(
        self, part: Part, content: bytes, batch_size: int, hand_over: HandOver, counted: Counted
    ) -> PartOutcome:
        records = ok = skipped = 0
        told = time.monotonic()
        try:
            with self._sink(part, hand_over) as sink:
                for batch, blank in self._reader.batches(content, part.start, batch_size):
                    answers = answer(batch, self.model)
                    sink.add(answers)
                    records += answers.count
                    ok += len(answers.echoes)
                    skipped += blank
                    if time.monotonic() - told >= _TELL_S:
                        told = time.monotonic()
                        counted(records, records - ok)
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

        if len(model.inputs) > 1:
            names = ", ".join(spec.name for spec in model.inputs)
            raise BatchError(
                f"model {model.name!r} takes {names}, and an image is one input: export it with "
                "the others as constants, or give it records"
            )
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
