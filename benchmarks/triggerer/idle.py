"""A trigger that only sleeps; light, since a DAG file imports it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


def timed(event: TriggerEvent, job: str) -> TriggerEvent:
    """Return an event that says when it was yielded, by the clock of the service's times."""
    return TriggerEvent({"job": job, "at": time.time(), "event": event.payload})


class IdleTrigger(BaseTrigger):
    """Sleeps until its job will have ended, and asks nobody: Airflow's own cost."""

    def __init__(self, *, job_name: str, until: float) -> None:
        super().__init__()
        self.job_name = job_name
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every argument."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"job_name": self.job_name, "until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep."""
        await asyncio.sleep(max(0.0, self.until - time.time()))
        yield timed(TriggerEvent("idle"), self.job_name)
