"""What runs in the TriggerRunner: ours, the amazon provider's way, and what Airflow itself costs.

Each event says when it was yielded, by the clock that the service's times come from.
"""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.triggers.base import AwsBaseWaiterTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent
from model_delivery.hooks.compilation import CompilationJobHook
from model_delivery.jobs.trigger import JobTrigger

from benchmarks.triggerer.idle import timed

PROBE_SECONDS = 0.005
WAITERS = Path(__file__).with_name("waiters.json")


class OurTrigger(JobTrigger):
    """The project's trigger."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait through the poll registry."""
        async for event in super().run():
            yield timed(event, self.handle["name"])


class WaiterHook(CompilationJobHook):
    """The hook with a custom waiter; the provider finds its own waiters by path."""

    @cached_property
    def waiter_path(self) -> Path:  # type: ignore[override]
        """Return the waiters' file."""
        return WAITERS


class WaiterTrigger(AwsBaseWaiterTrigger):
    """The peer: a waiter trigger written as the amazon provider writes its own."""

    aws_hook_class = WaiterHook

    def __init__(
        self,
        *,
        job_name: str,
        waiter_delay: int,
        waiter_max_attempts: int = 10_000,
        aws_conn_id: str | None = "aws_default",
    ) -> None:
        super().__init__(
            serialized_fields={"job_name": job_name},
            waiter_name="compilation_job_complete",
            waiter_args={"CompilationJobName": job_name},
            failure_message="Compilation job failed.",
            status_message="Status of compilation job is",
            status_queries=["CompilationJobStatus"],
            return_key="job_name",
            return_value=job_name,
            waiter_delay=waiter_delay,
            waiter_max_attempts=waiter_max_attempts,
            aws_conn_id=aws_conn_id,
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait with the custom waiter."""
        async for event in super().run():
            yield timed(event, self.return_value)


class LagProbe(BaseTrigger):
    """Writes every delay of the event loop above 10 ms to a file, until it is cancelled.

    A line is [time, delay, of which Python collected garbage], in seconds.
    """

    def __init__(self, *, path: str) -> None:
        super().__init__()
        self.path = path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every argument."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"path": self.path}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep for moments, and note how long they were."""
        collecting = Collecting()
        with Path(self.path).open("a", buffering=1) as lags:
            lags.write(json.dumps([time.time(), 0.0, 0.0]) + "\n")
            while True:
                before = collecting.seconds
                started = time.perf_counter()
                await asyncio.sleep(PROBE_SECONDS)
                lag = time.perf_counter() - started - PROBE_SECONDS
                if lag > 0.01:
                    collected = min(lag, collecting.seconds - before)
                    lags.write(json.dumps([time.time(), lag, collected]) + "\n")
        yield TriggerEvent(None)  # never reached: makes this a generator


class Collecting:
    """Counts the seconds that this process has collected garbage for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._started = now
        else:
            self.seconds += now - self._started
