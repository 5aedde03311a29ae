"""Runs the steps of a rollout: in a worker, or in a triggerer."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from model_delivery.aws import open_hook
from model_delivery.exceptions import JobError
from model_delivery.jobs.faults import cause, is_credential_fault, is_lasting, is_passing
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.rate import backoff, interval
from model_delivery.jobs.registry import PollRegistry
from model_delivery.jobs.retries import OUTAGE_SECONDS, Pause
from model_delivery.jobs.service import Call, CalledService
from model_delivery.jobs.service_client import ServiceClient
from model_delivery.jobs.waits import Bounds
from model_delivery.rollouts.calls import Steps
from model_delivery.rollouts.control import Look, Rollout
from model_delivery.rollouts.services import GREENGRASS, IOT, service_of

log = logging.getLogger(__name__)
Made = TypeVar("Made")


class RolloutWorker:
    """Runs steps over one connection, each call until there is an answer.

    :param settings: the four parameters of the connection
    :param pause: sleeps between attempts; once it is cut, nothing further is asked
    :param outage: how long a service may give no usable answer, in seconds. (default: 900)
    """

    def __init__(
        self, settings: dict[str, Any], pause: Pause, outage: float = OUTAGE_SECONDS
    ) -> None:
        self.pause = pause
        self._clients: dict[CalledService, ServiceClient[CalledService]] = {
            service: ServiceClient(service, _opener(service, settings), outage)
            for service in (GREENGRASS, IOT)
        }
        for client in self._clients.values():
            client.pause = pause

    def run(self, steps: Steps[Made], about: str, *, reopen: bool = True) -> Made:
        """Return what the steps make.

        :param about: what the calls are about, for messages
        :param reopen: whether the connection may be looked up again: not in a signal handler,
            which must not talk to Airflow
        :raises DeliveryError: a service gave no usable answer for too long
        """
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._ask(call, about, reopen=reopen)
                except Exception as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            made: Made = end.value
            return made

    def _ask(self, call: Call, about: str, *, reopen: bool) -> Mapping[str, Any]:
        client = self._clients[service_of(call)]
        return client.patiently(lambda: client.run(call), {"name": about}, reopen=reopen)


def _opener(service: CalledService, settings: dict[str, Any]) -> Callable[[], Any]:
    return lambda: open_hook(service.hook_path, settings)


class RolloutPoll:
    """Looks at a rollout in a triggerer until it has ended.

    :param polls: of the event loop; its clients and request rates are shared
    :param settings: the four parameters of the connection
    :param generation: what the connection says, of `PollRegistry.generation`
    """

    def __init__(
        self, polls: PollRegistry, settings: Mapping[str, Any], generation: str, rollout: Rollout
    ) -> None:
        self._polls = polls
        self._settings = settings
        self._generation = generation
        self._rollout = rollout

    async def until_end(self, bounds: Bounds) -> Look:
        """Return the last look.

        :raises JobError: the services gave no usable answer for too long
        """
        return await self._repeat(lambda: self._rollout.look(), bounds)

    async def roll_back(self, reason: str, bounds: Bounds) -> Look:
        """Have all devices go back, and return the last look once they have."""
        await self._answered(lambda: self._rollout.roll_back(reason), bounds)
        return await self.until_end(bounds)

    async def _repeat(self, look: Callable[[], Steps[Look]], bounds: Bounds) -> Look:
        clock = asyncio.get_running_loop().time
        moved_at = clock()
        while True:
            found = await self._answered(look, bounds)
            if found.state.is_end:
                return found
            if found.moved:
                moved_at = clock()
                log.info("%s: %s", found.state, found.reason)
            await asyncio.sleep(interval(bounds.shortest, bounds.longest, clock() - moved_at))

    async def _answered(self, steps: Callable[[], Steps[Made]], bounds: Bounds) -> Made:
        """Run steps again and again until they come to their end: what they did, they find done."""
        clock = asyncio.get_running_loop().time
        failures, since = 0, clock()
        while True:
            try:
                return await self._run(steps())
            except Exception as error:
                passing = is_passing(error) or is_credential_fault(error)
                if is_lasting(error) or not passing:
                    raise
                failures += 1
                if clock() - since >= bounds.outage:
                    raise JobError(
                        f"rollout {self._rollout.plan.id}: no usable answer for "
                        f"{bounds.outage:.0f} s, last {cause(error)}: see that the service is up "
                        "and the connection's key is good; a retry goes on with it"
                    ) from error
                log.warning("%s (%d): looking again", cause(error), failures)
                await asyncio.sleep(backoff(failures))

    async def _run(self, steps: Steps[Made]) -> Made:
        async with AsyncExitStack() as stack:
            clients: dict[CalledService, PacedClient] = {}
            for service in (GREENGRASS, IOT):
                lease = self._polls.client(service, self._settings, self._generation)
                clients[service] = await stack.enter_async_context(lease)
            try:
                call = next(steps)
                while True:
                    try:
                        answer = await clients[service_of(call)].ask(call)
                    except Exception as error:
                        call = steps.throw(error)
                    else:
                        call = steps.send(answer)
            except StopIteration as end:
                made: Made = end.value
                return made
