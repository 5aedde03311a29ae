"""How long a task may run: its own time counts, and not what it waits for others."""

import sys
from pathlib import Path

import pytest
from model_delivery_localcloud.workers import execution
from model_delivery_localcloud.workers.child import OUTCOME
from model_delivery_localcloud.workers.execution import execute
from model_delivery_localcloud.workers.folders import TEMPORARY
from model_delivery_localcloud.workers.work import (
    CLIENT_ERROR,
    INTERNAL_ERROR,
    WAITING,
    Outcome,
    Task,
    tell_waiting,
)

# It waits and works for as long as its parameters say.
CHILD = f"""
import json, pathlib, sys, time
task = json.loads(sys.stdin.readline())
waiting = pathlib.Path({WAITING!r})
for seconds in task["params"]["waits"]:
    waiting.write_text("the others")
    time.sleep(seconds)
    waiting.unlink()
time.sleep(task["params"]["works"])
pathlib.Path({OUTCOME!r}).write_text('{{"result": {{"done": true}}}}')
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / TEMPORARY).mkdir()
    monkeypatch.setattr(execution, "_COMMAND", [sys.executable, "-c", CHILD])
    return tmp_path


def run(folder: Path, seconds: float, *, waits: tuple[float, ...], works: float) -> Outcome:
    params = {"waits": waits, "works": works}
    outcome = execute(Task("CompilationJob", params, seconds), folder, lambda: False)
    assert outcome is not None
    return outcome


def test_waiting_is_no_runtime(folder: Path) -> None:
    outcome = run(folder, 2.0, waits=(1.5, 1.5), works=0.0)
    assert (outcome.fault, outcome.result) == (None, {"done": True})


def test_work_after_waiting_is_runtime(folder: Path) -> None:
    outcome = run(folder, 1.0, waits=(1.5,), works=60.0)
    assert outcome.fault == CLIENT_ERROR
    assert outcome.reason.startswith("RUNTIME_EXCEEDED: ")
    assert "s of waiting not counted" in outcome.reason


def test_work_alone_is_runtime(folder: Path) -> None:
    outcome = run(folder, 0.5, waits=(), works=60.0)
    assert outcome.reason.startswith("RUNTIME_EXCEEDED: ")
    assert "waiting" not in outcome.reason


def test_who_waits_for_ever_is_ended_as_the_servers_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "MOST_WAITING", 0.5)
    outcome = run(folder, 60.0, waits=(60.0,), works=0.0)
    assert outcome.fault == INTERNAL_ERROR
    assert outcome.reason.startswith("WAIT_EXCEEDED: ")
    assert "the others" in outcome.reason


def test_a_wait_ends_however_its_block_does(tmp_path: Path) -> None:
    def fail() -> None:
        with tell_waiting(tmp_path, "others"):
            assert (tmp_path / WAITING).read_text() == "others"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / WAITING).exists()
