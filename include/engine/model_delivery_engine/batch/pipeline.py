"""One shard: cut into parts, each run by whatever process is free, and journalled when it is done.

Reading, running and writing overlap: twice as many lanes as processes each take the next part,
bring it here, have it run, and put its answers away. What is in memory or spooled at a time is a
part a lane, however long the shard.
"""

import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from model_delivery_engine.batch.budget import ErrorBudget, SharedBudget, Tallies
from model_delivery_engine.batch.formats import (
    MAGIC_BYTES,
    Compression,
    Encoding,
    InputFormat,
    OutputFormat,
    check_plain,
    encoding_of,
)
from model_delivery_engine.batch.journal import (
    Journal,
    JournalObject,
    JournalPart,
    JournalWriter,
    check_identity,
    read_journal,
)
from model_delivery_engine.batch.manifest import check_parts
from model_delivery_engine.batch.pace import Pace
from model_delivery_engine.batch.parts import (
    FIRST_PART_BYTES,
    CompressedSource,
    Cut,
    LineSource,
    Part,
    PartData,
    PartSource,
    last_member,
    part_bytes,
    timed_part_bytes,
)
from model_delivery_engine.batch.pool import Growing, Pool, open_pool
from model_delivery_engine.batch.progress import EVERY_S, Progress
from model_delivery_engine.batch.recommend import Recommendations
from model_delivery_engine.batch.records import Missing
from model_delivery_engine.batch.runner import Work
from model_delivery_engine.batch.shards import Shard, next_line
from model_delivery_engine.batch.sinks import PartFile, numbered, part_suffix
from model_delivery_engine.batch.storage import Storage, Version, read_bytes, version_of
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.cores import usable_cores
from model_delivery_engine.digest import digest_bytes
from model_delivery_engine.disk import disk_watched
from model_delivery_engine.errors import BatchError, EngineError, ShortageError, StoppedError
from model_delivery_engine.scratch import scratch_folder
from model_delivery_engine.tensors import TensorSpec

_LOOK_S = 0.2  # between two looks at whether to stop
_BYTES_A_PROCESS = 4 * 1024 * 1024  # of any model's; below that, its start may not be worth it


@dataclass(frozen=True)
class BatchOptions:
    """How records are run; a shard begun with some is not resumed with others.

    :param batch_size: records in one run of the model (default: measured, then kept in the journal)
    :param input_format: where the input's name does not say it
    :param input_fields: record field to input name (default: fields are named as the inputs)
    :param missing: what a missing value of a float input is (default: NaN for a model of XGBoost,
        whose own predictions take it for one; else an error of its record)
    :param output_format: jsonl or parquet (default: jsonl)
    :param output_compression: of jsonl: none, gzip or zstd (default: none)
    :param recommendations: what to ask of a recommender (default: the model is none)
    """

    batch_size: int | None = None
    input_format: str | None = None
    input_fields: Mapping[str, str] | None = None
    missing: Missing | None = None
    output_format: OutputFormat = OutputFormat.JSONL
    output_compression: Compression = Compression.NONE
    recommendations: Recommendations | None = None

    def check(self) -> None:
        """Refuse what makes no sense, with a BatchError."""
        if self.batch_size is not None and self.batch_size < 1:
            raise BatchError(f"batch_size is {self.batch_size}; give at least 1")
        parquet = self.output_format == OutputFormat.PARQUET
        if parquet and self.output_compression != Compression.NONE:
            raise BatchError("Parquet is compressed within; leave output_compression at none")


@dataclass(frozen=True)
class ShardResult:
    """Counts of one shard: ``records`` = ``ok`` + ``errors``; blank lines are ``skipped``."""

    records: int
    ok: int
    errors: int
    skipped: int = 0


