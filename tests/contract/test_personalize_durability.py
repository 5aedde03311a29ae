"""What becomes of a Personalize job whose worker, or whose own process, is killed.

In a file of its own: a worker that another test left running would take the job.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest
from model_delivery_engine.batch.recipes import Recipe

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


def done(client: Any, arn: str) -> bool:
    job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
    return job["status"] in TERMINAL


def objects_names(cloud: Any, prefix: str) -> list[str]:
    pages = cloud.store.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"].removeprefix(prefix) for each in pages.get("Contents", [])]


def count(cloud: Any, prefix: str) -> int:
    return len(objects_names(cloud, prefix))
