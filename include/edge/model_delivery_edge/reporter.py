"""What the device says of itself: at once on each change, and every ten seconds."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from model_delivery_edge import __version__
from model_delivery_edge.backoff import Backoff
from model_delivery_edge.cloud import CloudClient
from model_delivery_edge.errors import CloudError
from model_delivery_edge.journal import Outcome
from model_delivery_edge.runtime import Runtime
from model_delivery_edge.wire import Report

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0


class Reporter:
    """Sends the newest state; what was overtaken before it could be sent is not sent.

    :param cloud: where to
    :param runtime: what runs: read anew for each report, so that none claims what is not served
    :param endpoint: URL of the inference endpoint, None where it is not known
    :param profiles: called for the signed records of probes
    """

    def __init__(
        self,
        cloud: CloudClient,
        runtime: Runtime,
        endpoint: str | None,
        profiles: Callable[[], tuple[Mapping[str, Any], ...]],
    ) -> None:
        self._cloud = cloud
        self._runtime = runtime
        self._endpoint = endpoint
        self._profiles = profiles
        self._reached = time.monotonic()
        self._changed = asyncio.Event()
        self._outcome = Outcome()
        self._reachable = True
        self._backoff = Backoff(ceiling=HEARTBEAT_SECONDS)

    def tell(self, outcome: Outcome) -> None:
        """Report this outcome from now on."""
        self._outcome = outcome
        self._changed.set()

    async def run(self) -> None:
        """Report until cancelled; an unreachable cloud is logged once, not every ten seconds."""
        while True:
            self._changed.clear()
            seconds = await self._send()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _send(self) -> float:
        """Send a report; return the seconds until the next one."""
        try:
            await self._cloud.report(self._report())
        except CloudError as error:
            if self._reachable:
                log.warning("cannot report: %s", error)
            self._reachable = False
            return self._backoff.next()
        self._reachable = True
        self._reached = time.monotonic()
        self._backoff.reset()
        return HEARTBEAT_SECONDS

    def _report(self) -> Report:
        outcome = self._outcome
        return Report(
            outcome.generation,
            outcome.deployment_id,
            outcome.status,
            tuple(served.running() for served in self._runtime.table.values()),
            outcome.error,
            __version__,
            self._endpoint,
            outcome.state,
            outcome.components,
            self._profiles(),
            time.monotonic() - self._reached,
        )
