"""What becomes of open human loops when the task that waits for them is told to end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowTaskTimeout

from model_delivery.human_loops.state import LoopState
from model_delivery.jobs.eviction import Eviction, is_left

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


class LoopKill:
    """The kill of one try.

    Where another try will wait for the loops (the worker was evicted) they go on, with what their
    reviewers have done; where a user ended or cleared the task, its time is over, or no other try
    follows, they are stopped.

    :param is_last: tells whether no other try would follow.
    :param stop: stops what is open and returns how many were asked; is told whether the connection
        may be looked up again, which a signal handler must not.
    """

    def __init__(
        self,
        state: LoopState,
        is_last: Callable[[], bool],
        stop: Callable[[bool], int],
        log: "Logger",
    ) -> None:
        self.came = False
        self._eviction = Eviction(state.claim, log)
        self._is_last = is_last
        self._stop = stop
        self._log = log
        self._in_hand = self._timed_out = self._settled = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surround what a kill may interrupt."""
        self._in_hand = True
        try:
            yield
        except AirflowTaskTimeout:
            self._timed_out = True
            raise
        except Exception:
            if self.came:
                self._settle(reopen=True)
            raise
        finally:
            self._in_hand = False

    def come(self) -> None:
        """Do a signal handler's part, or all of it where nothing runs any more."""
        self.came = True
        if self._in_hand and self._eviction.claim() is None:
            return  # what runs asks again
        self._settle(reopen=self._timed_out)

    def _settle(self, *, reopen: bool) -> None:
        if self._settled:
            return
        self._settled = True
        if not self._timed_out and is_left(self._eviction.claim(), last=self._is_last()):
            self._log.warning("The human loops go on: another try waits for them")
            return
        stopped = self._stop(reopen)
        self._log.info("Asked to stop %d human loops: the task was killed", stopped)
