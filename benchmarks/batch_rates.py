"""How the batch benchmarks measure: our job, its limit, and Ray Data on the same work."""

import itertools
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.answers import json_text
from model_delivery_engine.batch.batch import Answers
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.pipeline import BatchOptions, ShardJob, run_shard
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.cores import usable_cores

from benchmarks.record import Measure, median_and_spread

CORES = usable_cores()
HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".local" / "peers"

OURS = "ours"  # how the name of a way begins that is no library's, but the pipeline's own
Ways = Mapping[str, Callable[[], object]]
Stages = Mapping[str, Ways]  # the ways to do each; the fastest counts


class TimedStorage(StorageHook):
    """Notes when each part is put away, and counts the bytes read.

    :param local: whether the engine is told where the files are
    """

    def __init__(self, *, local: bool = True) -> None:
        super().__init__()
        self.local = local
        self.times: dict[str, float] = {}
        self.bytes_read = 0
        self.parts_until_kill: int | None = None

    def take(self, path: Path, uri: str) -> None:
        """Put a part away, or die as a killed process does."""
        if self.parts_until_kill is not None:
            self.parts_until_kill -= 1
            if self.parts_until_kill < 0:
                raise KeyboardInterrupt
        super().take(path, uri)
        self.times[uri.rpartition("/")[2]] = time.perf_counter()

    def read(
        self, uri: str, start: int = 0, end: int | None = None, *, etag: str | None = None
    ) -> Any:
        """Read, and count it."""
        for chunk in super().read(uri, start, end, etag=etag):
            self.bytes_read += len(chunk)
            yield chunk

    def local_path(self, uri: str) -> Path | None:
        """Return the file, unless this plays a remote store."""
        return super().local_path(uri) if self.local else None


@dataclass
class Ran:
    """A job that ran: rate in its steady state, halves of it, and memory.

    :param rate: records a second between the first and the last part that was put away: the start
        of processes is outside
    :param halves: rate of the first and of the second half
    :param seconds: of the whole job, its start included
    :param peak_bytes: resident memory of all its processes together, sampled
    """

    records: int
    rate: float
    halves: tuple[float, float]
    seconds: float
    peak_bytes: int
    errors: int = 0
    cpu_seconds: float = 0.0

    @property
    def cpu_microseconds(self) -> float:
        """Processor time a record, of all processes, their start included."""
        return 1e6 * self.cpu_seconds / self.records


def run_ours(
    bundle: Bundle, source: Path, folder: Path, options: BatchOptions, processes: int | None = None
) -> Ran:
    """Run one job as one shard, from nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    storage = TimedStorage()
    shard = Shard(index=0, uri=f"file://{source}", start=0, end=source.stat().st_size)
    job = ShardJob(shard, bundle, f"file://{folder}", options, processes=processes)
    memory = PeakMemory()
    started, used = time.perf_counter(), _cpu_seconds()
    with memory:
        result = run_shard(job, storage)
    seconds, used = time.perf_counter() - started, _cpu_seconds() - used
    journal = read_journal(storage, job.shard_folder)
    assert journal is not None
    done = sorted((storage.times[part.answers[-1].name], part.records)
                  for part in journal.parts.values())  # fmt: skip
    middle = len(done) // 2
    return Ran(
        result.records, _rate(done), (_rate(done[: middle + 1]), _rate(done[middle:])), seconds,
        memory.peak, result.errors, used,
    )  # fmt: skip


def _cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def _rate(done: list[tuple[float, int]]) -> float:
    if len(done) < 2:
        return 0.0
    return sum(records for _, records in done[1:]) / (done[-1][0] - done[0][0])


class PeakMemory:
    """Samples the resident memory of this process and its children, ten times a second.

    Who they are is looked up once a second: to read all of /proc each time takes 1 % of two cores.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        for n in itertools.count():
            if self._done.wait(0.1):
                return
            if n < 10 or n % 10 == 0:
                family = [me, *me.children(recursive=True)]
            total = 0
            for process in family:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


