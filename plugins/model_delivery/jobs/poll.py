"""One poll: follows all jobs of a service, connection, region and scope over one client.

A newcomer is told of once: from the list where many come at a time, else by its description. Then
the list tells what changed. As a list may lie, each job is also described by itself now and then.
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from model_delivery.exceptions import UnknownStatusError
from model_delivery.jobs.faults import (
    cause,
    error_code,
    is_credential_fault,
    is_lasting,
    is_passing,
    is_throttling,
)
from model_delivery.jobs.listing import ListReader
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.rate import backoff, interval
from model_delivery.jobs.retries import REOPEN_AFTER
from model_delivery.jobs.service import Call, Handle, JobService, ListedJob
from model_delivery.jobs.waits import Bounds, WaitedJob, Waiter, Waits

log = logging.getLogger(__name__)

# Triggers start one by one: newcomers of one moment are told of together.
GATHER_SECONDS = 0.2
# A triggerer takes up thousands of waits one by one: the first look waits so long for the last.
LONGEST_GATHER_SECONDS = 5.0
# From so many newcomers on, reading the newest pages of the list is tried first, at a cost of at
# most one page for each 20 of them.
LIST_NEWCOMERS_FROM = 10
NEWCOMERS_PER_PAGE = 20
DESCRIBED_AT_A_TIME = 8
WOKEN_AT_A_TIME = 10
# A description that takes longer is waited for beside everything else.
STALLED_SECONDS = 1.0
# A list that fails so often in a row, while jobs can be described, is left alone for a while.
LIST_FAULTS = 3
LIST_THROTTLINGS = 10
LIST_REST_SECONDS = 60.0
LONGEST_UNDESCRIBED_SECONDS = 3600.0


class Poll:
    """Follows the jobs of one key until the last waiter leaves.

    :param lease: opens the client that the connection's polls share.
    """

    def __init__(
        self,
        service: JobService,
        scope: str,
        lease: Callable[[], AbstractAsyncContextManager[PacedClient]],
    ) -> None:
        self._service = service
        self._lease = lease
        self._reader = ListReader(service.job_list, scope) if service.job_list else None
        self._waits = Waits()
        self._newcomers: list[WaitedJob] = []
        self._describing: dict[asyncio.Task[Exception | None], WaitedJob] = {}
        self._arrival = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._changed_at = self._loop.time()
        self._next_look = 0.0
        self._list_from = 0.0
        self._list_faults = 0
        self._failures = 0
        self._failing_since: float | None = None
        self._client: PacedClient
        # A context of its own: else all it logs would go to the first trigger's task log.
        self._task = self._loop.create_task(self._run(), context=contextvars.Context())
        self._task.add_done_callback(self._ended)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits."""
        return not len(self._waits)

    @property
    def is_over(self) -> bool:
        """Whether it ended, and follows nothing any more."""
        return self._task.done()

    def join(self, handle: Handle, bounds: Bounds, *, doubted: bool = False) -> Waiter:
        """Follow a job for a new waiter.

        :param doubted: the list told of this job's end, and its description did not.
        """
        waiter, is_new = self._waits.join(self._service.key(handle), handle, bounds)
        waiter.job.doubted |= doubted
        if is_new:
            self._newcomers.append(waiter.job)
            self._arrival.set()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Forget a waiter that ended or was cancelled."""
        self._waits.leave(waiter)
        self._changed_at = self._loop.time()
        if len(self._waits) == 1 and self._reader and not self._lists():
            self._describe_all_soon()

    def close(self) -> None:
        """End the poll; its client closes with its last user."""
        self._task.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Whatever ended the poll, nobody waits for it any longer."""
        error = None if task.cancelled() else task.exception()
        why = cause(error) if isinstance(error, Exception) else "it was cancelled"
        self._fail_all(f"the poll ended ({why})")

    async def _run(self) -> None:
        while True:
            try:
                async with self._lease() as self._client:
                    await self._follow()
            except Exception as error:
                if is_lasting(error):
                    self._fail_all(f"the poll cannot go on ({cause(error)})")
                await self._wait_out(error)

    async def _follow(self) -> None:
        """Look again and again; raises what a new client may mend."""
        try:
            while True:
                try:
                    await self._round()
                except Exception as error:
                    if is_credential_fault(error) or self._failures >= REOPEN_AFTER:
                        raise
                    await self._wait_out(error)
        finally:
            for task, job in self._describing.items():
                task.cancel()
                self._waits.schedule(job, self._loop.time())
            self._describing = {}

    async def _round(self) -> None:
        await self._welcome()
        await self._describe_due()
        if self._lists() and self._loop.time() >= self._next_look:
            self._next_look = self._loop.time() + self._interval()
            await self._read_list(self._read_changes)
        await self._rest()

    def _lists(self) -> bool:
        """Whether the list is worth reading: one job is described with no more requests."""
        if self._reader is None or self._loop.time() < self._list_from:
            return False
        if len(self._waits) != 1:
            return True
        (job,) = self._waits.all()
        return len(self._service.describe_calls(job.handle)) > 1

    def _interval(self) -> float:
        bounds = self._waits.bounds()
        return interval(bounds.shortest, bounds.longest, self._loop.time() - self._changed_at)

    async def _rest(self) -> None:
        now = self._loop.time()
        due = self._waits.next_due()
        until = min(
            now + self._waits.bounds().longest if due is None else due,
            self._next_look if self._lists() else float("inf"),
            now + STALLED_SECONDS if self._describing else float("inf"),
        )
        if self._newcomers:
            await asyncio.sleep(GATHER_SECONDS)
            return
        self._arrival.clear()
        try:
            async with asyncio.timeout(max(0.0, until - now)):
                await self._arrival.wait()
            await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            return

    async def _ask(self, call: Call) -> Mapping[str, Any]:
        try:
            return await self._client.ask(call)
        except Exception as error:
            self._heard(error)
            raise

    def _heard(self, error: Exception) -> None:
        """Note an answer: with a refusal too, the service is not away."""
        if not is_passing(error) and not is_credential_fault(error):
            self._answered()

    def _answered(self) -> None:
        self._failures = 0
        self._failing_since = None

    # Newcomers

    async def _gather(self) -> None:
        """Let newcomers come for as long as more do; nobody else is waiting yet."""
        until, there = self._loop.time() + LONGEST_GATHER_SECONDS, 0
        while there < len(self._newcomers) and self._loop.time() < until:
            there = len(self._newcomers)
            await asyncio.sleep(GATHER_SECONDS)

    async def _welcome(self) -> None:
        if len(self._newcomers) == len(self._waits):
            await self._gather()
        newcomers, self._newcomers = self._newcomers, []
        now = self._loop.time()
        for job in newcomers:
            self._changed_at = now
            self._waits.schedule(job, now)
        if len(newcomers) >= LIST_NEWCOMERS_FROM and self._lists():
            unknown = {job.key for job in newcomers}
            pages = len(newcomers) // NEWCOMERS_PER_PAGE + 1

            async def hear(jobs: Sequence[ListedJob]) -> bool:
                await self._hear(jobs)
                unknown.difference_update(job.key for job in jobs)
                return not unknown

            await self._read_list(lambda reader: reader.newest(self._ask, hear, pages))
            if not self._next_look:
                # For all whom it showed, that read was the first look.
                self._next_look = now + self._interval()

    # The list

    async def _read_list(self, read: Callable[[ListReader], Awaitable[None]]) -> None:
        assert self._reader is not None
        try:
            await read(self._reader)
        except Exception as error:
            if is_credential_fault(error):
                raise
            self._list_faults += 1
            if is_passing(error) and not await self._list_alone_fails(error):
                raise
            log.warning(
                "The list of %ss cannot be used now, each is described: %s",
                self._service.noun, cause(error),
            )  # fmt: skip
            self._rest_list()
        self._list_faults = 0

    async def _list_alone_fails(self, error: Exception) -> bool:
        most = LIST_THROTTLINGS if is_throttling(error) else LIST_FAULTS
        jobs = self._waits.all()
        if self._list_faults < most or not jobs:
            return False
        return await self._describe(random.choice(jobs)) is None

    def _describe_all_soon(self) -> None:
        now = self._loop.time()
        within = self._interval()
        for job in self._waits.all():
            self._waits.schedule(job, now + random.uniform(0, within))

    async def _read_changes(self, reader: ListReader) -> None:
        # Others' jobs fill the list too: from so many pages on, describing ours costs less.
        if not await reader.changes(self._ask, self._hear_changes, most_pages=len(self._waits)):
            self._rest_list()

    def _rest_list(self) -> None:
        self._list_from = self._loop.time() + LIST_REST_SECONDS
        self._describe_all_soon()

    async def _hear_changes(self, jobs: Sequence[ListedJob]) -> bool:
        await self._hear(jobs)
        return False

    async def _hear(self, jobs: Sequence[ListedJob]) -> None:
        self._answered()
        woken = 0
        for listed in jobs:
            job = self._waits.get(listed.key)
            if job is not None:
                woken += self._take_in(job, listed.status)
                if woken == WOKEN_AT_A_TIME:
                    woken = 0
                    await asyncio.sleep(0)

    def _take_in(self, job: WaitedJob, status: str) -> bool:
        """Take in what the list says of a job; return whether that woke it."""
        service = self._service
        try:
            ended = service.statuses.state(status, job.key).terminal
        except UnknownStatusError:
            self._waits.schedule(job, self._loop.time())  # the job's own word decides
            return False
        told = service.job_list is not None and service.job_list.tells_the_end
        if ended and told and not job.doubted:
            job.finish(status)
            return True
        if ended:
            self._waits.schedule(job, self._loop.time())
        elif not job.known:
            self._known(job)
        return False

    # Each job by itself

    def _known(self, job: WaitedJob) -> None:
        """Describe a running job again: at the interval, or rarely where the list tells."""
        job.known = True
        job.missed, job.failures, job.failing_since = False, 0, None
        wait = self._interval()
        if self._lists() and self._service.job_list:
            wait *= self._service.job_list.reads_per_description
            wait = min(wait, LONGEST_UNDESCRIBED_SECONDS) * random.uniform(0.5, 1.0)
        self._waits.schedule(job, self._loop.time() + wait)

    async def _describe_due(self) -> None:
        most = 1 if self._failing_since is not None else DESCRIBED_AT_A_TIME
        for job in self._waits.take_due(self._loop.time(), most - len(self._describing)):
            self._describing[self._loop.create_task(self._describe(job))] = job
        if not self._describing:
            return
        # One that stalls must not keep the list, and with it all other jobs, waiting.
        done, _ = await asyncio.wait(self._describing, timeout=STALLED_SECONDS)
        for task in done:
            del self._describing[task]
        errors = [error for task in done if (error := task.result()) is not None]
        if done and len(errors) == len(done):
            raise errors[-1]

    async def _describe(self, job: WaitedJob) -> Exception | None:
        """Describe a job; return the error where that is not of the job's own making."""
        service = self._service
        try:
            answers = await self._client.answers(service.describe_calls(job.handle))
            description = service.description(job.handle, answers)
        except Exception as error:
            self._heard(error)
            return self._not_described(job, error)
        self._answered()
        if description.state.terminal:
            job.finish(description.status)
        elif not job.ended:
            self._known(job)
        return None

    def _not_described(self, job: WaitedJob, error: Exception) -> Exception | None:
        now = self._loop.time()
        if is_passing(error) or is_credential_fault(error):
            job.failures += 1
            job.failing_since = job.failing_since or now
            self._expire(job, job.failing_since, error)
            self._waits.schedule(job, now + backoff(job.failures))
            return error
        if error_code(error) in self._service.missing_codes and not job.missed:
            # A replica of the service may be behind: it is gone when it is gone twice.
            job.missed = True
            self._waits.schedule(job, now + self._interval())
        else:
            job.fail(f"{self._label(job)}: {cause(error)}")
        return None

    # Faults of the service

    async def _wait_out(self, error: Exception) -> None:
        now = self._loop.time()
        self._failures += 1
        self._failing_since = self._failing_since or now
        if now - self._failing_since >= self._waits.bounds().outage:
            for job in self._waits.all():
                self._expire(job, self._failing_since, error)
        log.warning(
            "%s fails for %d %ss (%d): %s",
            self._service.statuses.service, len(self._waits), self._service.noun,
            self._failures, cause(error),
        )  # fmt: skip
        await asyncio.sleep(backoff(self._failures))

    def _expire(self, job: WaitedJob, since: float, error: Exception) -> None:
        now = self._loop.time()
        check = "the service is up"
        if is_credential_fault(error):
            check = "the connection's key is good"
        for waiter in job.waiters:
            if now - max(since, waiter.joined) >= waiter.bounds.outage:
                waiter.fail(
                    f"{self._label(job)}: no usable answer for {waiter.bounds.outage:.0f} s, last "
                    f"{cause(error)}: see that {check}; a retry finds the job again"
                )

    def _fail_all(self, why: str) -> None:
        for job in self._waits.all():
            job.fail(f"{self._label(job)}: {why}")

    def _label(self, job: WaitedJob) -> str:
        name = job.handle.get("name") or job.key
        return f"{self._service.statuses.service} {self._service.noun} {name}"
