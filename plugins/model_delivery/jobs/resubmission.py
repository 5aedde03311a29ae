"""How often a task instance was resubmitted on purpose, as its state store remembers it."""

from datetime import timedelta
from typing import Any, Protocol

from airflow.sdk.execution_time.context import NEVER_EXPIRE

from model_delivery.jobs.naming import resubmissions

NUMBER_KEY = "model_delivery.resubmission"


class StateStore(Protocol):
    """The part of Airflow's task state store that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was set, or the default."""

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        """Persist a JSON value."""


def resubmission(ti: Any, store: StateStore) -> int:
    """Return the number of a task instance's submission, which never falls.

    What tells a clear from a retry changes with the task's `retries` too, which somebody may edit
    between two tries.
    """
    highest = int(store.get(NUMBER_KEY) or 0)
    number = max(highest, resubmissions(ti))
    if number > highest:
        store.set(NUMBER_KEY, number, retention=NEVER_EXPIRE)
    return number
