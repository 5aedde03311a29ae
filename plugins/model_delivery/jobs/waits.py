"""Who waits for which job, and when the job is next described by itself."""

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from model_delivery.exceptions import JobError
from model_delivery.jobs.service import Handle

# Entries of jobs that ended stay in the queue until it holds so many times what it needs.
LEFT_OVER = 16


@dataclass(frozen=True)
class Bounds:
    """What a user sets for a wait, in seconds.

    :param shortest: shortest time between two looks at the service.
    :param longest: longest time between two looks, when nothing has happened for long.
    :param outage: how long the service may give no usable answer before the wait fails.
    """

    shortest: float
    longest: float
    outage: float


@dataclass(eq=False)
class Waiter:
    """One trigger that waits for a job."""

    job: "WaitedJob"
    bounds: Bounds
    future: "asyncio.Future[str]"
    joined: float

    def fail(self, message: str) -> None:
        """End the wait with a JobError."""
        if not self.future.done():
            self.future.set_exception(JobError(message))


@dataclass(eq=False)
class WaitedJob:
    """A job with at least one waiter.

    :param due: when it is next described by itself, on the loop's clock.
    :param known: it was described or listed since it came.
    :param doubted: the list is not believed when it tells of the job's end.
    :param missed: its last description said that there is no such job.
    :param failing_since: since when its description gets no usable answer.
    """

    key: str
    handle: Handle
    waiters: list[Waiter] = field(default_factory=list)
    due: float = 0.0
    known: bool = False
    doubted: bool = False
    missed: bool = False
    failures: int = 0
    failing_since: float | None = None
    ended: bool = False

    def finish(self, status: str) -> None:
        """Wake whoever waits."""
        self.ended = True
        for waiter in self.waiters:
            if not waiter.future.done():
                waiter.future.set_result(status)

    def fail(self, message: str) -> None:
        """End every wait for this job with an error."""
        self.ended = True
        for waiter in self.waiters:
            waiter.fail(message)


class Waits:
    """The waited-for jobs of one poll; no operation but `all` touches every job."""

    def __init__(self) -> None:
        self._jobs: dict[str, WaitedJob] = {}
        self._bounds: Counter[Bounds] = Counter()
        self._due: list[tuple[float, int, WaitedJob]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._jobs)

    def all(self) -> list[WaitedJob]:
        """Return all jobs."""
        return list(self._jobs.values())

    def get(self, key: str) -> WaitedJob | None:
        """Return a job that has not ended, or None."""
        job = self._jobs.get(key)
        return None if job is None or job.ended else job

    def join(self, key: str, handle: Handle, bounds: Bounds) -> tuple[Waiter, bool]:
        """Return a new waiter, and whether its job is new."""
        job = self.get(key)
        is_new = job is None
        if job is None:
            job = self._jobs[key] = WaitedJob(key, handle)
        loop = asyncio.get_running_loop()
        waiter = Waiter(job, bounds, loop.create_future(), loop.time())
        job.waiters.append(waiter)
        self._bounds[bounds] += 1
        return waiter, is_new

    def leave(self, waiter: Waiter) -> None:
        """Forget a waiter, and its job with the last one."""
        job = waiter.job
        job.waiters.remove(waiter)
        self._bounds[waiter.bounds] -= 1
        if not self._bounds[waiter.bounds]:
            del self._bounds[waiter.bounds]
        if not job.waiters:
            job.ended = True
            if self._jobs.get(job.key) is job:
                del self._jobs[job.key]
            if len(self._due) > LEFT_OVER * (len(self._jobs) + 1):
                self._due = [entry for entry in self._due if not self._is_stale(entry)]
                heapq.heapify(self._due)

    def bounds(self) -> Bounds:
        """Return the most impatient of all bounds; few differ, however many wait."""
        shortest = min((each.shortest for each in self._bounds), default=1.0)
        longest = min((each.longest for each in self._bounds), default=shortest)
        outage = min((each.outage for each in self._bounds), default=0.0)
        return Bounds(shortest, max(shortest, longest), outage)

    def schedule(self, job: WaitedJob, when: float) -> None:
        """Describe a job by itself at `when`, and no longer when it was due before."""
        job.due = when
        heapq.heappush(self._due, (when, next(self._order), job))

    def next_due(self) -> float | None:
        """Return when the next job is due, or None."""
        while self._due and self._is_stale(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take_due(self, now: float, most: int) -> Iterator[WaitedJob]:
        """Yield up to `most` jobs that are due, the longest due first."""
        for _ in range(most):
            due = self.next_due()
            if due is None or due > now:
                return
            yield heapq.heappop(self._due)[2]

    @staticmethod
    def _is_stale(entry: tuple[float, int, WaitedJob]) -> bool:
        when, _, job = entry
        return job.ended or job.due != when
