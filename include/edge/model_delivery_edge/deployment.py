"""Making the device what it is desired to be: all of it, or nothing of it."""

import asyncio
import logging
import weakref
from collections.abc import Mapping
from typing import Any

from model_delivery_edge.background import finish_in_thread
from model_delivery_edge.cloud import CloudClient
from model_delivery_edge.download import Download
from model_delivery_edge.errors import DeploymentError, ProbeError
from model_delivery_edge.home import Home
from model_delivery_edge.memory import release_freed
from model_delivery_edge.probe.limits import Limits
from model_delivery_edge.probe.prober import probe
from model_delivery_edge.progress import Progress
from model_delivery_edge.runtime import Candidate, Runtime, Served, load_candidate
from model_delivery_edge.watch import WatchedModel, WatchLimits
from model_delivery_edge.wire import Component, Desired

log = logging.getLogger(__name__)

_RETIRE_SECONDS = 10.0
MOST_PROFILES = 20


class Deployer:
    """Applies desired states, one at a time.

    :param home: where artifacts and committed state are
    :param cloud: where artifacts come from
    :param runtime: what serves them
    """

    def __init__(self, home: Home, cloud: CloudClient, runtime: Runtime) -> None:
        self._home = home
        self._cloud = cloud
        self._runtime = runtime
        self.profiles: dict[str, dict[str, Any]] = {}

    async def restore(self) -> Desired | None:
        """Serve the newest committed state that still proves itself, without any network.

        :returns: that state, or None where there is none
        """
        failed = self._home.journal.failed()
        slots = await finish_in_thread(self._home.slots.committed)
        # One that was refused after its commit, just before the power went, comes last.
        slots.sort(key=lambda each: any(c.artifact.digest in failed for c in each.components))
        for desired in slots:
            try:
                candidates = await self._load(desired)
            except Exception:
                log.exception("generation %d cannot be served again", desired.generation)
                continue
            self._runtime.switch(each.served for each in candidates)
            log.info("serving generation %d again: %s", desired.generation, _names(desired))
            return desired
        return None

    async def apply(self, desired: Desired, journal: Progress) -> None:
        """Fetch, prove, switch to and commit to a desired state.

        Until the commit the device serves, and would restart with, what it had.

        :raises DeploymentError, EngineError, CloudRefused, OSError: nothing has changed
        """
        desired.check()
        limits = {c.name: Limits.of(c.configuration) for c in desired.components}
        for component in desired.components:
            WatchLimits.of(component.configuration)
        await finish_in_thread(lambda: self._home.trust.check(desired))
        await self._check_refused(desired)
        try:
            for component in desired.components:
                await self._fetch(component, journal)
            await journal.step("STAGED")
            await journal.probing()
            for component in desired.components:
                await self._probe(component, limits[component.name])
            candidates = await self._load(desired)
            retired = await self._switch(desired, candidates)
        finally:
            await finish_in_thread(lambda: self._home.artifacts.collect(self._kept(desired)))
        del candidates
        await _release(retired)

    def passed(self) -> tuple[str, str] | None:
        """Return the digest of a served model that passed a limit of its watch, and the figures."""
        for served in self._runtime.table.values():
            figures = served.model.figures if isinstance(served.model, WatchedModel) else None
            if figures is not None and (why := figures.passed()):
                return served.digest, f"{served.component} {served.version}: {why}"
        return None

    async def roll_back(self, digest: str, why: str) -> bool:
        """Give up a model that is served for the state before; False where there is none."""
        slots, journal = self._home.slots, self._home.journal
        failed = journal.failed()
        states = await finish_in_thread(slots.committed)
        before = states[1] if len(states) == 2 else None
        digests = {c.artifact.digest for c in before.components} if before else set()
        if before is None or digest in digests or digests & failed.keys():
            return False
        candidates = await self._load(before)
        await finish_in_thread(lambda: journal.refuse(digest, why))
        retired = [weakref.ref(served) for served in self._runtime.table.values()]
        self._runtime.switch(each.served for each in candidates)
        await finish_in_thread(slots.go_back)
        del candidates
        await _release(retired)
        return True

    def has_committed(self, desired: Desired) -> bool:
        """Tell whether this is the state that the device would restart with."""
        committed = self._home.slots.committed()
        return bool(committed) and committed[0].generation == desired.generation

    async def _fetch(self, component: Component, journal: Progress) -> None:
        await journal.step("DOWNLOADING", component.name)
        await Download(self._cloud, self._home.artifacts, component.artifact).run()
        await journal.step("VERIFIED", component.name)
        self._home.artifacts.check_room(component.artifact.digest)

    async def _probe(self, component: Component, limits: Limits) -> None:
        served = self._runtime.table.get(component.model_name)
        if served is not None and served.digest == component.artifact.digest:
            return
        digest, name = component.artifact.digest, f"{component.name} {component.version}"
        archive = await finish_in_thread(lambda: self._home.artifacts.verified(digest))
        try:
            self.profiles[digest] = await probe(archive, name, limits, self._home.work)
        except ProbeError as error:
            why = str(error)
            await finish_in_thread(lambda: self._home.journal.refuse(digest, why))
            raise

    async def _check_refused(self, desired: Desired) -> None:
        journal = self._home.journal
        for component in desired.components:
            digest = component.artifact.digest
            if desired.retry:
                await finish_in_thread(lambda digest=digest: journal.forgive(digest))  # type: ignore[misc]
            elif why := journal.failed().get(digest):
                raise DeploymentError(
                    f"{component.name} {component.version} was refused before: {why} "
                    "(deploy another version, or this one with retry)"
                )

    def _kept(self, desired: Desired) -> set[str]:
        """Digests to keep: of both slots, and what this deployment has only begun to fetch."""
        digests = self._home.slots.digests()
        incomplete = {c.artifact.digest for c in desired.components}
        artifacts = self._home.artifacts
        return digests | {digest for digest in incomplete if artifacts.part(digest).exists()}

    async def _load(self, desired: Desired) -> list[Candidate]:
        return [await self._candidate(component) for component in desired.components]

    async def _candidate(self, component: Component) -> Candidate:
        artifacts, work = self._home.artifacts, self._home.work
        served = self._runtime.table.get(component.model_name)
        if served is not None and served.is_of(component):
            return Candidate(served, {})
        return await finish_in_thread(lambda: load_candidate(component, artifacts, work))

    async def _switch(
        self, desired: Desired, candidates: list[Candidate]
    ) -> list["weakref.ref[Served]"]:
        """Switch over and commit, or stay; return what is no longer served."""
        before = self._runtime.table
        self._runtime.switch(each.served for each in candidates)
        try:
            for candidate in candidates:
                await self._prove(candidate, before)
        except BaseException:
            self._runtime.switch(before.values())
            raise
        try:
            await finish_in_thread(lambda: self._commit(desired))
        except Exception:  # a cancellation comes after the commit: then memory and disk agree
            self._runtime.switch(before.values())
            raise
        kept = {id(served) for served in self._runtime.table.values()}
        return [weakref.ref(served) for served in before.values() if id(served) not in kept]

    def _commit(self, desired: Desired) -> None:
        self._home.trust.accept(desired)
        self._home.slots.commit(desired)

    def signed_profiles(self) -> tuple[dict[str, Any], ...]:
        """Return what probes measured since the agent started, signed with the device's key."""
        records = [{**profile, "digest": digest} for digest, profile in self.profiles.items()]
        sign = self._home.identity.sign
        return tuple({"record": each, "signature": sign(each)} for each in records[-MOST_PROFILES:])

    async def _prove(self, candidate: Candidate, before: Mapping[str, Served]) -> None:
        # One that keeps serving has proved itself, and its golden inputs are no longer in memory.
        if before.get(candidate.served.name) is not candidate.served:
            await self._runtime.prove(candidate)


def _names(desired: Desired) -> str:
    names = ", ".join(f"{c.name} {c.version}" for c in desired.components)
    return names or "nothing"


async def _release(retired: list["weakref.ref[Served]"]) -> None:
    """Return the memory of retired models once the last request has let go of them."""
    if not retired:
        return
    try:
        async with asyncio.timeout(_RETIRE_SECONDS):
            while any(reference() is not None for reference in retired):
                await asyncio.sleep(0.05)
    except TimeoutError:
        log.info("a request still uses the old model; its memory is returned after the next swap")
    await finish_in_thread(release_freed)
