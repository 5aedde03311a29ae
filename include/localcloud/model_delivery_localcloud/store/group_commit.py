"""Many small transactions that share one commit, where commits are what takes the time.

SQLite has one writer at a time, and each commit waits for the disk. Whoever comes while a commit is
under way waits anyway; the first of them then does the work of all that wait, each within a
savepoint of its own, and commits once. Nobody is told of a success before the commit.
"""

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.database import Database

Result = TypeVar("Result")
MOST_AT_ONCE = 64


class _Entry(Generic[Result]):
    """One piece of work, and what came of it."""

    def __init__(self, work: Callable[[Session], Result]) -> None:
        self._work = work
        self._result: Result | None = None
        self.error: BaseException | None = None
        self.done = False

    def run(self, connection: Connection) -> None:
        """Do the work in a savepoint; what it raises undoes it and nothing else."""
        options = {"join_transaction_mode": "create_savepoint", "expire_on_commit": False}
        try:
            with Session(connection, **options) as session:  # type: ignore[arg-type]
                self._result = self._work(session)
                session.commit()
        except Exception as error:  # it belongs to whoever asked for the work
            self.error = error

    def result(self) -> Result:
        """Return what the work returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value] # done, and without an error


class GroupCommit:
    """Runs work in transactions. On Postgres each has its own: it has many writers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._list = Lock()
        self._turn = Lock()
        self._waiting: list[_Entry[object]] = []

    def run(self, work: Callable[[Session], Result]) -> Result:
        """Do the work in a transaction and return its result once it is committed."""
        if not self._database.is_sqlite:
            with self._database.write() as session:
                return work(session)
        entry = _Entry(work)
        with self._list:
            self._waiting.append(entry)  # type: ignore[arg-type]
        while not entry.done:
            with self._turn:
                if entry.done:  # whose turn it was before did this too
                    break
                with self._list:
                    batch = self._waiting[:MOST_AT_ONCE]
                    del self._waiting[:MOST_AT_ONCE]
                self._commit(batch)
        return entry.result()

    def _commit(self, batch: "list[_Entry[object]]") -> None:
        try:
            with self._database.write() as session:
                connection = session.connection()
                for entry in batch:
                    entry.run(connection)
        except Exception as error:  # nothing was committed: nobody's work was done
            for entry in batch:
                entry.error = error
        finally:
            for entry in batch:
                entry.done = True
