"""One poll for all jobs of a service and connection in a triggerer process.

A trigger registers its job and awaits a future; one task per key opens one client, describes each
newcomer at once and then all of them in turn, and wakes only what ended. The last one to leave
ends the task.
"""

import asyncio
import json
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from model_delivery.aws import import_string, open_hook
from model_delivery.exceptions import JobError
from model_delivery.jobs.service import Handle, JobDescription, JobService

log = logging.getLogger(__name__)

# A service that does not answer is asked again, ever more rarely, this often before the wait fails.
MAX_FAILURES = 12
MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True)
class PollKey:
    """What jobs must share to share a poll."""

    service: str
    settings: str

    @classmethod
    def of(cls, service: str, settings: Mapping[str, Any]) -> "PollKey":
        """Return the key of a service over a connection."""
        return cls(service, json.dumps(settings, sort_keys=True))


@dataclass
class _Waiter:
    handle: Handle
    future: "asyncio.Future[JobDescription]"
    interval: float


class PollRegistry:
    """The waits of one process, grouped by key."""

    def __init__(self) -> None:
        self._groups: dict[PollKey, _Group] = {}

    async def wait(self, key: PollKey, handle: Handle, interval: float) -> JobDescription:
        """Return the job's description once it ended.

        :param interval: time between two looks in seconds; a group looks as often as its most
            impatient member wants.
        :raises JobError: when the service did not answer MAX_FAILURES times in a row.
        """
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
        waiter = _Waiter(handle, asyncio.get_running_loop().create_future(), interval)
        group.join(waiter)
        try:
            return await waiter.future
        finally:
            group.leave(waiter)
            if not group.waiters and self._groups.get(key) is group:
                del self._groups[key]
                await group.close()


class _Group:
    """The jobs that share one client and one poll task."""

    def __init__(self, key: PollKey) -> None:
        self.waiters: list[_Waiter] = []
        self._service: JobService = import_string(key.service)()
        self._settings: dict[str, Any] = json.loads(key.settings)
        self._newcomer = asyncio.Event()
        self._task = asyncio.create_task(self._poll())

    def join(self, waiter: _Waiter) -> None:
        self.waiters.append(waiter)
        self._newcomer.set()

    def leave(self, waiter: _Waiter) -> None:
        self.waiters.remove(waiter)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        failures = 0
        while True:
            try:
                # Opening a client reads botocore's models: off the event loop.
                hook = await asyncio.to_thread(open_hook, self._service.hook_path, self._settings)
                async with await hook.get_async_conn() as client:
                    while True:
                        await self._look(client)
                        failures = 0
                        await self._pause(min((w.interval for w in self.waiters), default=1.0))
            except Exception as error:  # any fault of any client: counted, retried
                failures += 1
                log.warning("Poll of %ss failed (%d): %s", self._service.noun, failures, error)
                if failures >= MAX_FAILURES or _hopeless(error):
                    self._fail(error)
                    failures = 0
                await self._pause(_backoff(failures), newcomers=False)

    async def _look(self, client: Any) -> None:
        self._newcomer.clear()
        for waiter in list(self.waiters):
            if waiter.future.done():
                continue
            calls = self._service.describe_calls(waiter.handle)
            answers = [await getattr(client, each.operation)(**each.parameters) for each in calls]
            description = self._service.described(waiter.handle, answers)
            if description.state.terminal and not waiter.future.done():
                waiter.future.set_result(description)

    async def _pause(self, seconds: float, *, newcomers: bool = True) -> None:
        if not newcomers:
            await asyncio.sleep(seconds)
            return
        try:
            await asyncio.wait_for(self._newcomer.wait(), seconds)
        except TimeoutError:
            return

    def _fail(self, error: Exception) -> None:
        for waiter in self.waiters:
            if not waiter.future.done():
                message = f"{self._service.noun} {waiter.handle['name']}: {error}"
                waiter.future.set_exception(JobError(message))


def _backoff(failures: int) -> float:
    """Exponential with full jitter, in seconds."""
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF_SECONDS, 2.0 ** max(failures - 1, 0))


def _hopeless(error: Exception) -> bool:
    from model_delivery.jobs.client import REFUSED_CODES, error_code

    return isinstance(error, JobError) or error_code(error) in REFUSED_CODES


@cache
def registry() -> PollRegistry:
    """Return this process's registry."""
    return PollRegistry()
