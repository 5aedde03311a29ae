"""What becomes of a running job: stopped, out of time, its worker killed, its result whole."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_delivery_engine.compile.contest import alone, taking_turns
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import progress_of
from model_delivery_localcloud.store.tables import CompilationJob
from model_delivery_localcloud.workers.work import WAITING
from model_delivery_localcloud.workers.worker import Worker
from sqlalchemy import select

from stack.object_store import BUCKET

# Big enough to take a few seconds, so that there is a middle to interrupt.
SLOW = {"width": 512, "depth": 24}


@pytest.fixture(scope="module")
def slow(put: Callable[[bytes], str], archive: Callable[..., bytes]) -> str:
    return put(archive(**SLOW))


def outputs(cloud: Any, request: dict[str, Any]) -> list[str]:
    prefix = request["OutputConfig"]["S3OutputLocation"].removeprefix(f"s3://{BUCKET}/")
    listed = cloud.store.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in listed.get("Contents", [])]


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        own = [int(child) for child in listed.read().split()]
    # The slots are threads: a child belongs to the thread that started it.
    for task in Path(f"/proc/{pid}/task").iterdir():
        own += [int(child) for child in (task / "children").read_text().split()]
    return sorted(set(own))


def niceness(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[16])


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(true: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def disk(cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the workers' temporary files."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setitem(cloud.local.env, "TMPDIR", str(tmp_path / "disk"))
    return tmp_path / "disk"


def compiling(disk: Path) -> bool:
    return any(disk.rglob("compile-*"))


def test_a_running_job_is_killed_by_stop(
    cloud: Any, slow: str, job_request: Any, wait: Any, disk: Path
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(slow)
    name = request["CompilationJobName"]
    with cloud.worker() as worker:
        client.create_compilation_job(**request)
        wait(client, name, {"INPROGRESS"})
        [child] = eventually(lambda: children(worker.pid))
        eventually(lambda: niceness(child) == min(19, niceness(worker.pid) + 10))
        eventually(lambda: compiling(disk))
        client.stop_compilation_job(CompilationJobName=name)
        stopped = wait(client, name)
        assert stopped["CompilationJobStatus"] == "STOPPED"
        eventually(lambda: gone(child))
        eventually(lambda: not any(disk.iterdir()))
    assert outputs(cloud, request) == []


def test_a_job_past_its_runtime_is_ended(
    cloud: Any, slow: str, job_request: Any, wait: Any, disk: Path
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(slow, StoppingCondition={"MaxRuntimeInSeconds": 1})
    client.create_compilation_job(**request)
    with cloud.worker():
        done = wait(client, request["CompilationJobName"])
    assert done["CompilationJobStatus"] == "FAILED"
    assert done["FailureReason"].startswith("ClientError: ")
    assert "MaxRuntimeInSeconds" in done["FailureReason"]
    assert outputs(cloud, request) == []
    assert list(disk.iterdir()) == []


def test_waiting_for_another_jobs_figures_is_no_runtime_of_the_job(
    cloud: Any, put: Any, archive: Any, job_request: Any, wait: Any, disk: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(cloud.local.env, "MODEL_DELIVERY_ENVIRONMENTS", str(tmp_path))
    client = cloud.client("sagemaker")
    limit = 15
    request = job_request(put(archive(width=20)), StoppingCondition={"MaxRuntimeInSeconds": limit})
    name = request["CompilationJobName"]
    with contextlib.ExitStack() as turn, cloud.worker():
        turn.enter_context(taking_turns(tmp_path))
        turn.enter_context(alone())
        client.create_compilation_job(**request)
        eventually(lambda: any(disk.rglob(WAITING)))
        time.sleep(limit + 1)
        turn.close()
        done = wait(client, name)
    assert (done["CompilationJobStatus"], done["FailureReason"]) == ("COMPLETED", "")
    database = Database(Settings.from_environment(cloud.local.env).database_url)
    try:
        with database.read() as session:
            job = session.scalars(select(CompilationJob).where(CompilationJob.name == name)).one()
            assert "s for another job's figures" in (job.log or "")
    finally:
        database.close()


def test_what_a_workers_end_took_is_no_runtime_of_the_job(
    cloud: Any, slow: str, job_request: Any, wait: Any
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(slow, StoppingCondition={"MaxRuntimeInSeconds": 120})
    name = request["CompilationJobName"]
    with cloud.worker() as worker:
        client.create_compilation_job(**request)
        wait(client, name, {"INPROGRESS"})
        eventually(lambda: children(worker.pid))
    database = Database(Settings.from_environment(cloud.local.env).database_url)
    try:
        with database.write() as session:  # the service was away for an hour
            job = session.scalars(select(CompilationJob).where(CompilationJob.name == name)).one()
            assert job.started_at is not None
            job.started_at -= 3_600_000
            job_id = job.job_id
        with cloud.worker():
            done = wait(client, name)
        with database.read() as session:  # what its page showed while it ran
            assert progress_of(session, job_id)
    finally:
        database.close()
    assert (done["CompilationJobStatus"], done["FailureReason"]) == ("COMPLETED", "")


def test_a_worker_that_leaves_gives_its_job_back(
    cloud: Any, slow: str, job_request: Any, wait: Any
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(slow)
    name = request["CompilationJobName"]
    with cloud.worker() as worker:
        client.create_compilation_job(**request)
        wait(client, name, {"INPROGRESS"})
        eventually(lambda: children(worker.pid))
    assert worker.returncode == 0
    found = client.describe_compilation_job(CompilationJobName=name)
    assert found["CompilationJobStatus"] == "INPROGRESS"
    with cloud.worker():
        assert wait(client, name)["CompilationJobStatus"] == "COMPLETED"
    assert len(outputs(cloud, request)) == 1


def test_a_killed_workers_job_is_done_by_another(
    cloud: Any, put: Any, archive: Any, job_request: Any, wait: Any, disk: Path
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(put(archive(width=512, depth=20)))  # not one that the cache has
    name = request["CompilationJobName"]
    with cloud.worker() as worker:
        client.create_compilation_job(**request)
        wait(client, name, {"INPROGRESS"})
        [child] = eventually(lambda: children(worker.pid))
        eventually(lambda: compiling(disk))
        os.kill(worker.pid, signal.SIGKILL)
    # Nobody is left to stop it: the child ends by itself when its worker's pipe closes.
    eventually(lambda: gone(child))
    [left] = disk.iterdir()
    with cloud.worker():
        eventually(lambda: not left.exists())
        assert wait(client, name)["CompilationJobStatus"] == "COMPLETED"
    assert len(outputs(cloud, request)) == 1
    assert list(disk.iterdir()) == []


def test_a_workers_full_disk_is_no_fault_of_the_users(
    cloud: Any, put: Any, archive: Any, job_request: Any, wait: Any, disk: Path
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(put(archive(width=512, depth=6)))  # 5 MB, and as much once more unpacked
    client.create_compilation_job(**request)
    worker = cloud.worker()
    small = ["bwrap", "--dev-bind", "/", "/", "--size", str(8 * 2**20), "--tmpfs", str(disk)]
    worker.argv = [*small, "--", *worker.argv]
    with worker:
        done = wait(client, request["CompilationJobName"])
    assert done["CompilationJobStatus"] == "FAILED"
    assert done["FailureReason"].startswith("InternalServerError: DISK_FULL: ")


class StoppedWhileUploading(ObjectStore):
    """The object store, with somebody who stops the job once its bundle was sent."""

    def __init__(self, settings: Settings, stop: Callable[[], None]) -> None:
        super().__init__(settings)
        self._stop = stop

    def upload_if(self, path: Path, uri: str, wanted: Callable[[], bool]) -> bool:
        def stopped() -> bool:
            self._stop()
            return wanted()

        return super().upload_if(path, uri, stopped)


def test_a_job_stopped_while_it_uploads_leaves_an_earlier_ones_bundle(
    cloud: Any, put: Any, archive: Any, job_request: Any, wait: Any, disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    client, store = cloud.client("sagemaker"), cloud.store.client()
    earlier = job_request(put(archive()))
    client.create_compilation_job(**earlier)
    with cloud.worker():
        done = wait(client, earlier["CompilationJobName"])
    key = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")
    bundle = store.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    later = job_request(put(archive(width=32)), OutputConfig=earlier["OutputConfig"])
    name = later["CompilationJobName"]
    client.create_compilation_job(**later)
    for variable, value in cloud.local.env.items():
        monkeypatch.setenv(variable, value)  # the worker runs here, its child with these
    settings = Settings.from_environment(cloud.local.env)
    database = Database(settings.database_url)
    objects = StoppedWhileUploading(
        settings, lambda: client.stop_compilation_job(CompilationJobName=name)
    )
    worker = Worker(database, objects, lease_seconds=4)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        assert wait(client, name)["CompilationJobStatus"] == "STOPPED"
    finally:
        worker.leave()
        running.join()
        database.close()
    assert store.get_object(Bucket=BUCKET, Key=key)["Body"].read() == bundle
    assert store.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
