"""The trigger of a batch of human loops."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import TriggerEvent

from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.polls import flow_polls
from model_delivery.jobs.faults import cause, is_passing
from model_delivery.jobs.rate import backoff
from model_delivery.jobs.registry import registry
from model_delivery.jobs.trigger import EVENT_VERSION, JobTrigger, handover_seconds
from model_delivery.jobs.waits import Bounds

SERVICE = "model_delivery.hooks.human_review.HumanLoops"
_STOPPED_AT_A_TIME = 8


class HumanLoopTrigger(JobTrigger):
    """Fires once when every loop of a batch ended; batches of a flow definition share its list.

    The event holds `version`, `handle`, and `statuses` (how many loops ended with each) or `error`.
    Its parameters are `JobTrigger`'s; `handle` is made by `batch_handle`.
    """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the batch."""
        started = time.monotonic()
        event: dict[str, Any] = {"version": EVENT_VERSION, "handle": self.handle}
        bounds = Bounds(self.poll_interval, self.max_poll_interval, self.outage_timeout)
        try:
            service = await registry().service(self.service)
            event["statuses"] = await flow_polls().wait(
                service, self._connection_settings, read_handle(self.handle), bounds
            )
        except Exception as error:  # whatever ends the wait is the task's to report
            event["error"] = cause(error)
        await asyncio.sleep(started + handover_seconds() - time.monotonic())
        yield TriggerEvent(event)

    async def _stop_job(self) -> None:
        """Stop what is open of the batch, as far as Airflow gives time for it."""
        if await self._is_deferred_still():
            self.log.info("The human loops go on: their task is waited for elsewhere")
            return
        service = await registry().service(self.service)
        batch = read_handle(self.handle)
        stopped = 0
        try:
            async with (
                asyncio.timeout(conf.getint("triggerer", "on_kill_timeout", fallback=30)),
                registry().client(service, self._connection_settings) as client,
            ):
                names = iter(batch)

                async def stop_some() -> None:
                    nonlocal stopped
                    for name in names:
                        stopped += await _stop_loop(client, name)

                await asyncio.gather(*(stop_some() for _ in range(_STOPPED_AT_A_TIME)))
        except Exception as error:
            self.log.warning(
                "%d of %d human loops were stopped, then: %s; the task, cleared, stops the rest",
                stopped, len(batch), cause(error),
            )  # fmt: skip
        else:
            self.log.info("Asked to stop %d human loops: their task was killed", stopped)


async def _stop_loop(client: Any, name: str) -> bool:
    """Stop a loop, waiting out what passes; tell whether the service took it."""
    failures = 0
    while True:
        try:
            await client.stop_human_loop(HumanLoopName=name)
        except Exception as error:
            if not is_passing(error):
                return False
            failures += 1
            await asyncio.sleep(backoff(failures))
        else:
            return True


def batch_handle(batch: LoopBatch) -> dict[str, str]:
    """Return a batch as a trigger keeps it."""
    return {"name": batch.prefix or batch.flow_definition_arn, "batch": json.dumps(batch.written())}


def read_handle(handle: dict[str, str]) -> LoopBatch:
    """Return the batch that a trigger keeps."""
    return LoopBatch.read(json.loads(handle["batch"]))
