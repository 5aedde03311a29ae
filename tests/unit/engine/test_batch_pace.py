"""Parts are bounded in time, and tell how far they are, however slow a model is."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from model_delivery_engine.batch import runner
from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.formats import Compression, InputFormat, OutputFormat
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.parts import Part, PartData
from model_delivery_engine.batch.pipeline import shard_folder
from model_delivery_engine.batch.pool import Processes
from model_delivery_engine.batch.progress import Progress
from model_delivery_engine.batch.runner import Work
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import BudgetError

from tests.unit.engine.batch_job import FOLDER, URI, Job, KilledError, kill_at

COUNT = 600
EACH_S = 0.001


def lines(count: int = COUNT, *, bad: bool = False) -> bytes:
    x = "bad" if bad else [1.0, 2.0, 3.0, 4.0]
    return b"".join(json.dumps({"id": n, "features": x}).encode() + b"\n" for n in range(count))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a record take so long; a part may take 0.1 s."""
    answer = runner.answer

    def slowly(batch: Any, model: Any) -> Any:
        time.sleep(EACH_S * batch.count)
        return answer(batch, model)

    monkeypatch.setattr(runner, "answer", slowly)
    monkeypatch.setattr("model_delivery_engine.batch.parts.PART_S", 0.1)


def parts_of(job: Job) -> list[tuple[int, int, int]]:
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    return [(part.start, part.end, part.records) for part in journal.parts.values()]


@pytest.mark.usefixtures("slow")
def test_a_part_takes_no_longer_than_it_may(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path, linear_bundle)
    assert job.run(lines()).ok == COUNT
    assert max(records for _, _, records in parts_of(job)) * EACH_S <= 0.15


@pytest.mark.usefixtures("slow")
def test_a_resume_cuts_the_parts_that_were_begun(
    tmp_path: Path, linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Job(tmp_path / "whole", linear_bundle)
    whole.run(lines())
    job = Job(tmp_path / "job", linear_bundle)
    take, write_stream = job.storage.take, job.storage.write_stream
    kill_at(job, 5)
    with pytest.raises(KilledError):
        job.run(lines())
    monkeypatch.setattr(runner, "answer", runner.answer)  # still as slow
    monkeypatch.setattr("model_delivery_engine.batch.parts.PART_S", 20.0)  # but may be, now
    job.storage.take, job.storage.write_stream = take, write_stream  # type: ignore[method-assign]
    assert job.run().ok == COUNT
    assert parts_of(job) == parts_of(whole)


def test_a_part_that_runs_tells_how_far_it_is(
    tmp_path: Path, linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TELL_S", 0.0)
    told: list[int] = []
    add = Progress.add

    def adding(progress: Progress, records: int, failed: int) -> None:
        told.append(records)
        add(progress, records, failed)

    monkeypatch.setattr(Progress, "add", adding)
    job = Job(tmp_path, linear_bundle)
    assert job.run(lines()).ok == COUNT
    assert max(told) <= 64
    assert sum(told) == COUNT


def test_a_process_tells_how_far_its_part_is(
    tmp_path: Path, linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "site"
    environment.mkdir()
    (environment / "sitecustomize.py").write_text(
        "from model_delivery_engine.batch import runner\nrunner._TELL_S = 0.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(environment))
    path, count = tmp_path / "input", 600
    path.write_bytes(lines())
    work = Work(
        linear_bundle.model_path, "linear", URI, InputFormat.JSONL, OutputFormat.JSONL,
        Compression.NONE, tmp_path,
    )  # fmt: skip
    pool, told = Processes(work, 1), []
    try:
        size = path.stat().st_size
        part = PartData(Part(0, 0, size), path, 0, size, spooled=False)
        pool.run(part, 64, print, lambda records, errors: told.append((records, errors)))
    finally:
        pool.close()
    assert told == [(60 * n, 0) for n in range(1, count // 60 + 1)]


@pytest.mark.usefixtures("slow")
def test_a_job_is_given_up_early_within_a_part(
    tmp_path: Path, linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TELL_S", 0.0)
    monkeypatch.setattr("model_delivery_engine.batch.parts.PART_S", 20.0)
    job = Job(tmp_path, linear_bundle)
    job.budget = ErrorBudget(early_abort_records=100)
    with pytest.raises(BudgetError, match=r"of 1\d\d records"):
        job.run(lines(bad=True))
    assert not parts_of(job)
    assert job.storage.exists(URI)