@dataclass(frozen=True)
class ShardJob:
    """One shard to run.

    :param bundle: the opened bundle of the model
    :param folder: URI of the job's working folder; each shard has one of its own below
    :param etag: the input's ETag when the job was planned (default: as it is now)
    :param budget: the records that may fail in the job (default: any)
    :param processes: processes to run parts in (default: the cores this process may use, see
        `usable_cores`)
    :param shards: the job's shards; None where it is not known: a share of errors is then held when
        results are published, by no shard
    :param tell_every: seconds between two lines of progress (default: 10)
    """

    shard: Shard
    bundle: Bundle
    folder: str
    options: BatchOptions = field(default_factory=BatchOptions)
    etag: str | None = None
    budget: ErrorBudget = field(default_factory=ErrorBudget)
    processes: int | None = None
    shards: int | None = None
    tell_every: float = EVERY_S

    @property
    def shard_folder(self) -> str:
        """Where this shard's parts lie."""
        return shard_folder(self.folder, self.shard["index"])

    @property
    def lanes(self) -> int:
        """Processes that run at a time, if there is enough to do."""
        return usable_cores() if self.processes is None else self.processes

    @property
    def missing(self) -> Missing:
        """What a missing value is to this model."""
        if self.options.missing is not None:
            return self.options.missing
        of_xgboost = self.bundle.manifest.source.framework == "XGBOOST"
        return Missing.NAN if of_xgboost else Missing.ERROR

    def check(self) -> None:
        """Refuse what makes no sense, with a BatchError."""
        self.options.check()
        if self.lanes < 1:
            raise BatchError(f"processes is {self.processes}; give at least 1")


def shard_folder(folder: str, index: int) -> str:
    """Return where a shard's parts lie, below the job's working folder."""
    return f"{folder}/shard-{index:05d}"


def run_shard(
    job: ShardJob,
    storage: Storage,
    tell: Callable[[str], None] = lambda _line: None,
    stop: threading.Event | None = None,
) -> ShardResult:
    """Run a shard, or what a run before left of it.

    :param tell: takes lines of progress
    :param stop: ends the run when it is set, also by a signal's handler: parts that are done are
        noted, those that run are lost (default: nothing does)
    :raises StoppedError: it was set
    :raises BatchError: the input, model or configuration changed since the shard was begun; the
        input changed while it ran; no space on the disk; a process died twice of the same records
    :raises ShortageError: too little memory, or a process was killed twice: another try goes on
    :raises BudgetError: more records failed than may
    :raises OSError: a file that is there and cannot be read; a store raises errors of its own
    """
    job.check()
    encoding = encoding_of(job.shard["uri"], job.options.input_format)
    version = _version(job, storage)
    identity = _identity(job, version.etag)
    budget = _budget(job, storage, identity)
    writer = JournalWriter(storage, job.shard_folder)
    journal = read_journal(storage, job.shard_folder)
    if journal is not None:
        check_identity(journal, identity, job.shard_folder)
        if journal.complete:
            tell(f"{job.shard_folder} is complete; nothing to do")
            counts = journal.totals()
            budget.hold(counts["records"], counts["errors"], done=True)
            return ShardResult(**counts)
        tell(f"resuming {job.shard_folder} after {len(journal.parts)} parts")
    _check_text(job.shard, storage, encoding, version)
    with scratch_folder() as spool:
        run = _Run(
            job, storage, encoding, version, spool, journal, identity, budget, writer, tell, stop
        )
        return run.to_the_end()


def _check_text(shard: Shard, storage: Storage, encoding: Encoding, version: Version) -> None:
    """Refuse compressed bytes where the name says text: each line of them would be a bad record."""
    binary = encoding.format in (InputFormat.PARQUET, InputFormat.RAW)
    if not binary and encoding.compression == Compression.NONE:
        end = min(MAGIC_BYTES, shard["end"])
        check_plain(shard["uri"], read_bytes(storage, shard["uri"], 0, end, etag=version.etag))


def _version(job: ShardJob, storage: Storage) -> Version:
    uri = job.shard["uri"]
    found = version_of(storage, uri)
    if job.etag is not None and found.etag != job.etag:
        raise BatchError(
            f"{uri} changed after the job was planned (ETag {job.etag}, now {found.etag}); begin "
            "again with a new job, or a new plan of shards"
        )
    return found


def _identity(job: ShardJob, etag: str) -> dict[str, str]:
    options = dataclasses.asdict(job.options)
    options["onnxruntime"] = onnxruntime.__version__  # another release may round differently
    return {
        "input": _digest({"uri": job.shard["uri"], "etag": etag}),
        "range": _digest(job.shard),
        "model": job.bundle.manifest.model_digest,
        "configuration": _digest(options),
    }


