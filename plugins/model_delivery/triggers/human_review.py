"""The trigger of a batch of human loops."""

import asyncio
import json
from typing import Any

from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.polls import wait_for_batch
from model_delivery.jobs.faults import cause
from model_delivery.jobs.registry import registry
from model_delivery.jobs.retries import OUTAGE_SECONDS
from model_delivery.jobs.service import JobService
from model_delivery.jobs.stop import Stop
from model_delivery.jobs.trigger import JobTrigger
from model_delivery.jobs.waits import Bounds

SERVICE = "model_delivery.hooks.human_review.HumanLoops"
_STOPPED_AT_A_TIME = 8


class HumanLoopTrigger(JobTrigger):
    """Fires once when every loop of a batch ended; batches of a flow definition share its list.

    The event holds `version`, `handle`, and `statuses` (how many loops ended with each) or `error`.
    Its parameters are `JobTrigger`'s; `handle` is made by `batch_handle`.
    """

    async def _wait(self, bounds: Bounds) -> dict[str, Any]:
        batch, settings = read_handle(self.handle), self._connection_settings
        generation = await self._connection_now()
        statuses = await wait_for_batch(
            registry(), self.service, settings, generation, batch, bounds
        )
        return {"statuses": statuses}

    def _label(self, service: JobService) -> str:
        return f"a batch of {len(read_handle(self.handle))} human loops"

    async def _stop_all(self, service: JobService) -> None:
        """Stop what is open of the batch, as far as Airflow gives time for it."""
        from botocore.exceptions import ClientError

        batch = read_handle(self.handle)
        names, stopped = iter(batch), 0
        refused: list[Exception] = []

        async def stop_some() -> None:
            nonlocal stopped
            for name in names:
                try:
                    outcome = await self._stop(service, {"name": name}, look=False)
                    stopped += outcome is Stop.ASKED
                except ClientError as error:  # of this loop: the others are stopped all the same
                    refused.append(error)

        try:
            async with (
                asyncio.timeout(OUTAGE_SECONDS),
                self._client(service),  # kept open for all
                asyncio.TaskGroup() as stops,
            ):
                for _ in range(_STOPPED_AT_A_TIME):
                    stops.create_task(stop_some())
            if refused:
                raise refused[0]
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            self.log.warning(
                "%d of %d human loops were stopped, then: %s; the task, cleared, stops the rest",
                stopped, len(batch), cause(error),
            )  # fmt: skip
        else:
            self.log.info("Asked to stop %d human loops: their task was killed", stopped)


def batch_handle(batch: LoopBatch) -> dict[str, str]:
    """Return a batch as a trigger keeps it."""
    return {"name": batch.prefix or batch.flow_definition_arn, "batch": json.dumps(batch.written())}


def read_handle(handle: dict[str, str]) -> LoopBatch:
    """Return the batch that a trigger keeps."""
    return LoopBatch.read(json.loads(handle["batch"]))
