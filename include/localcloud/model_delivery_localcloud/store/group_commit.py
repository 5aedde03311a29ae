"""Many small pieces of work in one transaction, where it is commits that take the time.

A commit waits for the disk, and each statement for an answer. Whoever comes while a transaction is
under way waits anyway; all of them are the next one. One transaction at a time: SQLite has one
writer, and on Postgres two of one process would only wait for each other's locks. After each there
is a rest as long as it took, of 10 ms at most, in which others come: many small ones would take the
processor from the very calls that bring the next.

Where a piece of work fails, or two processes' transactions lock one another out, the work is done
again in ever smaller parts; not where the connection was lost on the commit, since then all
may be done already, and an undo that is done twice takes back two answers; nor where no transaction
could begin, as where another process keeps SQLite locked: each part would wait as long again. A row
that is locked elsewhere for long is waited for once: of the parts, only those that need it fail.
Nobody is told of a success before the commit.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic, sleep
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.database import Database, is_busy

Work = TypeVar("Work")
Result = TypeVar("Result")
MOST_AT_ONCE = 64
LONGEST_REST_SECONDS = 0.01


@dataclass
class _Entry(Generic[Work]):
    work: Work
    future: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True)
class _Failure:
    """Why a batch was not committed; `final` where smaller parts of it are not tried."""

    error: BaseException
    final: bool


def one_by_one(session: Session, works: Sequence[Callable[[Session], Result]]) -> Sequence[Result]:
    """Call functions one after the other; what one raises spoils the transaction of all."""
    results = []
    for work in works:
        results.append(work(session))
        session.flush()
        session.expunge_all()  # the next finds what is in the database
    return results


class GroupCommit(Generic[Work]):
    """Does pieces of work in transactions, one at a time, in a thread of its own.

    Work may be done twice, the first time in vain, so all that it changes is the database.

    :param do: does some pieces of work in one transaction and returns the result of each.
    """

    def __init__(
        self, database: Database, do: Callable[[Session, Sequence[Work]], Sequence[Any]]
    ) -> None:
        self._database = database
        self._do = do
        self._lock = Lock()
        self._waiting: list[_Entry[Work]] = []
        self._running = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="group-commit")

    def submit(self, work: Work) -> Future[Any]:
        """Have work done; its result or error comes once that is committed or undone."""
        entry = _Entry(work)
        entry.future.set_running_or_notify_cancel()  # whoever stops waiting cancels nothing
        with self._lock:
            self._waiting.append(entry)
            starts = not self._running
            self._running = True
        if starts:
            self._thread.submit(self._run)
        return entry.future

    def run(self, work: Work) -> Any:
        """Have work done, wait for it and return its result."""
        return self.submit(work).result()

    def _run(self) -> None:
        """Do the work of all that wait, until nobody does."""
        while True:
            with self._lock:
                batch = self._waiting[:MOST_AT_ONCE]
                del self._waiting[:MOST_AT_ONCE]
                self._running = bool(batch)
            if not batch:
                return
            began = monotonic()
            self._settle(batch)
            sleep(min(monotonic() - began, LONGEST_REST_SECONDS))

    def _settle(
        self, batch: Sequence[_Entry[Work]], *, again: bool = False, hasty: bool = False
    ) -> None:
        """Do work and tell what came of it; what fails is done again, in halves, at last alone."""
        failure = self._attempt(batch, hasty)
        if failure is None:
            return
        hasty = hasty or is_busy(failure.error)
        if failure.final or again:
            for entry in batch:  # nobody is told of a success that is not certain
                entry.future.set_exception(failure.error)
        elif len(batch) == 1:
            self._settle(batch, again=True, hasty=hasty)
        else:
            middle = len(batch) // 2
            self._settle(batch[:middle], hasty=hasty)
            self._settle(batch[middle:], hasty=hasty)

    def _attempt(self, batch: Sequence[_Entry[Work]], hasty: bool) -> _Failure | None:
        """Do work in a transaction and tell its results, or return why none can be told."""
        begun = commits = False
        try:
            with self._database.write(hasty=hasty) as session:
                begun = True
                results = self._do(session, [entry.work for entry in batch])
                commits = True
        except BaseException as error:  # the thread goes on, and so does whoever waits
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            return _Failure(error, final=not begun or (commits and lost))
        for entry, result in zip(batch, results, strict=True):
            entry.future.set_result(result)
        return None
