"""The trigger of a rollout: drives it, and has it roll back when its task is killed."""

import asyncio
from typing import Any

from model_delivery.jobs.faults import cause
from model_delivery.jobs.registry import registry
from model_delivery.jobs.retries import OUTAGE_SECONDS
from model_delivery.jobs.service import JobService
from model_delivery.jobs.trigger import JobTrigger
from model_delivery.jobs.waits import Bounds
from model_delivery.rollouts.control import Rollout
from model_delivery.rollouts.plan import RolloutPlan
from model_delivery.rollouts.run import RolloutPoll

SERVICE = "model_delivery.hooks.edge.Deployments"


class RolloutTrigger(JobTrigger):
    """Drives a rollout, and fires once when it has ended.

    The event holds `version`, `handle`, and `state` or `error`. Its parameters are `JobTrigger`'s;
    `handle` is made by `rollout_handle`.
    """

    async def _wait(self, bounds: Bounds) -> dict[str, Any]:
        look = await (await self._poll()).until_end(bounds)
        return {"state": look.state}

    async def _poll(self) -> RolloutPoll:
        generation = await self._connection_now()
        rollout = Rollout(read_handle(self.handle))
        return RolloutPoll(registry(), self._connection_settings, generation, rollout)

    def _label(self, service: JobService) -> str:
        return f"rollout {self.handle['name']}"

    async def _stop_all(self, service: JobService) -> None:
        """Have all devices that began go back, as far as Airflow gives time for it."""
        poll = await self._poll()
        bounds = Bounds(self.poll_interval, self.max_poll_interval, self.outage_timeout)
        try:
            async with asyncio.timeout(OUTAGE_SECONDS):
                look = await poll.roll_back("Its task was killed", bounds)
        except Exception as error:
            self.log.warning(
                "%s is not rolled back: %s; its record says what is to do", self._label(service),
                cause(error),
            )  # fmt: skip
        else:
            self.log.info("%s: %s: %s", self._label(service), look.state, look.reason)


def rollout_handle(plan: RolloutPlan) -> dict[str, str]:
    """Return a rollout as a trigger keeps it."""
    return {"name": plan.id, "plan": plan.written()}


def read_handle(handle: dict[str, str]) -> RolloutPlan:
    """Return the rollout that a trigger keeps."""
    return RolloutPlan.read(handle["plan"])
