"""Leases and fencing on a real database, with workers that lose their lease."""

import threading
import time
from pathlib import Path

import pytest
from model_delivery_localcloud.errors import LeaseLost, StoreError
from model_delivery_localcloud.store import jobs
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import Lease
from model_delivery_localcloud.workers.worker import _HeldLease
from sqlalchemy.exc import OperationalError


def enqueue(database: Database, name: str) -> str:
    with database.write() as session:
        return jobs.enqueue(session, "compilation", "1" * 12, "eu-west-1", name)


def take(database: Database, worker: str, seconds: float) -> Lease | None:
    with database.write() as session:
        return jobs.take_lease(session, worker, seconds)


def test_a_job_is_leased_once_until_the_lease_expires(database: Database) -> None:
    enqueue(database, "a")
    first = take(database, "one", -1)  # already expired
    assert first is not None
    second = take(database, "two", 60)
    assert second is not None
    assert (second.fence, second.attempt) == (first.fence + 1, 2)
    assert take(database, "three", 60) is None


def test_who_lost_the_lease_can_neither_renew_nor_commit(database: Database) -> None:
    enqueue(database, "a")
    stale = take(database, "one", -1)
    current = take(database, "two", 60)
    assert stale is not None
    assert current is not None
    for act in (
        lambda session: jobs.renew_lease(session, stale, 60),
        lambda session: jobs.finish(session, stale),
        lambda session: jobs.give_back(session, stale),
    ):
        with pytest.raises(LeaseLost), database.write() as session:
            act(session)
    with database.write() as session:
        assert jobs.finish(session, current) is False
    with pytest.raises(LeaseLost), database.write() as session:
        jobs.finish(session, current)


def test_an_expired_lease_that_nobody_took_still_commits(database: Database) -> None:
    enqueue(database, "a")
    lease = take(database, "one", -1)
    assert lease is not None
    with database.write() as session:
        assert jobs.renew_lease(session, lease, 60) is False
    assert take(database, "two", 60) is None


def test_a_stop_reaches_the_holder_and_ends_a_waiting_job(database: Database) -> None:
    running, waiting = enqueue(database, "running"), enqueue(database, "waiting")
    lease = take(database, "one", 60)
    assert lease is not None
    assert lease.job_id == running
    with database.write() as session:
        assert jobs.request_stop(session, running) is jobs.Stop.ASKED
        assert jobs.request_stop(session, waiting) is jobs.Stop.STOPPED
        assert jobs.request_stop(session, waiting) is jobs.Stop.LATE
    with database.write() as session:
        assert jobs.renew_lease(session, lease, 60) is True
        assert jobs.finish(session, lease) is True
    assert take(database, "two", 60) is None


def test_a_job_given_back_does_not_count_as_an_attempt(database: Database) -> None:
    enqueue(database, "a")
    lease = take(database, "one", 60)
    assert lease is not None
    with database.write() as session:
        jobs.give_back(session, lease)
    again = take(database, "two", 60)
    assert again is not None
    assert again.attempt == 1


def test_many_workers_never_share_a_job(database: Database) -> None:
    for index in range(40):
        enqueue(database, f"job-{index}")
    taken: list[str] = []
    failures: list[Exception] = []

    def work(name: str) -> None:
        try:
            while (lease := take(database, name, 60)) is not None:
                taken.append(lease.job_id)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(taken) == len(set(taken)) == 40


def test_an_unmigrated_database_says_what_to_run(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(StoreError, match="model-delivery-localcloud migrate"):
        database.check()
    database.close()


def test_a_database_that_is_away_stops_a_job_when_its_lease_has_run_out(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(database, "a")
    lease = take(database, "one", 30)
    assert lease is not None
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    held = _HeldLease(database, lease, 30, tmp_path)
    assert held.must_stop() is False

    def away() -> None:
        raise OperationalError("UPDATE", {}, Exception("connection refused"))

    with monkeypatch.context() as patched:
        patched.setattr(database, "write", away)
        for _ in range(29):
            clock[0] += 1
            assert held.must_stop() is False
        clock[0] += 1
        with pytest.raises(OperationalError):
            held.must_stop()
    clock[0] += 1
    assert held.must_stop() is False


def test_what_no_database_stores_is_told_another_way(database: Database) -> None:
    enqueue(database, "a")
    lease = take(database, "one", 60)
    assert lease is not None
    with database.write() as session:
        jobs.renew_lease(session, lease, 60, "input 'x\0y' of \ud800 is read")
    with database.read() as session:
        assert jobs.progress_of(session, lease.job_id) == "input 'x\ufffdy' of \ufffd is read"
