"""The trigger of every external job: a row in the poll registry, and a stop when killed."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from model_delivery.jobs.faults import (
    cause,
    error_code,
    is_unanswered,
)
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.rate import backoff, check_intervals
from model_delivery.jobs.registry import registry
from model_delivery.jobs.retries import MISSING_ANSWERS, OUTAGE_SECONDS
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.jobs.stop import Stop
from model_delivery.jobs.task_state import ACTIVE, DEFERRED, RUNNING, task_state
from model_delivery.jobs.waits import Bounds

EVENT_VERSION = 1
LONGEST_POLL_INTERVAL = 30.0
# A triggerer that cannot wait so often for a job that a worker can ask for: then the worker waits.
MOST_FAILED_WAITS = 3
# One call of a stop, in seconds: of Airflow's 30 for an `on_kill`, some are left for another.
STOP_CALL_SECONDS = 8.0
# Questions of all triggers that ask on together: connections are looked up over the same thread.
ASKED_A_SECOND = 5.0


def handover_seconds() -> float:
    """Return how long a task must stay deferred, in seconds.

    A worker may tell the scheduler only after its heartbeat interval that the task deferred. If the
    task has been resumed by then, the scheduler takes that word for the end of the resumed try, and
    fails it.
    """
    return 2.0 * float(conf.getint("workers", "min_heartbeat_interval", fallback=5))


class JobTrigger(BaseTrigger):
    """Fires once when the job ended, however many jobs wait: they share one poll.

    The event holds `version`, `handle`, and `status`, or `error` and the seconds `waited`: the
    service's own word on the job is asked for again by whoever resumes.

    :param service: path of the job's `JobService`.
    :param handle: the job.
    :param poll_interval: shortest time between two looks at the service, in seconds.
    :param max_poll_interval: longest time between two looks, in seconds; a job that has run for
        long is looked at more rarely. (default: 30, or poll_interval where that is longer)
    :param outage_timeout: how long the service may give no usable answer before the wait fails,
        in seconds. (default: 900)
    :param owned: whether the task made the job, so that its end stops it; a sensor's task only
        looks. (default: True)
    :param doubted: the service's list told of this job's end before, and its description did not:
        the list alone shall not wake the task again. (default: False)
    """

    _asking: ClassVar[int] = 0

    def __init__(
        self,
        *,
        service: str,
        handle: Handle,
        poll_interval: float,
        aws_conn_id: str | None,
        region_name: str | None,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
        max_poll_interval: float = LONGEST_POLL_INTERVAL,
        outage_timeout: float = OUTAGE_SECONDS,
        owned: bool = True,
        doubted: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.service = service
        self.handle = handle
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval
        self.outage_timeout = outage_timeout
        self.owned = owned
        self.doubted = doubted
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config
        self._stopping: asyncio.Task[None] | None = None
        self._generation: str | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every argument."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "service": self.service,
                "handle": self.handle,
                "poll_interval": self.poll_interval,
                "max_poll_interval": self.max_poll_interval,
                "outage_timeout": self.outage_timeout,
                "owned": self.owned,
                "doubted": self.doubted,
                **self._connection_settings,
            },
        )

    @property
    def _connection_settings(self) -> dict[str, Any]:
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the job; an event never carries more than its handle and its status."""
        started = time.monotonic()
        event: dict[str, Any] = {"version": EVENT_VERSION, "handle": self.handle}
        try:
            check_intervals(
                poll_interval=self.poll_interval, max_poll_interval=self.max_poll_interval,
                outage_timeout=self.outage_timeout,
            )  # fmt: skip
            bounds = Bounds(self.poll_interval, self.max_poll_interval, self.outage_timeout)
            await self._connection_now()
            await registry().turn()
            event |= await self._wait(bounds)
        except Exception as error:  # whatever ends the wait is the task's to report
            event |= {"error": cause(error), "waited": round(time.monotonic() - started, 1)}
        await asyncio.sleep(started + handover_seconds() - time.monotonic())
        yield TriggerEvent(event)

    async def _wait(self, bounds: Bounds) -> dict[str, Any]:
        """Return what the event tells of the end."""
        status = await registry().wait(
            self.service, self._connection_settings, self.handle, bounds,
            doubted=self.doubted, generation=self._generation,
        )  # fmt: skip
        return {"status": status}

    async def on_kill(self) -> None:
        """Stop the job that the task made, once, when a user ends or clears the deferred task.

        Airflow also calls this when another triggerer took the task over from one that was
        stalled: then the task is deferred still, or runs again, and the job goes on.
        """
        if not self.owned:
            return
        if self._stopping is None:
            self._stopping = registry().in_background(self._stop_job())
        await asyncio.shield(self._stopping)

    async def cleanup(self) -> None:
        """Wait for a stop under way, as long as Airflow gives an `on_kill`.

        Airflow cancels a killed trigger anew at every sync, about each second, and so would end
        an `on_kill` that takes longer. A stop that takes longer than this goes on in the
        triggerer by itself: of thousands that are killed at once, the last has to wait its turn.
        """
        limit = conf.getint("triggerer", "on_kill_timeout", fallback=30)
        until = time.monotonic() + limit
        while self._stopping is not None and not self._stopping.done():
            with suppress(asyncio.CancelledError):
                done, _ = await asyncio.wait([self._stopping], timeout=until - time.monotonic())
                if not done:
                    self.log.warning(
                        "Not stopped within %d s: asking on, see the triggerer's own log", limit
                    )
                    return

    async def _stop_job(self) -> None:
        service = await registry().service(self.service)
        label = self._label(service)
        try:
            if await self._is_waited_for():
                self.log.info("%s goes on: its task is waited for elsewhere", label)
                return
            await self._connection_now()
            await self._stop_all(service)
        except asyncio.CancelledError:
            self.log.warning("%s may still be running: the triggerer ends", label)
            raise
        except Exception as error:
            self.log.warning("%s may still be running: %s", label, cause(error))

    def _label(self, service: JobService) -> str:
        """Return what messages call that which is waited for."""
        return f"{service.noun} {self.handle.get('arn') or self.handle['name']}"

    async def _stop_all(self, service: JobService) -> None:
        """Stop what was made, and say what came of it."""
        async with asyncio.timeout(OUTAGE_SECONDS):
            outcome = await self._stop(service, self.handle)
        outcome.log(self.log, self._label(service), "its task was killed")

    async def _stop(self, service: JobService, handle: Handle, *, look: bool = True) -> Stop:
        """Ask until there is an answer, over a client that was opened anew after a fault.

        :param look: look at the job first, as where a stop would undo what ended well: the try
            that waited for a deployment may have seen it to its end.
        """
        call = service.stop_call(handle)
        if call is None:
            return Stop.IMPOSSIBLE
        asked = False
        failures = missing = 0
        while True:
            try:
                async with self._client(service) as client:
                    if look or asked:
                        outcome = await self._stopped(service, handle, client, asked=asked)
                        if outcome is not None:
                            return outcome
                    asked = True
                    await client.ask(call, STOP_CALL_SECONDS)
                    return Stop.ASKED
            except Exception as error:
                if error_code(error) in service.missing_codes:
                    # A host of the service may be behind: believed when it is said again.
                    missing += 1
                    if missing >= MISSING_ANSWERS:
                        return Stop.MISSING
                elif not is_unanswered(error):
                    if await self._has_ended(service, handle):
                        return Stop.ENDED
                    raise
                failures += 1
                self.log.warning("%s fails (%d): %s", call.operation, failures, cause(error))
                await asyncio.sleep(backoff(failures))

    async def _connection_now(self) -> str:
        """Return what the connection said when this trigger first needed it."""
        if self._generation is None:
            self._generation = await registry().generation(self.aws_conn_id)
        return self._generation

    def _client(self, service: JobService) -> AbstractAsyncContextManager[PacedClient]:
        return registry().client(service, self._connection_settings, self._generation)

    async def _stopped(
        self, service: JobService, handle: Handle, client: PacedClient, *, asked: bool
    ) -> Stop | None:
        """Look before a stop is asked for, or asked for again; see `JobService.stop_seen`."""
        try:
            description = await self._look(service, handle, client)
        except Exception as error:
            if asked or is_unanswered(error) or error_code(error) in service.missing_codes:
                raise
            self.log.warning("It is stopped without a look: %s", cause(error))
            return None
        return service.stop_seen(description, asked=asked)

    async def _look(
        self, service: JobService, handle: Handle, client: PacedClient
    ) -> JobDescription:
        answers = await client.answers(service.describe_calls(handle), STOP_CALL_SECONDS)
        return service.description(handle, answers)

    async def _has_ended(self, service: JobService, handle: Handle) -> bool:
        """Tell whether a stop was refused because nothing is left to stop."""
        try:
            async with self._client(service) as client:
                return service.is_ending(await self._look(service, handle, client))
        except Exception as error:
            self.log.warning("It cannot be looked at: %s", cause(error))
            return False

    async def _is_waited_for(self) -> bool:
        """Tell whether another triggerer waits for what this trigger waited for.

        A task that runs may be the try that another triggerer's event resumed, which looks after
        its job, or the next one after a clear, which may end before it has stopped the job of
        before. What becomes of it tells: in both cases nothing is left to stop once it waits.
        """
        from asgiref.sync import sync_to_async

        if self.task_instance is None:
            return False
        state, looks = None, 0
        while True:
            try:
                state = await sync_to_async(task_state)(self.task_instance)
            except Exception as error:  # unknown: a kill is by far the likelier reason to be here
                self.log.warning("The state of the task is not known: %s", cause(error))
            if state == DEFERRED:
                return True
            if state not in ACTIVE or not (looks or state == RUNNING):
                return False
            if not looks:
                self.log.info("The task runs again: asking on, until it waits or has ended")
            looks += 1
            await self._pause(looks)

    async def _pause(self, looks: int) -> None:
        """Wait before the next question: the longer, the more triggers ask."""
        JobTrigger._asking += 1
        try:
            share = JobTrigger._asking / ASKED_A_SECOND
            await asyncio.sleep(max(backoff(looks), random.uniform(0.5, 1.5) * share))
        finally:
            JobTrigger._asking -= 1
