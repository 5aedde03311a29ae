"""Many small transactions that share one commit, where commits are what takes the time.

SQLite has one writer at a time, and each commit waits for the disk. Whoever comes while a commit is
under way waits anyway; the first of them then does the work of all that wait and commits once.
Postgres has many writers, but between two statements of a transaction its rows stay locked for as
long as the interpreter serves other threads; one transaction at a time waits for nobody's lock.

Where a piece of work fails, or two processes' transactions lock one another out, each is done
again in a transaction of its own; not where the connection was lost on the commit, since then all
may be done already, and an undo that is done twice takes back two answers. Nobody is told of a
success before the commit, and nobody is woken but who is done, or leads next.
"""

import threading
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import DBAPIError
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
        self.leads = False
        self._woken = threading.Event()

    def run_alone(self, database: Database) -> None:
        """Do the work in a transaction of its own; what it raises undoes it and nothing else."""
        try:
            with database.write() as session:
                self._result = self._work(session)
        except Exception as error:  # it belongs to whoever asked for the work
            self.error = error

    def run_shared(self, session: Session) -> None:
        """Do the work in a transaction with others'; what it raises spoils that."""
        self._result = self._work(session)
        session.flush()
        session.expunge_all()  # the next finds what is in the database

    def wait(self) -> None:
        """Wait until the work is done, or this one is to lead."""
        self._woken.wait()

    def wake(self, *, leads: bool = False) -> None:
        """Say that the work is done, by whomever, or that this one leads."""
        self.leads = leads
        self._woken.set()

    def result(self) -> Result:
        """Return what the work returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value] # done, and without an error


class GroupCommit:
    """Runs work in transactions, one at a time in a process.

    Work may be done twice, the first time in vain, so all that it changes is the database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._led = False
        self._waiting: list[_Entry[Any]] = []

    def run(self, work: Callable[[Session], Result]) -> Result:
        """Do the work in a transaction and return its result once it is committed."""
        entry = _Entry(work)
        with self._lock:
            self._waiting.append(entry)
            entry.leads = not self._led
            self._led = True
        if not entry.leads:
            entry.wait()
        if entry.leads:
            self._lead(entry)
        return entry.result()

    def _lead(self, leader: _Entry[Any]) -> None:
        """Do the work of all that wait, the leader's first; then the next of them leads."""
        with self._lock:
            batch = self._waiting[:MOST_AT_ONCE]
            del self._waiting[:MOST_AT_ONCE]
        try:
            self._commit(batch)
        finally:
            with self._lock:
                self._led = bool(self._waiting)
                if self._led:
                    self._waiting[0].wake(leads=True)
            for entry in batch[1:]:
                entry.wake()

    def _commit(self, batch: list[_Entry[Any]]) -> None:
        commits = False
        try:
            try:
                with self._database.write() as session:
                    for entry in batch:
                        entry.run_shared(session)
                    commits = True
            except Exception as error:
                if commits and isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise
                for entry in batch:
                    entry.run_alone(self._database)
        except BaseException as error:  # nobody is told of a success that is not certain
            for entry in batch:
                entry.error = error
