"""A machine short of memory ends the task, to be tried again; a record never pays for it."""

import contextlib
import json
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.batch.formats import Compression, InputFormat, OutputFormat
from model_delivery_engine.batch.parts import Part, PartData
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult
from model_delivery_engine.batch.pool import Processes
from model_delivery_engine.batch.runner import Work
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import BatchError, ShortageError
from onnx import TensorProto, helper

from tests.unit.engine.batch_job import URI, Job
from tests.unit.engine.conftest import save_graph

LARGE = 2**27  # numbers, of 512 MiB


@pytest.fixture
def hungry(tmp_path: Path, linear_bundle: Bundle) -> Bundle:
    """Return a model that takes as many numbers' memory as the largest record of a batch says."""
    path = save_graph(
        tmp_path / "hungry" / "model.onnx",
        [
            helper.make_node("ReduceMax", ["size"], ["most"], keepdims=0),
            helper.make_node("Unsqueeze", ["most", "first"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["zero"], keepdims=0),
            helper.make_node("Cast", ["size"], ["said"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["said", "zero"], ["y"]),
        ],
        {"size": (TensorProto.INT64, ["n", 1])},
        {"y": (TensorProto.FLOAT, ["n", 1])},
        {"first": np.array([0], np.int64)},
    )
    return replace(linear_bundle, model_path=path)  # the compiler would fix what it can


def lines(sizes: list[int]) -> bytes:
    return b"".join(json.dumps({"size": [size]}).encode() + b"\n" for size in sizes)


@contextlib.contextmanager
def memory_left(mebibytes: int) -> Iterator[threading.Event]:
    """Leave this process so much more memory; setting the event ends that."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * os.sysconf("SC_PAGE_SIZE") + mebibytes * 2**20
    over = threading.Event()

    def end() -> None:
        over.wait()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    ending = threading.Thread(target=end)
    ending.start()
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield over
    finally:
        over.set()
        ending.join()


def test_memory_that_is_short_for_a_moment_costs_nothing(tmp_path: Path, hungry: Bundle) -> None:
    job = Job(tmp_path / "job", hungry)
    with memory_left(400) as over:
        later = threading.Timer(0.5, over.set)
        later.start()
        result, found = job.answers(lines([LARGE, 1, LARGE, 2]))
        later.join()
    assert result == ShardResult(4, 4, 0)
    assert [line["output"]["y"][0] for line in found] == pytest.approx([LARGE, 1, LARGE, 2])


def test_memory_that_stays_short_ends_the_task_and_a_retry_goes_on(
    tmp_path: Path, hungry: Bundle
) -> None:
    job = Job(tmp_path / "job", hungry)
    job.options = BatchOptions(batch_size=3)
    data = lines([1, 2, 3, LARGE, LARGE, LARGE])
    where = len(lines([1, 2, 3]))
    with memory_left(400), pytest.raises(ShortageError) as short:
        job.run(data)
    assert f"{URI}: too little memory for any of the 3 records from {where} on" in str(short.value)
    assert job.run() == ShardResult(6, 6, 0)


def test_a_record_that_alone_needs_too_much_is_an_error_record(
    tmp_path: Path, hungry: Bundle
) -> None:
    result, found = Job(tmp_path / "job", hungry).answers(lines([1, 2**40, 3]))
    assert result == ShardResult(3, 2, 1)
    assert [line["output"] for line in found] == [{"y": [1]}, None, {"y": [3]}]
    assert "needs more memory than there is for it" in found[1]["error"]["reason"]


def test_a_process_that_is_killed_twice_is_a_shortage(job: Job) -> None:
    spool = job.storage.root / "spool"
    spool.mkdir(parents=True)
    work = Work(job.bundle.model_path, "linear", URI, InputFormat.JSONL, OutputFormat.JSONL,
                Compression.NONE, spool)  # fmt: skip
    pool, done = Processes(work, 1), threading.Event()

    def kill() -> None:
        while not done.wait(0.01):
            pool._all[0]._process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        path = job.storage.path(job.storage.put(URI, b"{}\n"))
        with pytest.raises(ShortageError, match=r"died twice \(exit code -9\)"):
            pool.run(PartData(Part(0, 0, 3), path, 0, 3, spooled=False), 64, print, print)
    finally:
        done.set()
        killer.join()
        pool.close()


def test_the_engines_own_fault_is_not_passed_off_as_a_records(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"".join(b'{"id":%d,"features":[1,2,3,4]}\n' % n for n in range(300))

    def broken(*_answers: object) -> bytes:
        raise TypeError("nobody thought of it")

    with monkeypatch.context() as patched:
        patched.setattr("model_delivery_engine.batch.sinks.json_text", broken)
        with pytest.raises(BatchError, match=r"the records 0 to 63 .*TypeError: nobody thought"):
            job.run(data)
    assert job.run() == ShardResult(300, 300, 0)
