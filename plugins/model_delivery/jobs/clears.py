"""Whether a task was cleared since it last began: a clear keeps its store, and starts anew."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """What tells a clear from a retry.

    :param max_tries: Airflow's, of the task instance.
    :param retries: the task's.
    :param clears: how often anything of the run was cleared.
    """

    max_tries: int
    retries: int
    clears: int

    @classmethod
    def of(cls, ti: Any, clears: int) -> "Seen":
        """Return what a running task sees."""
        return cls(ti.max_tries, int(ti.task.retries or 0), clears)

    @classmethod
    def read(cls, kept: Mapping[str, Any], now: "Seen") -> "Seen":
        """Return what was kept; what an older version did not keep is as it is now."""
        return cls(*(kept.get(name, value) for name, value in now._asdict().items()))

    def is_cleared_since(self, last: "Seen", *, done: bool) -> bool:
        """Tell whether the task was cleared since then.

        A clear sets `max_tries` to the tries so far and the task's `retries` of now. Only an edit
        of `retries` before it can make that the old number; then work that was done, and a clear
        of something in the run, tell as much. (A retry may follow work that was done: of a task
        that was killed before it could say so.)
        """
        if last.max_tries != self.max_tries:
            return True
        return last.retries != self.retries and done and last.clears != self.clears


def clears_of(context: Mapping[str, Any]) -> int:
    """Return how often anything of a task's run was cleared."""
    return getattr(context.get("dag_run"), "clear_number", 0) or 0
