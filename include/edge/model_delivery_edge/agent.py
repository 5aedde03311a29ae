"""The loop: serve what was committed, register once, then follow the desired state."""

import asyncio
import logging
import time
from collections.abc import Callable

from model_delivery_engine.errors import EngineError

from model_delivery_edge.background import finish_in_thread
from model_delivery_edge.backoff import Backoff
from model_delivery_edge.cloud import CloudClient, ReleaseKey
from model_delivery_edge.deployment import Deployer
from model_delivery_edge.errors import (
    CloudError,
    CloudRefused,
    CloudUnavailable,
    EdgeError,
    ProtocolError,
    SettingsError,
)
from model_delivery_edge.home import Home
from model_delivery_edge.journal import ENDED, LOST, Outcome, State
from model_delivery_edge.progress import Progress
from model_delivery_edge.reporter import Reporter
from model_delivery_edge.runtime import Runtime
from model_delivery_edge.wire import Desired

log = logging.getLogger(__name__)

_SHORTEST_POLL_SECONDS = 0.5
_WATCH_SECONDS = 1.0


class Agent:
    """One device's agent.

    :param home: the device's folder
    :param cloud: the cloud it follows
    :param runtime: what it serves through
    :param endpoint: URL of its inference endpoint, None where it is not known
    :param registration_token: called for the one-time token when the device has no key yet
    :param release_key: to pin, in base64 (default: what the registration gives)
    """

    def __init__(
        self,
        home: Home,
        cloud: CloudClient,
        runtime: Runtime,
        *,
        endpoint: str | None,
        registration_token: Callable[[], str],
        release_key: str | None = None,
    ) -> None:
        self._home = home
        self._cloud = cloud
        self._runtime = runtime
        self._registration_token = registration_token
        self._pinned = release_key is not None
        if release_key is not None:
            home.trust.pin(release_key)
        self._deployer = Deployer(home, cloud, runtime)
        self._reporter = Reporter(cloud, runtime, endpoint, self._deployer.signed_profiles)
        self._unfinished: Desired | None = None  # what a killed agent was about to do
        self._restored: Desired | None = None
        self._seen = 0  # the newest generation that need not be applied any more

    async def run(self) -> None:
        """Run until cancelled.

        :raises EdgeError: the device is not registered and cannot be
        """
        await self._restore()
        await self._authenticate()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reporter.run())
            tasks.create_task(self._follow())

    async def _restore(self) -> None:
        self._restored = restored = await self._deployer.restore()
        self._runtime.ready = True
        outcome = self._home.journal.outcome()
        generation = restored.generation if restored else 0
        newer = outcome.generation > generation
        if newer and outcome.state not in ENDED:
            self._unfinished = _unfinished(outcome)
        # A deployment that was lost is not tried again by itself, and one that was interrupted goes
        # on. Of anything else the cloud will say again what it desires.
        if outcome.state not in LOST and not (newer and self._unfinished):
            outcome = _committed(restored) if restored else Outcome()
        self._seen = outcome.generation
        self._reporter.tell(outcome)

    async def _authenticate(self) -> None:
        if key := self._home.device_key():
            self._cloud.use_key(key)
            return
        key, release_key = await self._register(self._registration_token())
        if release_key is not None and not self._pinned:
            await finish_in_thread(lambda: self._home.trust.pin(*release_key))
        await finish_in_thread(lambda: self._home.keep_device_key(key))
        self._cloud.use_key(key)
        log.info("registered as thing %s", self._cloud.thing)

    async def _register(self, token: str) -> tuple[str, ReleaseKey | None]:
        backoff = Backoff()
        while True:
            try:
                return await self._cloud.register(token, self._home.identity.public)
            except CloudUnavailable as error:
                seconds = backoff.next()
                log.warning("cannot register yet: %s; next try in %.1f s", error, seconds)
                await asyncio.sleep(seconds)
            except CloudRefused as error:
                raise SettingsError(
                    f"thing {self._cloud.thing} cannot register: {error}; make a new one-time "
                    "token (model-delivery-localcloud device-token THING) and start again"
                ) from error

    async def _follow(self) -> None:
        """Apply each newer desired state; the newest one stops what an older one still does."""
        applying: asyncio.Task[None] | None = None
        if self._unfinished is not None:
            applying = asyncio.create_task(self._apply(self._unfinished))
        elif self._restored is not None:
            progress = Progress(self._home.journal, self._restored, self._reporter.tell)
            applying = asyncio.create_task(self._watch(progress))
        try:
            while True:
                desired = await self._newer()
                await _stop(applying)
                self._seen = desired.generation
                applying = asyncio.create_task(self._apply(desired))
        finally:
            await _stop(applying)

    async def _newer(self) -> Desired:
        """Wait, as long as it takes, for a desired state that has not been seen."""
        backoff = Backoff()
        while True:
            begun = time.monotonic()
            try:
                desired = await self._cloud.desired(self._seen)
            except CloudError as error:
                seconds = backoff.next()
                log.warning("no desired state: %s; next try in %.1f s", error, seconds)
                await asyncio.sleep(seconds)
                continue
            backoff.reset()
            if desired is not None and desired.generation > self._seen:
                return desired
            # A cloud that answers at once, with nothing new, is not asked in a tight loop.
            await asyncio.sleep(max(0.0, begun + _SHORTEST_POLL_SECONDS - time.monotonic()))

    async def _apply(self, desired: Desired) -> None:
        log.info("generation %d: deployment %s", desired.generation, desired.deployment_id)
        progress = Progress(self._home.journal, desired, self._reporter.tell)
        state, reason = await self._applied(desired, progress)
        if reason is None:
            log.info("generation %d is served", desired.generation)
        else:
            log.warning("generation %d failed: %s", desired.generation, reason)
        await _end(progress, state, reason)
        await self._watch(progress)

    async def _watch(self, progress: Progress) -> None:
        """Look at what is served until something newer is desired; go back where it fails."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if (passed := self._deployer.passed()) is None:
                continue
            digest, why = passed
            try:
                gone_back = await self._deployer.roll_back(digest, why)
            except (EdgeError, EngineError, OSError) as error:
                log.warning("cannot return to the state before (%s): %s", why, error)
                gone_back = False
            if not gone_back:
                log.warning("%s; there is no state to return to", why)
                return
            log.warning("rolled back: %s", why)
            await _end(progress, "ROLLED_BACK", f"rolled back: {why}")

    async def _applied(self, desired: Desired, progress: Progress) -> tuple[State, str | None]:
        try:
            await progress.step("QUEUED")
            async with asyncio.timeout(progress.remaining):
                await self._deployer.apply(desired, progress)
        except TimeoutError:
            # The time may run out in the very commit: what is committed and served has not failed.
            if not self._deployer.has_committed(desired):
                return "TIMED_OUT", (
                    f"not done within its {desired.deadline_seconds:g} s; the device keeps what it "
                    "has: deploy again"
                )
        except (EdgeError, EngineError, OSError) as error:
            return "FAILED", str(error) or type(error).__name__
        except Exception as error:
            log.exception("generation %d failed", desired.generation)
            return "FAILED", f"the agent's own error: {type(error).__name__}: {error}"
        return "COMMITTED", None


async def _end(progress: Progress, state: State, reason: str | None) -> None:
    try:
        await progress.end(state, reason)
    except OSError as error:
        log.warning("cannot keep how the deployment went: %s", error)


def _committed(desired: Desired) -> Outcome:
    return Outcome(desired.generation, desired.deployment_id, "COMMITTED")


def _unfinished(outcome: Outcome) -> Desired | None:
    try:
        return Desired.from_json(outcome.desired) if outcome.desired else None
    except ProtocolError as error:
        log.warning("what was interrupted cannot be read: %s", error)
        return None


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