@dataclass
class Limit:
    """Core-seconds a record of each stage alone, with the fastest library found.

    :param cpu: processor time of the same, which a busy machine does not stretch
    :param own: core-seconds a record of the fastest way of any kind, the pipeline's own too
    :param ways: core-seconds a record of every way that was tried, by stage and way
    """

    stages: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)
    ways: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Records a second that all cores could do, were there nothing but the stages."""
        return CORES / sum(self.stages.values())

    @property
    def own_rate(self) -> float:
        """The same with the fastest ways of any kind."""
        return CORES / sum(self.own.values())


def ways_to_serialise(batches: Sequence[Answers]) -> Ways:
    """Return the ways to write answers: orjson alone, without what stands around them, and ours."""

    def with_orjson() -> None:
        for one in batches:
            orjson.dumps(one.outputs["scores"], option=orjson.OPT_SERIALIZE_NUMPY)

    def ours() -> None:
        for one in batches:
            json_text(one)

    return {"orjson, numbers alone": with_orjson, "ours": ours}


def measure_limit(make: Callable[[Any], tuple[Stages, int]], what: Any) -> Limit:
    """Time each stage alone, on every core at once, as the job runs them.

    :param make: of a module, so that a new process can import it; returns the ways of each stage,
        and how many records each call does
    :param what: handed to it
    """
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(CORES), context.Queue()
    processes = [
        context.Process(target=_time_stages, args=(make, what, barrier, found))
        for _ in range(CORES)
    ]
    for process in processes:
        process.start()
    each = [found.get() for _ in processes]
    for process in processes:
        process.join()
    limit = Limit()
    for stage, ways in each[0].items():
        wall = {way: sum(one[stage][way][0] for one in each) / CORES for way in ways}
        best = min((way for way in wall if not way.startswith(OURS)), key=wall.__getitem__)
        limit.stages[stage], limit.own[stage] = wall[best], min(wall.values())
        limit.cpu[stage] = sum(one[stage][best][1] for one in each) / CORES
        limit.ways.update({f"{stage}: {way}": seconds for way, seconds in wall.items()})
    return limit


def _time_stages(make: Any, what: Any, barrier: Any, found: Any) -> None:
    stages, records = make(what)
    timed: dict[str, dict[str, tuple[float, float]]] = {stage: {} for stage in stages}
    for stage, ways in stages.items():
        for name, way in ways.items():
            way()
            barrier.wait()
            started, used = time.perf_counter(), time.process_time()
            way()
            wall, cpu = time.perf_counter() - started, time.process_time() - used
            timed[stage][name] = (wall / records, cpu / records)
            barrier.wait()
    found.put(timed)


def run_ray(kind: str, model: Path, source: Path, output: Path) -> float:
    """Return Ray Data's rate on the same work: records a second, after a run to warm up."""
    python = _peer_python()
    shutil.rmtree(output, ignore_errors=True)
    command = [str(python), str(HERE / "ray_peer.py"), kind, str(model), str(source), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Ray Data failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["rate"])


def _peer_python() -> Path:
    python, stamp = PEERS / "bin" / "python", PEERS / "installed-from"
    wanted = (HERE / "peers.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        own = HERE.parent / ".venv" / "bin"
        uv = own / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", PEERS, "--python", own / "python"],
                       check=True)  # fmt: skip
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r",
                        HERE / "peers.txt"], check=True)  # fmt: skip
        stamp.write_text(wanted)
    return python


def beside(
    what: str,
    ran: list[Ran],
    limits: list[Limit],
    peer: list[float],
    peer_name: str,
    goal: str,
    *,
    least: float,
    times_peer: float | None = None,
) -> Measure:
    """Return a rate beside its limit and its peer.

    :param least: part of the limit that is the goal, judged on the median of the rounds' ratios
    :param times_peer: how many times the peer's rate is the goal, if it is one
    """
    ours = [each.rate for each in ran]
    rate, spread = median_and_spread(ours)
    ratios = [mine / each.rate for mine, each in zip(ours, limits, strict=True)]
    own = [mine / each.own_rate for mine, each in zip(ours, limits, strict=True)]
    against = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    ways = {
        name: round(statistics.median([each.ways[name] for each in limits]) * 1e6, 2)
        for name in limits[0].ways
    }
    work = statistics.median([each.cpu_microseconds for each in ran])
    least_work = statistics.median([sum(each.cpu.values()) for each in limits]) * 1e6
    reached = statistics.median(ratios) >= least
    if times_peer is not None:
        reached = reached and statistics.median(against) >= times_peer
    return Measure(
        what=what, unit="records/s", better="higher", ours=rate, peer=statistics.median(peer),
        peer_name=peer_name, limit=statistics.median([each.rate for each in limits]),
        limit_name="cores by the core-seconds of each stage alone, with the best library found",
        goal=goal, rounds=len(ours), spread=spread, passed=reached,
        note=f"ours by limit in each round: {[round(each, 3) for each in ratios]}; by the limit of "
        f"the fastest ways of any kind, our own too: {[round(each, 3) for each in own]}; by peer: "
        f"{[round(each, 1) for each in against]}; stages in core-microseconds a record: {ways}; "
        f"processor time a record: {work:.1f} us of ours, its start included, {least_work:.1f} us "
        "of the stages; of ours the start of processes is excluded, of the peer's a first run that "
        "warms up, not its actors' start in the second; ours leaves parts, not yet put together",
    )  # fmt: skip


def write_once(path: Path, data: Callable[[], bytes | Iterable[bytes]]) -> Path:
    """Write a file unless it is there."""
    if not path.exists():
        made = data()
        path.write_bytes(made if isinstance(made, bytes) else b"".join(made))
    return path
