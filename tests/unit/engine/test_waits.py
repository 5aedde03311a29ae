"""Waiting for other jobs: one is timed at a time, in turns, and who waits says so."""

import fcntl
import logging
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from model_delivery_engine.compile import contest
from model_delivery_engine.compile.contest import alone, taking_turns
from model_delivery_engine.frameworks import environment
from model_delivery_engine.waits import locked, telling_waits, waiting


class Job:
    """A job in a thread, which takes turns in a folder and says when it waits."""

    def __init__(self, folder: Path, name: str, turns: int, done: list[str]) -> None:
        self.waits = threading.Event()
        self.may_go_on = threading.Event()
        self._folder, self._name, self._turns, self._done = folder, name, turns, done
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with telling_waits(self._told), taking_turns(self._folder):
            for _ in range(self._turns):
                with alone():
                    self._done.append(self._name)
                    self.may_go_on.wait(10)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        self.waits.set()
        yield


def test_jobs_of_one_folder_are_timed_one_at_a_time(tmp_path: Path) -> None:
    done: list[str] = []
    job = Job(tmp_path, "timed", 1, done)
    with taking_turns(tmp_path), alone():
        job.thread.start()
        assert job.waits.wait(10)
        assert done == []
    job.may_go_on.set()
    job.thread.join(10)
    assert done == ["timed"]


def test_jobs_of_other_folders_do_not_wait(tmp_path: Path) -> None:
    done: list[str] = []
    job = Job(tmp_path / "other", "timed", 1, done)
    job.may_go_on.set()
    with taking_turns(tmp_path), alone():
        job.thread.start()
        job.thread.join(10)
    assert done == ["timed"]


def test_who_had_a_turn_is_not_ahead_of_who_waits(tmp_path: Path) -> None:
    done: list[str] = []
    first, second = (Job(tmp_path, name, 3, done) for name in ("first", "second"))
    first.thread.start()
    while not done:
        first.thread.join(0.01)
    second.may_go_on.set()
    second.thread.start()
    assert second.waits.wait(10)
    first.may_go_on.set()  # it wants its next turn at once
    for job in (first, second):
        job.thread.join(10)
    assert done[:2] == ["first", "second"]
    assert sorted(done) == ["first"] * 3 + ["second"] * 3


def test_what_a_sandbox_is_given_cannot_be_held_against_others(tmp_path: Path) -> None:
    """The engine's own files lie in every sandbox, and whoever may read one may lock it."""
    done: list[str] = []
    job = Job(tmp_path, "timed", 1, done)
    job.may_go_on.set()
    with Path(contest.__file__).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        job.thread.start()
        job.thread.join(10)
    assert done == ["timed"]
    locks = list(tmp_path.iterdir())
    assert locks
    assert {stat.S_IMODE(path.stat().st_mode) for path in locks} == {0o600}


def test_a_lock_that_everybody_may_open_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(mode=0o644)
    with locked(path, "nobody"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_without_locks_costs_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with taking_turns(tmp_path / "file" / "locks"), alone():
        pass
    assert "timed while others may be" in caplog.text


def test_a_wait_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told: list[str] = []

    @contextmanager
    def listen(what: str) -> Iterator[None]:
        told.append(what)
        yield
        told.append("over")

    with telling_waits(listen), waiting("rain"):
        assert told == ["rain"]
    assert told == ["rain", "over"]
    assert "waiting for rain" in caplog.text
    assert "waited 0.0 s for rain" in caplog.text


def test_installing_an_environment_is_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []

    @contextmanager
    def listen(what: str) -> Iterator[None]:
        waits.append(what)
        yield
        waits.append("over")

    def install(name: str, constraints: str, place: Path) -> None:
        assert len(waits) == 1
        place.mkdir(parents=True)
        (place / ".complete").touch()

    monkeypatch.setattr(environment, "_install", install)
    with telling_waits(listen):
        for _ in range(2):
            environment.environment_python("xgboost", tmp_path)
    assert waits == ["the xgboost environment, which is installed once", "over"]
