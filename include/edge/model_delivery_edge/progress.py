"""One deployment's way through its states: each is on the disk before its work begins."""

from collections.abc import Callable
from dataclasses import replace

from model_delivery_edge.background import finish_in_thread
from model_delivery_edge.errors import DeploymentError
from model_delivery_edge.journal import Journal, Outcome, State
from model_delivery_edge.wire import Desired

MAX_PROBES = 3
_REASON_LENGTH = 1000


class Progress:
    """Keeps and tells the states of one deployment.

    :param journal: where they are kept
    :param desired: what is deployed
    :param tell: called with each outcome once it is kept
    """

    def __init__(self, journal: Journal, desired: Desired, tell: Callable[[Outcome], None]) -> None:
        self._journal = journal
        self._desired = desired
        self._tell = tell
        before = journal.outcome()
        if before.generation == desired.generation:  # it was interrupted, and goes on
            self._outcome = before
        else:
            self._outcome = Outcome(desired.generation, desired.deployment_id).timed()
        self._outcome = replace(self._outcome, desired=desired.to_json(), error=None)

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        deadline = self._desired.deadline_seconds
        return None if deadline is None else max(0.0, deadline - self._outcome.seconds())

    async def step(self, state: State, component: str | None = None) -> None:
        """Begin a step, of one component or of all."""
        names = [component] if component else [each.name for each in self._desired.components]
        states = {**self._outcome.components, **dict.fromkeys(names, state)}
        await self._keep(replace(self._outcome, state=state, components=states))

    async def probing(self) -> None:
        """Begin to probe.

        :raises DeploymentError: the agent has ended too often while it did
        """
        probes = self._outcome.probes
        if probes >= MAX_PROBES:
            raise DeploymentError(
                f"the agent ended {probes} times while it loaded this deployment; "
                "it will not try again: deploy another version"
            )
        self._outcome = replace(self._outcome, probes=probes + 1)
        await self.step("PROBING")

    async def end(self, state: State, reason: str | None = None) -> None:
        """End in a state; an unwritable disk is no reason not to tell it.

        :raises OSError: it is told and not kept
        """
        error = " ".join(reason.split())[:_REASON_LENGTH] if reason else None
        names = [each.name for each in self._desired.components]
        states = dict.fromkeys(names, state)
        outcome = replace(self._outcome, state=state, error=error, components=states, desired=None)
        self._outcome = outcome
        self._tell(outcome)
        # What is served may be older than what was last given up, which must stay given up.
        if self._journal.outcome().generation <= outcome.generation:
            await finish_in_thread(lambda: self._journal.record(outcome))

    async def _keep(self, outcome: Outcome) -> None:
        await finish_in_thread(lambda: self._journal.record(outcome))
        self._outcome = outcome
        self._tell(outcome)
