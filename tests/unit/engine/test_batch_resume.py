"""Resume: a killed job's output is the same, byte for byte, as one that ran through."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.batch.formats import Compression
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.pace import Pace
from model_delivery_engine.batch.pipeline import (
    BatchOptions,
    ShardJob,
    ShardResult,
    run_shard,
    shard_folder,
)
from model_delivery_engine.batch.planning import plan
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import BatchError, StoppedError

from tests.unit.engine.batch_job import (
    ERRORS,
    FOLDER,
    RESULTS,
    URI,
    Job,
    KilledError,
    kill_at,
)


def lines(count: int, bad: bool = True) -> bytes:
    rows = np.random.default_rng(1).normal(size=(count, 4)).round(3)
    texts = [json.dumps({"id": n, "features": row.tolist()}) for n, row in enumerate(rows)]
    for n in range(7, count, 97) if bad else []:
        texts[n] = texts[n][:-4]
    return "\n".join(texts).encode()


@pytest.fixture
def noted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every part noted, however long a note takes: writes are counted here."""
    monkeypatch.setattr(Pace, "due", True)


@pytest.fixture(scope="module")
def data() -> bytes:
    return lines(20_000)


def published(job: Job) -> tuple[bytes, bytes]:
    job.publish()
    return job.storage.get(RESULTS), job.storage.get(ERRORS)


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
def test_a_job_killed_at_any_write_ends_the_same(
    tmp_path: Path, linear_bundle: Bundle, data: bytes, compression: Compression
) -> None:
    from model_delivery_engine.batch.compression import compress

    suffix = {"none": "", "gzip": ".gz", "zstd": ".zst"}[compression]
    members = [data[:300_000], data[300_000:700_000], data[700_000:]]
    stored = b"".join(compress(member, compression) for member in members)
    uri = URI + suffix
    whole = Job(tmp_path / "whole", linear_bundle, uri=uri)
    whole.run(stored)
    expected = published(whole)
    assert expected[0].count(b"\n") == 20_000
    killed = Job(tmp_path / "killed", linear_bundle, uri=uri)
    killed.storage.put(uri, stored)
    kills = 0
    for write in (0, 1, 2, 3, 4, 5) * 9:
        kill_at(killed, write)
        try:
            killed.run()
            break
        except KilledError:
            kills += 1
            killed = Job(tmp_path / "killed", linear_bundle, uri=uri)
    assert kills >= 4
    ended = Job(tmp_path / "killed", linear_bundle, uri=uri)
    ended.run()
    assert published(ended) == expected


def test_the_journal_is_written_rarely_where_that_takes_long(job: Job) -> None:
    write, written = job.storage.write_stream, []

    def slow_write(uri: str, chunks: Any, **more: Any) -> None:
        time.sleep(0.2)
        written.append(uri)
        write(uri, chunks, **more)

    job.storage.write_stream = slow_write  # type: ignore[method-assign]
    assert job.run(lines(60_000)).records == 60_000
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    assert journal.complete
    assert len(journal.parts) > 10
    assert len([uri for uri in written if "/journal-" in uri]) <= 4


def test_nothing_is_visible_before_the_job_is_complete(job: Job, data: bytes) -> None:
    job.storage.put(URI, data)
    kill_at(job, 9)
    with pytest.raises(KilledError):
        job.run()
    assert not job.storage.exists(RESULTS)
    with pytest.raises(BatchError, match="not complete; run it to its end"):
        job.publish()
    assert not job.storage.exists(RESULTS)


def test_a_job_almost_done_reads_almost_nothing(job: Job) -> None:
    job.run(lines(250_000, bad=False))
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    last = max(journal.parts)
    size = journal.parts[last].end
    lost = [last, last // 2] if last > 60 else [last]
    for index in lost:
        del journal.parts[index]
    journal.complete = False
    (uri,) = job.journals()
    job.storage.put(uri, journal.to_json())
    job.storage.read_bytes.clear()
    assert job.run_one(0).records == 250_000
    assert 0 < job.storage.read_bytes[URI] <= size * 0.04


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_resumed_jobs_progress_is_that_of_the_job(
    tmp_path: Path, linear_bundle: Bundle, suffix: str
) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri=f"mem://in.jsonl{suffix}")
    text, bad = lines(40_000), len(range(7, 40_000, 97))
    kill_at(job, 8)
    with pytest.raises(KilledError):
        job.run(gzip.compress(text) if suffix else text)
    again = Job(tmp_path / "job", linear_bundle, uri=job.uri)
    assert again.run() == ShardResult(40_000, 40_000 - bad, bad)
    (done,) = (line for line in again.told if "is complete" in line)
    assert ": 40000 records, " in done
    assert done.endswith(f"100.0 %, 0 s left, {bad} failed")


