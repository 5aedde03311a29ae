"""Two runs that begin a shard at once, and measure different batch sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_delivery_engine.batch.journal import is_journal, read_journal
from model_delivery_engine.batch.pipeline import BatchOptions, shard_folder
from model_delivery_engine.batch.pool import InProcess
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import StoppedError

from tests.unit.engine.batch_job import FOLDER, RESULTS, Job

LINES = b"".join(
    json.dumps({"id": n, "features": [n, 1.0, 2.0, 3.0]}).encode() + b"\n" for n in range(5_000)
)


@pytest.fixture
def job(tmp_path: Path, linear_bundle: Bundle) -> Job:
    job = Job(tmp_path / "job", linear_bundle)
    job.options = BatchOptions()
    return job


def size_of(job: Job) -> int:
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    return journal.batch_size


def test_a_run_goes_on_with_what_another_began_while_it_measured(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter((128, 512))

    def measured(_pool: InProcess) -> int:
        size = next(sizes)
        if size == 128:
            job.run()  # the other run, from its beginning to its end
        return size

    monkeypatch.setattr(InProcess, "fastest_batch_size", measured)
    assert job.run(LINES).ok == 5_000
    assert size_of(job) == 512
    assert job.run().ok == 5_000
    job.publish()
    assert len(job.storage.get(RESULTS).splitlines()) == 5_000


def test_a_run_that_finds_another_beside_its_own_leaves_it_the_shard(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter((512, 128, 64))
    monkeypatch.setattr(InProcess, "fastest_batch_size", lambda _pool: next(sizes))
    write_stream = job.storage.write_stream
    others = 0

    def late(uri: str, chunks: Any, **more: Any) -> None:
        nonlocal others
        if is_journal(uri) and not others:  # the other begins between our look and our journal
            others = 1
            job.run()
        write_stream(uri, chunks, **more)

    monkeypatch.setattr(job.storage, "write_stream", late)
    with pytest.raises(StoppedError, match="another run began this shard"):
        job.run(LINES)
    assert size_of(job) == 128
    assert len(job.journals()) == 1
    assert job.run().ok == 5_000
    job.publish()
    assert len(job.storage.get(RESULTS).splitlines()) == 5_000


def test_what_a_run_left_that_got_no_further_than_its_journal_is_no_hindrance(job: Job) -> None:
    job.options = BatchOptions(batch_size=64)
    job.run(LINES)
    (uri,) = job.journals()
    data = json.loads(job.storage.get(uri))
    data |= {"batch_size": 32, "parts": [], "complete": False, "end": None}
    folder = shard_folder(FOLDER, 0)
    job.storage.put(f"{folder}/journal-0.json", json.dumps(data).encode())
    assert job.run().ok == 5_000
    job.publish()
    assert len(job.storage.get(RESULTS).splitlines()) == 5_000
