"""What becomes of what a task has under way when it is told to end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred

from model_delivery.exceptions import JobFailedError, UnknownStatusError
from model_delivery.jobs.attempt import GRACE
from model_delivery.jobs.eviction import Claim, Eviction, is_left
from model_delivery.jobs.kept_state import KeptState

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# How long a signal handler waits for all to be stopped: Airflow gives it 5 s for everything.
STOPPING_SECONDS = 3.0


class Kill:
    """The kill of one try.

    Where another try will wait for what is under way (the worker was evicted) it goes on, with all
    that was done by then; where a user ended or cleared the task, its time is over, or no other try
    follows, it is stopped. So is that of a try that fails for good.

    :param what: what is stopped, in the plural, for messages.
    :param is_final: tells whether no retry will follow on an error.
    :param stop: stops what is open and returns how many were asked; is told whether the connection
        may be looked up again, which a signal handler must not.
    """

    def __init__(
        self,
        what: str,
        state: KeptState,
        is_final: Callable[[BaseException], bool],
        stop: Callable[[bool], int],
        log: "Logger",
    ) -> None:
        self.came = False
        self._what = what
        self._state = state
        self._eviction = Eviction(state.claim, log)
        self._is_final = is_final
        self._stop = stop
        self._log = log
        self._in_hand = self._timed_out = self._settled = False
        self._left = False
        self._stopping: Thread | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surround what a kill may interrupt."""
        self._in_hand = True
        try:
            yield
        except AirflowTaskTimeout:
            self._timed_out = True
            raise
        except TaskDeferred:
            # Of a task that a user ended Airflow refuses that, and no trigger would wait or stop.
            if self.came and self._eviction.claim() is Claim.NOBODYS:
                self._settle(reopen=True)
            raise
        except Exception as error:
            if self.came:
                if self._stopping is not None:
                    self._stopping.join()
                self._settle(reopen=True)
            elif self._ends_all(error):
                self._stop_for("the task fails for good", reopen=True)
            raise
        finally:
            self._in_hand = False

    def _ends_all(self, error: Exception) -> bool:
        # Of a status we do not know we cannot say that nobody is to answer any more.
        if isinstance(error, UnknownStatusError):
            return False
        return not self._eviction.is_waited_for_after(error, final=self._is_final(error))

    def come(self) -> None:
        """Do a signal handler's part, or all of it where nothing runs any more."""
        self.came = True
        if not self._in_hand:
            self._settle(reopen=self._timed_out)
        elif self._eviction.claim() is not None:  # otherwise what runs asks again
            # Beside what the handler interrupted, which may hold a lock that calls need.
            self._stopping = Thread(target=self._settle, kwargs={"reopen": False}, daemon=True)
            self._stopping.start()
            self._stopping.join(STOPPING_SECONDS)

    def _settle(self, *, reopen: bool) -> None:
        """Decide once; a second time stops what was being started when the kill came."""
        if not self._settled:
            self._settled = True
            last = self._is_final(JobFailedError(GRACE))
            self._left = not self._timed_out and is_left(self._eviction.claim(), last=last)
            if self._left:
                self._log.warning("The %s go on: they are waited for elsewhere", self._what)
        if not self._left and self._stop_for(GRACE, reopen=reopen) and self._timed_out:
            self._state.forget_names()  # or the retry would take the stopped ones for its own

    def _stop_for(self, why: str, *, reopen: bool) -> bool:
        """Stop what is open; tell whether nothing is."""
        try:
            stopped = self._stop(reopen)
        except Exception as error:
            self._log.error("Some %s may be left: %s", self._what, error)
            return False
        if stopped:
            self._log.info("Asked to stop %d %s: %s", stopped, self._what, why)
        return True