def test_a_run_that_outlives_its_successor_does_no_harm(job: Job, data: bytes) -> None:
    """It is in the middle of the shard when the other begins, and goes on when that has ended."""
    whole = Job(job.storage.root / "whole", job.bundle)
    whole.run(data)
    successor = Job(job.storage.root, job.bundle)
    take, taken = job.storage.take, iter(range(99))

    def overtaken_take(path: Path, uri: str) -> None:
        number = next(taken)
        if number == 3:
            assert successor.run().records == 20_000
        if number == 9:
            raise KilledError
        take(path, uri)

    job.storage.take = overtaken_take  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        job.run(data)
    assert len(job.journals()) == 2
    assert published(job) == published(whole)
    job.storage.take = take  # type: ignore[method-assign]
    job.storage.read_bytes.clear()
    assert job.run().records == 20_000
    assert URI not in job.storage.read_bytes


@pytest.mark.usefixtures("noted_at_once")
def test_a_resume_takes_the_journal_before_over(job: Job, data: bytes) -> None:
    job.storage.put(URI, data)
    for write in (3, 5, 7):
        kill_at(job, write)
        with pytest.raises(KilledError):
            job.run()
        job = Job(job.storage.root, job.bundle)
    assert job.run().records == 20_000
    assert len(job.journals()) == 1


def test_a_complete_shard_is_not_run_again(job: Job, data: bytes) -> None:
    first = job.run(data)
    job.storage.read_bytes.clear()
    assert job.run() == first
    assert URI not in job.storage.read_bytes


@pytest.mark.parametrize("what", ["input", "model", "configuration"])
def test_another_input_model_or_configuration_is_refused(job: Job, data: bytes, what: str) -> None:
    job.storage.put(URI, data)
    kill_at(job, 5)
    with pytest.raises(KilledError):
        job.run()
    again = Job(job.storage.root, job.bundle)
    if what == "input":
        again.storage.put(URI, data.replace(b"1", b"2"))
    elif what == "model":
        manifest = replace(job.bundle.manifest, model_digest="sha256:another")
        again.bundle = replace(job.bundle, manifest=manifest)
    else:
        again.options = BatchOptions(batch_size=32)
    with pytest.raises(BatchError, match=f"the {what} changed since this shard was begun"):
        again.run()


def test_an_input_that_changes_while_it_is_read_is_noticed(job: Job, data: bytes) -> None:
    job.storage.put(URI, data)
    job.run(shards=2)
    path = job.storage.path(URI)
    os.utime(path, ns=(1, 1))
    with pytest.raises(BatchError, match="the input changed"):
        job.run_one(1)


