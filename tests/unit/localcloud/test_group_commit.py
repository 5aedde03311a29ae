"""Work that shares a commit: each its own success or failure, nothing told before the commit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.group_commit import GroupCommit, one_by_one
from model_delivery_localcloud.store.review_tables import UserGroup
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

THREADS = 24
WORKS = 300


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(UserGroup)) or 0


def test_what_fails_undoes_itself_and_nothing_else(database: Database) -> None:
    commits = GroupCommit(database, one_by_one)

    def attempt(number: int) -> str:
        def work(session: Session) -> str:
            session.add(UserGroup(user=f"user-{number}", group_name="g"))
            session.flush()
            if number % 3 == 1:
                raise KeyError(number)
            if number % 3 == 2:  # taken already
                session.add(UserGroup(user="user-0", group_name="g"))
                session.flush()
            return f"done {number}"

        try:
            return commits.run(work)
        except KeyError as error:
            return f"refused {error.args[0]}"
        except IntegrityError:
            return f"taken {number}"

    assert attempt(0) == "done 0"
    with ThreadPoolExecutor(THREADS) as together:
        said = list(together.map(attempt, range(1, WORKS)))
    words = ("done", "refused", "taken")
    assert said == [f"{words[number % 3]} {number}" for number in range(1, WORKS)]
    assert count(database) == WORKS / 3


def test_what_may_be_committed_already_is_not_done_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = database.write

    @contextmanager
    def lost_on_the_commit(*, hasty: bool) -> Iterator[Session]:
        with write() as session:
            yield session
        raise OperationalError("COMMIT", None, OSError("lost"), connection_invalidated=True)

    monkeypatch.setattr(database, "write", lost_on_the_commit)
    done: list[int] = []

    def work(session: Session) -> None:
        done.append(count(database))
        session.add(UserGroup(user=f"user-{len(done)}", group_name="g"))

    with pytest.raises(OperationalError, match="lost"):
        GroupCommit(database, one_by_one).run(work)
    assert (done, count(database)) == ([0], 1)


def test_a_locked_database_is_waited_for_once_and_not_for_each_piece_of_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    all_wait = Event()

    @contextmanager
    def locked(*, hasty: bool) -> Iterator[Session]:
        attempts.append(len(attempts))
        assert all_wait.wait(10)
        raise OperationalError("BEGIN IMMEDIATE", None, OSError("database is locked"))
        yield

    monkeypatch.setattr(database, "write", locked)
    commits = GroupCommit(database, one_by_one)
    told = [commits.submit(lambda _session: None) for _ in range(17)]
    all_wait.set()
    for future in told:
        with pytest.raises(OperationalError, match="locked"):
            future.result(10)
    # The first came alone, or with some of the others.
    assert len(attempts) <= 2
