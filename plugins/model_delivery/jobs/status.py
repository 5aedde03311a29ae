"""Every status of every service, and what each means for a wait."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from model_delivery.exceptions import UnknownStatusError


class JobState(Enum):
    """What a status means for whoever waits."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self is not JobState.RUNNING


@dataclass(frozen=True)
class StatusTable:
    """All statuses of one service; one that is in no row is an error.

    :param stopping: those of the running ones that say that a stop was already asked for.
    """

    service: str
    running: Collection[str]
    succeeded: Collection[str]
    failed: Collection[str]
    stopped: Collection[str] = ()
    stopping: Collection[str] = ()

    def state(self, status: str, job: str) -> JobState:
        """Return what `status` of `job` means; raise UnknownStatusError naming both otherwise."""
        rows = {
            JobState.RUNNING: self.running,
            JobState.SUCCEEDED: self.succeeded,
            JobState.FAILED: self.failed,
            JobState.STOPPED: self.stopped,
        }
        for state, statuses in rows.items():
            if status in statuses:
                return state
        raise UnknownStatusError(
            f"{self.service} answered status {status!r} for {job}, which this version of "
            f"model-delivery does not know: look at the job in the service, then upgrade"
        )
