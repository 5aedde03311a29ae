"""The batches that a triggerer waits for: those of one flow definition share its list."""

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from model_delivery.exceptions import JobError, UnknownStatusError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.watch import EndedLoop, LoopWatch
from model_delivery.jobs.faults import (
    cause,
    error_code,
    is_credential_fault,
    is_lasting,
    is_passing,
)
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.rate import backoff, interval
from model_delivery.jobs.registry import PollKey, PollRegistry, settings_key
from model_delivery.jobs.service import Call
from model_delivery.jobs.waits import Bounds

log = logging.getLogger(__name__)

# Batches that start together, as mapped tasks do, are looked at together.
_GATHER_SECONDS = 0.2
_OUTCOMES = Counter[str]


@dataclass(eq=False)
class _Wait:
    """One trigger that waits for a batch."""

    bounds: Bounds
    open: set[str]
    future: "asyncio.Future[dict[str, int]]"
    joined: float
    statuses: _OUTCOMES = field(default_factory=Counter)

    def end(self, loop: EndedLoop) -> None:
        self.open.discard(loop.name)
        self.statuses[loop.status] += 1
        if not self.open and not self.future.done():
            self.future.set_result(dict(self.statuses))

    def fail(self, message: str) -> None:
        if not self.future.done():
            self.future.set_exception(JobError(message))


class FlowPoll:
    """Looks at the loops of one flow definition until nobody waits.

    :param lease: leases the client, which the connection's polls share
    :param missing_codes: error codes by which the service says that something is not there
    """

    def __init__(
        self,
        flow_definition_arn: str,
        lease: Callable[[], AbstractAsyncContextManager[PacedClient]],
        missing_codes: frozenset[str],
    ) -> None:
        self._flow = flow_definition_arn
        self._lease = lease
        self._missing_codes = missing_codes
        self._watch = LoopWatch(flow_definition_arn, self._end, self._fail_one)
        self._waits: dict[_Wait, None] = {}
        self._by_name: dict[str, list[_Wait]] = {}
        self._arrival = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._changed_at = self._loop.time()
        self._failures = 0
        self._failing_since: float | None = None
        # A context of its own: else all it logs would go to the first trigger's task log.
        self._task = self._loop.create_task(self._run(), context=contextvars.Context())
        self._task.add_done_callback(lambda _task: self._fail_all("the poll ended"))

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits."""
        return not self._waits

    @property
    def is_over(self) -> bool:
        """Whether it ended, and looks no longer."""
        return self._task.done()

    def close(self) -> None:
        """Look no longer."""
        self._task.cancel()

    async def wait(self, batch: LoopBatch, bounds: Bounds) -> dict[str, int]:
        """Return how many loops of the batch ended with each status, once all have ended."""
        names = set(batch)
        wait = _Wait(bounds, names, self._loop.create_future(), self._loop.time())
        if not names:
            return {}
        new = [name for name in names if name not in self._by_name]
        for name in names:
            self._by_name.setdefault(name, []).append(wait)
        since = datetime.fromisoformat(batch.created_after) if batch.created_after else None
        self._watch.add(new, since)
        self._waits[wait] = None
        self._changed_at = self._loop.time()
        self._arrival.set()
        try:
            return await wait.future
        finally:
            self._leave(wait)

    def _leave(self, wait: _Wait) -> None:
        del self._waits[wait]
        left = []
        for name in wait.open:
            self._by_name[name].remove(wait)
            if not self._by_name[name]:
                del self._by_name[name]
                left.append(name)
        self._watch.remove(left)

    def _end(self, loop: EndedLoop) -> None:
        self._changed_at = self._loop.time()
        for wait in self._by_name.pop(loop.name, ()):
            wait.end(loop)

    def _fail_one(self, name: str, error: UnknownStatusError) -> None:
        for wait in self._by_name.get(name, ()):
            wait.fail(str(error))

    async def _run(self) -> None:
        while True:
            try:
                async with self._lease() as client:
                    await self._follow(client)
            except Exception as error:
                if is_lasting(error) or not (is_passing(error) or is_credential_fault(error)):
                    self._fail_all(f"the wait cannot go on ({cause(error)})")
                    return
                await self._wait_out(error)

    async def _follow(self, client: PacedClient) -> None:
        while True:
            await self._look(client)
            self._failures, self._failing_since = 0, None
            await self._rest()

    async def _look(self, client: PacedClient) -> None:
        calls = self._watch.round()
        call = next(calls, None)
        while call is not None:
            answer = await self._ask(client, call)
            try:
                call = calls.send(answer)
            except StopIteration:
                return

    async def _ask(self, client: PacedClient, call: Call) -> Mapping[str, Any] | None:
        """Return the answer; None where the service says that there is no such thing."""
        try:
            return await client.ask(call)
        except Exception as error:
            if error_code(error) in self._missing_codes:
                return None
            raise

    async def _rest(self) -> None:
        bounds = [wait.bounds for wait in self._waits]
        shortest = min((each.shortest for each in bounds), default=1.0)
        longest = max(shortest, min((each.longest for each in bounds), default=shortest))
        self._arrival.clear()
        try:
            async with asyncio.timeout(
                interval(shortest, longest, self._loop.time() - self._changed_at)
            ):
                await self._arrival.wait()
            await asyncio.sleep(_GATHER_SECONDS)
        except TimeoutError:
            return

    async def _wait_out(self, error: Exception) -> None:
        now = self._loop.time()
        self._failures += 1
        self._failing_since = self._failing_since or now
        for wait in list(self._waits):
            away = now - max(self._failing_since, wait.joined)
            if away >= wait.bounds.outage:
                wait.fail(
                    f"{len(wait.open)} human loops of {self._flow}: no usable answer for "
                    f"{wait.bounds.outage:.0f} s, last {cause(error)}: see that the service is up "
                    "and the connection's key is good; a retry finds the loops again"
                )
        log.warning("%s: %s (%d)", self._flow, cause(error), self._failures)
        await asyncio.sleep(backoff(self._failures))

    def _fail_all(self, why: str) -> None:
        for wait in list(self._waits):
            wait.fail(f"{len(wait.open)} human loops of {self._flow}: {why}")


async def wait_for_batch(
    polls: PollRegistry,
    path: str,
    settings: Mapping[str, Any],
    generation: str,
    batch: LoopBatch,
    bounds: Bounds,
) -> dict[str, int]:
    """Return how many loops of a batch ended with each status, once all have ended.

    :param polls: the event loop's, whose clients and request rate these waits share
    :param path: path of the `JobService` of human loops
    :param settings: the four parameters of the connection
    :param generation: what the connection says, of `PollRegistry.generation`
    :raises JobError: when the service gives no usable answer for too long.
    """
    service = await polls.service(path)
    flow = batch.flow_definition_arn

    def make() -> FlowPoll:
        def lease() -> AbstractAsyncContextManager[PacedClient]:
            return polls.client(service, settings, generation)

        return FlowPoll(flow, lease, service.missing_codes)

    with polls.poll(PollKey(path, settings_key(settings), generation, flow), make) as poll:
        return await poll.wait(batch, bounds)