def _budget(job: ShardJob, storage: Storage, identity: Mapping[str, str]) -> SharedBudget:
    shared = {name: identity[name] for name in identity if name != "range"}
    digest = _digest({**shared, "shards": job.shards})
    tallies = Tallies(storage, job.folder, digest, job.shard["index"])
    return SharedBudget(job.budget, tallies, job.shards, job.shard["uri"])


def _digest(facts: Mapping[str, Any]) -> str:
    return digest_bytes(json.dumps(facts, sort_keys=True).encode())


@dataclass
class _Run:
    job: ShardJob
    storage: Storage
    encoding: Encoding
    version: Version
    spool: Path
    journal: Journal | None
    identity: dict[str, str]
    budget: SharedBudget
    writer: JournalWriter
    tell: Callable[[str], None]
    stop: threading.Event | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    failure: BaseException | None = None
    stopped: bool = False
    notes: Pace = field(default_factory=Pace)
    counted: dict[int, tuple[int, int]] = field(default_factory=dict)  # of parts that run

    def to_the_end(self) -> ShardResult:
        shard, pool = self.job.shard, self._pool()
        try:
            if self.journal is None:
                self._begin(pool)
            else:
                self.state = self.journal
                self.source = self._source()
            self.cursor = (0, shard["start"])
            self.progress = self._progress()
            if self.journal is None:
                self.budget.begin()
            self.budget.hold(self.progress.records, self.progress.failed)
            self._lanes(pool)
        finally:
            pool.close()
        _version(dataclasses.replace(self.job, etag=self.version.etag), self.storage)
        check_parts(self.state)
        self.state.complete = True
        self.writer.write(self.state)
        self.tell(f"{self.job.shard_folder} is complete: {self.progress.line()}")
        self.budget.hold(self.progress.records, self.progress.failed, done=True)
        return ShardResult(**self.state.totals())

    def _pool(self) -> Pool:
        size = self.job.shard["end"] - self.job.shard["start"]
        lanes, work = self.job.lanes, self._work()
        if self.encoding.format in (InputFormat.PARQUET, InputFormat.IMAGES):
            return open_pool(work, lanes)
        plain = self.encoding.compression == Compression.NONE
        few = plain and size < (lanes - 1) * FIRST_PART_BYTES  # bytes, which may be much work
        asked = self.job.processes is not None and not few
        if lanes == 1 or asked or size >= lanes * _BYTES_A_PROCESS:
            return open_pool(work, lanes)
        return Growing(work, lanes, size - self._done() if plain else None)

    def _done(self) -> int:
        """Return how many positions runs before have done."""
        parts = self.journal.parts if self.journal else {}
        return sum(part.end - part.start for part in parts.values())

    def _work(self) -> Work:
        job, options = self.job, self.job.options
        return Work(
            job.bundle.model_path, job.bundle.manifest.name, job.shard["uri"],
            self.encoding.format, options.output_format, options.output_compression, self.spool,
            self.header, options.input_fields, options.recommendations, job.missing,
        )  # fmt: skip

    @functools.cached_property
    def header(self) -> bytes:
        """A CSV object's first line; of other formats nothing."""
        if self.encoding.format != InputFormat.CSV:
            return b""
        uri = self.job.shard["uri"]
        if self.encoding.compression != Compression.NONE:
            source = CompressedSource(
                self.storage, self.job.shard, self.version, self.spool, self.encoding.compression, 1
            )
            first = source.next(0, 0)
            data = source.fetch(first).path.read_bytes() if first else b""
            return data.partition(b"\n")[0]
        size = self.storage.stat(uri).size

        def read(start: int, end: int) -> bytes:
            return read_bytes(self.storage, uri, start, end, etag=self.version.etag)

        return read(0, next_line(uri, 1, size, read)) if size else b""

    def _begin(self, pool: Pool) -> None:
        options = self.job.options
        size = options.batch_size
        if size is None:
            size = pool.fastest_batch_size()
            self.tell(f"{self.job.shard_folder}: {size} records in a run of the model")
        self.state = Journal(
            self.identity, dict(self.job.shard), size, self._largest_part(),
            options.output_format, options.output_compression,
        )  # fmt: skip
        self.source = self._source()
        self.state.largest_part = self._timed_part(pool)
        if isinstance(self.source, LineSource):  # goes on with what it read ahead
            self.source.largest = self.state.largest_part
        else:
            self.source = self._source()
        self._take_over()

    def _take_over(self) -> None:
        """Begin the shard, or go on where another run began it while this one measured."""
        self.writer = JournalWriter(self.storage, self.job.shard_folder)
        self.journal = read_journal(self.storage, self.job.shard_folder)
        if self.journal is None:
            self.writer.begin(self.state)
        else:
            check_identity(self.journal, self.identity, self.job.shard_folder)
            self.tell(
                f"{self.job.shard_folder}: another run began it meanwhile; going on with that"
            )
            self.state = self.journal
            self.source = self._source()

    def _timed_part(self, pool: Pool) -> int:
        """Return how large parts may be, so that none takes long; the first is tried."""
        source, largest = self.source, self.state.largest_part
        with disk_watched(self.spool, f"what is read of {self.job.shard['uri']}"):
            part = source.next(0, self.job.shard["start"])
            if part is None:
                return largest
            data = source.fetch(part)
        seconds = pool.seconds(data, self.state.batch_size)
        if data.spooled:
            data.path.unlink()
        return timed_part_bytes(largest, source.weight(part), seconds)

    def _largest_part(self) -> int:
        shard = self.job.shard
        if self.encoding.format == InputFormat.IMAGES:
            from model_delivery_engine.batch.images import image_part_bytes

            return image_part_bytes(self.storage, shard, self.version.etag)
        if self.encoding.format == InputFormat.PARQUET:
            from model_delivery_engine.batch.parquet import rows_bytes

            return part_bytes(rows_bytes(self.storage, shard, self.version.etag))
        return part_bytes(shard["end"] - shard["start"])

    def _source(self) -> PartSource:
        job, version, largest = self.job, self.version, self.state.largest_part
        if self.encoding.format == InputFormat.PARQUET:
            from model_delivery_engine.batch.parquet import ParquetSource

            return ParquetSource(self.storage, job.shard, version, self.spool, largest)
        if self.encoding.format == InputFormat.IMAGES:
            from model_delivery_engine.batch.images import ImageSource

            return ImageSource(self.storage, job.shard, version, self.spool, largest)
        if self.encoding.compression != Compression.NONE:
            member = last_member(self.state.members, self._first_gap()[1])
            return CompressedSource(
                self.storage, job.shard, version, self.spool, self.encoding.compression, largest,
                member, *self._row_ends(),
            )  # fmt: skip
        return LineSource(
            self.storage, job.shard, version, self.spool, largest, self._record_bytes(),
            *self._row_ends(),
        )  # fmt: skip

    def _row_ends(self) -> tuple[Cut | None, int]:
        """Return what cuts between rows, which may be of several lines, and how far it looks."""
        if self.encoding.format != InputFormat.CSV:
            return None, 0
        from model_delivery_engine.batch.csv_lines import header_columns, is_row
        from model_delivery_engine.batch.csv_rows import LONGEST_ROW_BYTES, row_end

        row = is_row(len(header_columns(self.header, self.job.shard["uri"])))
        return functools.partial(row_end, is_row=row), LONGEST_ROW_BYTES

    def _record_bytes(self) -> int | None:
        if self.encoding.format != InputFormat.RAW:
            return None
        from model_delivery_engine.batch.raw_records import record_bytes

        manifest, shard = self.job.bundle.manifest, self.job.shard
        inputs = [TensorSpec(s.name, s.dtype, tuple(s.shape)) for s in manifest.inputs]
        size = record_bytes(inputs, manifest.name)
        last = shard["end"] == self.storage.stat(shard["uri"]).size
        if shard["start"] % size or (shard["end"] % size and not last):
            raise BatchError(
                f"{shard['uri']}: shard {shard['index']}, {shard['start']} to {shard['end']}, is "
                f"not cut between records: those of model {manifest.name!r} have {size} bytes; "
                f"plan the shards again with record_bytes={size}"
            )
        return size

    def _first_gap(self) -> tuple[int, int]:
        index, start = 0, self.job.shard["start"]
        while index in self.state.parts:
            start = self.state.parts[index].end
            index += 1
        return index, start

    def _progress(self) -> Progress:
        counts = self.state.totals()
        return Progress(
            self.tell, self._share, counts["records"], counts["errors"], self.job.tell_every
        )

    def _share(self) -> float:
        shard = self.job.shard
        if isinstance(self.source, CompressedSource):
            return self.source.share
        done = sum(part.end - part.start for part in self.state.parts.values())
        return done / max(shard["end"] - shard["start"], 1)

    def _lanes(self, pool: Pool) -> None:
        lanes = [
            threading.Thread(target=self._lane, args=(pool,)) for _ in range(2 * self.job.lanes)
        ]
        for lane in lanes:
            lane.start()
        try:
            for lane in lanes:
                self._wait(lane)
        except BaseException:  # this task is being stopped: the lanes' processes go first
            self.stopped = True
            pool.stop()
            for lane in lanes:
                lane.join()
            self._note_all()
            raise
        if self.failure is not None:
            self._note_all()
            raise self.failure

    def _wait(self, lane: threading.Thread) -> None:
        while lane.is_alive():
            lane.join(_LOOK_S)
            if self.stop is not None and self.stop.is_set():
                raise StoppedError(f"{self.job.shard['uri']}: stopped; run it again to go on")

    def _note_all(self) -> None:
        """Note the parts that are done, so that the next run does none of them again."""
        with contextlib.suppress(Exception):  # the store may be what failed
            self.writer.write(self.state)

    def _lane(self, pool: Pool) -> None:
        try:
            while not self.stopped:
                with disk_watched(self.spool, f"what is read of {self.job.shard['uri']}"):
                    part = self._next()
                    if part is None:
                        return
                    data = self.source.fetch(part)
                self._run_part(pool, data)
        except MemoryError as error:
            self._fail(ShortageError(f"{self.job.shard['uri']}: too little memory ({error!r}); "
                                     "another try goes on"))  # fmt: skip
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.lock:
            self.failure = self.failure or error
            self.stopped = True

    def _next(self) -> Part | None:
        with self.lock:
            index, start = self.cursor
            while index in self.state.parts:
                start = self.state.parts[index].end
                index += 1
            part = self.source.next(index, start)
            if part is None:
                self.state.end = start
            else:
                self.cursor = (index + 1, part.end)
            return part

    def _run_part(self, pool: Pool, data: PartData) -> None:
        objects: dict[tuple[bool, int], JournalObject] = {}

        def put_away(file: PartFile) -> None:
            objects[file.errors, file.number] = self._take(file, data.part.index)

        def counted(records: int, errors: int) -> None:
            try:
                with self.lock:
                    self._count(data.part.index, records, errors)
            except EngineError:
                raise
            except Exception as error:  # the store's own, which is no fault of the part's
                self._fail(error)
                raise StoppedError(f"{self.job.shard['uri']}: stopped") from error

        outcome = pool.run(data, self.state.batch_size, put_away, counted)
        if data.spooled:
            data.path.unlink()
        for file in outcome.files:
            put_away(file)
        in_order = sorted(objects.items())
        done = JournalPart(
            outcome.part.index, outcome.part.start, outcome.part.end, outcome.records, outcome.ok,
            outcome.errors, outcome.skipped, outcome.input_digest,
            tuple(each for (errors, _), each in in_order if not errors),
            tuple(each for (errors, _), each in in_order if errors),
        )  # fmt: skip
        with self.lock:
            self.state.parts[done.index] = done
            if isinstance(self.source, CompressedSource):
                self.state.members[done.index] = self.source.members[done.index]
            if self.notes.due:  # the journal grows with the parts, and is written whole
                with self.notes.measured():
                    self.writer.write(self.state)
            self._count(done.index, done.records, done.errors)
            del self.counted[done.index]

    def _count(self, index: int, records: int, errors: int) -> None:
        """Count how far a part is; a process that died may have counted some of it before."""
        before = self.counted.get(index, (0, 0))
        self.counted[index] = (records, errors)
        self.progress.add(records - before[0], errors - before[1])
        self.budget.hold(self.progress.records, self.progress.failed)

    def _take(self, file: PartFile, index: int) -> JournalObject:
        """Put a file of a part away; what a run before left of it is written over, the same."""
        options = self.job.options
        if file.errors:
            kind, suffix = "errors", part_suffix(OutputFormat.JSONL, options.output_compression)
        else:
            kind, suffix = "part", part_suffix(options.output_format, options.output_compression)
        name = f"{numbered(Path(f'{kind}-{index:05d}'), file.number)}{suffix}"
        self.storage.take(file.path, f"{self.job.shard_folder}/{name}")
        return JournalObject(name, file.size, file.digest)