@pytest.mark.parametrize("local", [True, False])
def test_no_part_is_of_an_input_that_was_there_for_a_while(
    tmp_path: Path, linear_bundle: Bundle, data: bytes, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A, then B, then A again: the ETag is A's whenever the whole job looks at it."""
    monkeypatch.setattr("model_delivery_engine.batch.storage._PAUSES_S", ())
    whole = Job(tmp_path / "whole", linear_bundle)
    whole.run(data)
    job = Job(tmp_path / "job", linear_bundle, local=local)
    path = job.storage.path(job.storage.put(URI, data))
    aside, takes, take = path.with_name("aside"), iter(range(99)), job.storage.take

    def replacing_take(file: Path, uri: str) -> None:
        take(file, uri)
        number = next(takes)
        if number == 1:
            other = path.with_name("other")
            other.write_bytes(data.replace(b"0.1", b"9.9"))
            aside.hardlink_to(path)
            other.replace(path)  # at no moment is nothing there
        elif number == 4 and aside.exists():
            aside.replace(path)

    monkeypatch.setattr(job.storage, "take", replacing_take)
    with pytest.raises((BatchError, OSError), match=r"changed under the job|another version"):
        job.run()
    if aside.exists():
        aside.replace(path)
    job.run()
    assert published(job) == published(whole)


def test_shards_of_two_versions_of_an_input_are_not_merged(job: Job, data: bytes) -> None:
    job.storage.put(URI, data)
    job.run(shards=2)
    job.forget(1)
    job.storage.put(URI, data.replace(b"0.1", b"9.9"))  # of the same size
    job.run_one(1)
    with pytest.raises(BatchError, match="2 versions of the input"):
        job.publish()


def test_a_shard_of_another_plan_is_refused(job: Job, data: bytes) -> None:
    job.run(data, shards=2)
    with pytest.raises(BatchError, match="the range changed since this shard was begun"):
        job.run(shards=3)


def test_an_altered_part_is_not_published(job: Job, data: bytes) -> None:
    job.run(data)
    part = next(each.uri for each in job.storage.list(f"{FOLDER}/") if "part-00002" in each.uri)
    job.storage.put(part, job.storage.get(part).replace(b"0.3", b"0.4", 1))
    with pytest.raises(BatchError, match=r"part-00002.jsonl has .* its journal says"):
        job.publish()
    assert not job.storage.exists(RESULTS)


def test_reads_that_break_off_are_taken_up(job: Job, data: bytes) -> None:
    job.storage.put(URI, data)
    job.storage.chunk = 100_000
    job.storage.failures = 2
    assert job.run().records == 20_000


@pytest.mark.parametrize("by", ["event", "exception"])
def test_a_run_that_is_stopped_starts_nothing_more(
    tmp_path: Path, linear_bundle: Bundle, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job", linear_bundle)
    job.processes = 2
    job.storage.put(URI, lines(200_000))
    job.shards = plan(job.storage, URI, 1)
    pool, stop = open_pool_of(monkeypatch), threading.Event()
    taken: list[str] = []
    take = job.storage.take

    def counting_take(path: Path, uri: str) -> None:
        take(path, uri)
        taken.append(uri)
        if len(taken) == 6:
            stop.set() if by == "event" else os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(job.storage, "take", counting_take)
    before = signal.signal(signal.SIGUSR1, _raise_killed)
    # Journals are dear here, so that what is done is noted late.
    monkeypatch.setattr("model_delivery_engine.batch.pace._SHARE", 1_000_000)
    task = ShardJob(job.shards[0], linear_bundle, FOLDER, job.options, processes=2)
    with pytest.raises(StoppedError if by == "event" else KilledError):
        run_shard(task, job.storage, job.told.append, stop)
    signal.signal(signal.SIGUSR1, before)
    assert pool.started == 2
    assert all(process.poll() is not None for process in pool.processes)
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    done = {each.name for part in journal.parts.values() for each in part.answers}
    assert done == {uri.rpartition("/")[2] for uri in taken if "/part-" in uri}
    stop.clear()
    assert run_shard(task, job.storage).records == 200_000


def _raise_killed(_number: int, _frame: object) -> None:
    raise KilledError


def open_pool_of(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the processes that are started from now on."""
    seen = SimpleNamespace(started=0, processes=[])
    popen = subprocess.Popen

    def counting(*args: object, **more: object) -> object:
        seen.started += 1
        seen.processes.append(popen(*args, **more))  # type: ignore[call-overload]
        return seen.processes[-1]

    monkeypatch.setattr("model_delivery_engine.batch.pool.subprocess.Popen", counting)
    return seen


@pytest.mark.parametrize(
    ("count", "suffix", "processes", "start_s", "started"),
    [
        (20_000, "", None, 0.001, 2),  # what is left is worth a start, however few bytes it is
        (20_000, ".gz", None, 0.001, 2),
        (20_000, "", None, 60.0, 0),
        (20_000, ".gz", None, 60.0, 0),
        (20_000, "", 2, 60.0, 2),  # asked for
        (20_000, "", 1, 0.001, 0),
        (50, "", None, 0.0001, 0),  # of one part, nothing is left
    ],
)
def test_a_small_input_has_processes_where_its_work_is_worth_them(
    tmp_path: Path, linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch,
    count: int, suffix: str, processes: int | None, start_s: float, started: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("model_delivery_engine.batch.pool._START_S", start_s)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    data = gzip.compress(lines(count, bad=False)) if suffix else lines(count, bad=False)
    alone = Job(tmp_path / "alone", linear_bundle, uri=f"{URI}{suffix}")
    assert alone.run(data).ok == count
    job = Job(tmp_path / "job", linear_bundle, uri=f"{URI}{suffix}")
    job.processes, pool = processes, open_pool_of(monkeypatch)
    assert job.run(data).ok == count
    assert pool.started == started
    assert all(process.poll() is not None for process in pool.processes)
    assert published(job) == published(alone)


CHILD = """
import sys
from pathlib import Path
from model_delivery_engine.bundle import open_bundle
from tests.unit.engine.batch_job import Job
root, archive, local = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "local"
job = Job(root, open_bundle(archive, Path(sys.argv[4])), local=local)
job.processes = 2
job.run(shards=2)
"""


@pytest.mark.parametrize("local", [True, False])
def test_kill_9_of_the_whole_group_of_processes(
    tmp_path: Path, linear_bundle: Bundle, local: bool
) -> None:
    data = lines(200_000)  # enough for processes of their own
    archive = next(tmp_path.rglob("bundle.tar.gz"))
    whole = Job(tmp_path / "whole", linear_bundle, local=local)
    whole.run(data, shards=2)
    expected = published(whole)
    killed = Job(tmp_path / "killed", linear_bundle, local=local)
    killed.storage.put(URI, data)
    chance = random.Random(5)
    kills = 0
    for attempt in range(12):
        command = [sys.executable, "-c", CHILD, str(killed.storage.root), str(archive),
                   "local" if local else "remote", str(tmp_path / f"bundle-{attempt}")]  # fmt: skip
        with subprocess.Popen(command, start_new_session=True) as child:
            delay = chance.uniform(0.8, 1.6)
            try:
                child.wait(delay if attempt < 5 else 60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                kills += 1
                time.sleep(0.05)
                continue
        assert child.returncode == 0
        break
    assert kills
    killed.run(shards=2)
    assert published(killed) == expected
