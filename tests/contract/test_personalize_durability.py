"""What becomes of a Personalize job whose worker, or whose own process, is killed.

In a file of its own: a worker that another test left running would take the job.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.workers.batch_inference import BatchInferenceWork
from model_delivery_localcloud.workers.worker import Worker

from stack.object_store import BUCKET
from tests.contract.test_personalize import TERMINAL, job_request, register, results, wait


@pytest.fixture(scope="module")
def version(cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("recommenders")
    return register(cloud, folder, Recipe.USER_PERSONALIZATION)


@pytest.fixture
def client(cloud: Any) -> Any:
    return cloud.client("personalize")


def test_a_killed_worker_loses_and_repeats_nothing(cloud: Any, client: Any, version: str) -> None:
    lines = b"".join(b'{"userId":"u%d"}\n' % (n % 1003) for n in range(300_000))
    request = job_request(cloud, version, lines, numResults=3)
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    prefix = f"out/{request['jobName']}/"
    deadline, kills = time.monotonic() + 180, 0
    while kills < 3:
        with cloud.worker() as running:
            seen = count(cloud, prefix)
            while count(cloud, prefix) <= seen + 2 and time.monotonic() < deadline:
                time.sleep(0.02)
                if done(client, arn):
                    break
            os.killpg(running.pid, signal.SIGKILL)
            kills += 1
        if done(client, arn):
            break
        assert f"{request['jobName']}.json.out" not in objects_names(cloud, prefix)
    with cloud.worker():
        job = wait(client, arn, 120)
    assert (job["status"], job["numResults"]) == ("ACTIVE", 300_000)
    found = results(cloud, request)
    users = [f"u{n % 1003}" for n in range(300_000)]
    assert [line["input"]["userId"] for line in found] == users
    failed = [line["input"]["userId"] for line in found if line["error"] is not None]
    assert failed == [user for user in users if int(user[1:]) >= 1000]
    assert kills >= 2


def test_a_killed_process_costs_the_job_an_attempt(cloud: Any, client: Any, version: str) -> None:
    """The job's own process holds the memory: where that is short, the kernel kills it."""
    lines = b"".join(b'{"userId":"u%d"}\n' % (n % 1000) for n in range(500_000))
    request = job_request(cloud, version, lines, numResults=25)
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    prefix, deadline, killed = f"out/{request['jobName']}/", time.monotonic() + 240, 0
    with cloud.worker() as running:
        while not killed and time.monotonic() < deadline:
            time.sleep(0.02)
            for process in psutil.Process(running.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    named = any("workers.child" in word for word in process.cmdline())
                    if named and count(cloud, prefix) > 1:
                        process.kill()
                        killed += 1
        job = wait(client, arn, 240)
    assert (job["status"], job["numResults"]) == ("ACTIVE", 500_000)
    users = [line["input"]["userId"] for line in results(cloud, request)]
    assert users == [f"u{n % 1000}" for n in range(500_000)]
    assert killed


def test_batch_processes_killed_twice_cost_the_job_an_attempt(
    cloud: Any, client: Any, version: str
) -> None:
    lines = b"".join(b'{"userId":"u%d"}\n' % (n % 1000) for n in range(500_000))
    arn = client.create_batch_inference_job(**job_request(cloud, version, lines))[
        "batchInferenceJobArn"
    ]
    with cloud.worker() as running, killing_batch_processes(running.pid, once=True) as killed:
        job = wait(client, arn, 240)
    assert (job["status"], job["numResults"]) == ("ACTIVE", 500_000)
    assert len(killed) >= 2


def test_a_job_whose_processes_are_always_killed_ends(
    cloud: Any, client: Any, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchInferenceWork, "most_attempts", 2)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    lines = b"".join(b'{"userId":"u%d"}\n' % (n % 1000) for n in range(500_000))
    arn = client.create_batch_inference_job(**job_request(cloud, version, lines))[
        "batchInferenceJobArn"
    ]
    for variable, value in cloud.local.env.items():
        monkeypatch.setenv(variable, value)  # the worker runs here, its child with these
    settings = Settings.from_environment(cloud.local.env)
    database = Database(settings.database_url)
    worker = Worker(database, ObjectStore(settings), lease_seconds=4)
    running = threading.Thread(target=worker.run)
    with killing_batch_processes(os.getpid()) as killed:
        running.start()
        try:
            job = wait(client, arn, 240)
        finally:
            worker.leave()
            running.join()
            database.close()
    assert job["status"] == "CREATE FAILED"
    assert job["failureReason"].startswith("InternalServerError: MEMORY_SHORT: s3://")
    assert job["failureReason"].endswith("(the last of 2 attempts)")
    assert len(killed) >= 4


@contextmanager
def killing_batch_processes(worker: int, *, once: bool = False) -> Iterator[list[int]]:
    """Kill whatever runs parts for a worker's child, `once`: for its first child alone."""
    over, killed, children = threading.Event(), [], []

    def kill() -> None:
        while not over.wait(0.01):
            for child in named("workers.child", psutil.Process(worker).children()):
                children.append(child.pid)
                if once and child.pid != children[0]:
                    return
                for process in named("model_delivery_engine.batch.worker", of(child)):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                        killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def of(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(process.children())
    return []


def named(word: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if any(word in each for each in process.cmdline()):
                found.append(process)
    return found


def done(client: Any, arn: str) -> bool:
    job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
    return job["status"] in TERMINAL


def objects_names(cloud: Any, prefix: str) -> list[str]:
    pages = cloud.store.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"].removeprefix(prefix) for each in pages.get("Contents", [])]


def count(cloud: Any, prefix: str) -> int:
    return len(objects_names(cloud, prefix))
