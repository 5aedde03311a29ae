"""A task that is killed leaves no process at work, and nothing on the disk for long."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.scratch import scratch_folder

from tests.unit.engine.batch_job import URI, Job

SLOW = """
import time
from model_delivery_engine.batch import runner
answer = runner.answer
def slowly(batch, model):
    time.sleep(2 if batch.count > 8 else 0.01)  # what is timed first is of 8
    return answer(batch, model)
runner.answer = slowly
"""
TASK = """
import sys
from pathlib import Path
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.scratch import scratch_folder
from tests.unit.engine.batch_job import Job
with scratch_folder() as folder:
    job = Job(Path(sys.argv[1]), open_bundle(Path(sys.argv[2]), folder / "opened"))
    job.processes = 2
    job.run()
"""
OWNER = """
import time
from model_delivery_engine.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    threads = Path(f"/proc/{pid}/task").glob("*/children") if found.parent.exists() else []
    return [int(child) for each in threads for child in each.read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(what: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


def test_processes_end_with_their_task_and_clear_what_it_had(
    tmp_path: Path, linear_bundle: Bundle
) -> None:
    site, scratch = tmp_path / "site", tmp_path / "scratch"
    site.mkdir()
    scratch.mkdir()
    (site / "sitecustomize.py").write_text(SLOW)
    archive = next(tmp_path.rglob("bundle.tar.gz"))
    job = Job(tmp_path / "job", linear_bundle)
    job.storage.put(URI, b'{"features": [1.0, 2.0, 3.0, 4.0]}\n' * 50_000)
    command = [sys.executable, "-c", TASK, str(job.storage.root), str(archive)]
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}.", "TMPDIR": str(scratch)}
    with subprocess.Popen(command, env=environment) as task:
        assert wait_until(lambda: len(children(task.pid)) == 2, 60)
        workers = children(task.pid)
        assert wait_until(job.journals, 60)
        time.sleep(1)  # in the middle of a part of hundreds of batches
        assert list(scratch.glob("model-delivery-*"))
        task.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not any(map(runs, workers)), 2)
    assert not list(scratch.glob("model-delivery-*"))


def test_what_a_killed_owner_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        left = Path(owner.stdout.readline().strip())
        with scratch_folder() as folder:
            assert left.exists()  # its owner lives
            assert folder.parent == tmp_path
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert left.exists()
    with scratch_folder():
        assert not left.exists()
    assert not list(tmp_path.iterdir())
