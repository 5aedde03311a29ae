"""Whose a task is while its worker is told to end: what a kill may stop, and what it must leave."""

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from threading import Thread
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from model_delivery.jobs.task_state import ACTIVE, DEFERRED, task_state

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# How long a kill waits for Airflow's word, which the supervisor has 5 s for all of: once in the
# signal handler, and once after it.
ASKING_SECONDS = 1.5


class Claim(Enum):
    """Whose a task is while a worker that runs it is told to end."""

    OURS = "ours"
    """This try's: the worker is evicted."""
    ANOTHERS = "another's"
    """Another try's, which attaches to the job, or the triggerer's: this one has deferred."""
    NOBODYS = "nobody's"
    """A user ended or cleared it, or deleted its run."""


def claim_of(ti: Any, is_replaced: Callable[[], bool]) -> Claim:
    """Ask whose the task is, while this try still runs.

    Airflow gives another try the task of a worker that it does not hear of, and after a
    scheduler's death. That has an id of its own, and the store has nothing under this one's.

    :param is_replaced: tells whether the store has lost what this try kept.
    :raises AirflowRuntimeError: when Airflow does not tell.
    """
    state = task_state(ti)
    if state not in ACTIVE:
        return Claim.NOBODYS
    return Claim.ANOTHERS if state == DEFERRED or is_replaced() else Claim.OURS


class Eviction:
    """Asks Airflow whose the task is, beside what a signal handler interrupted.

    :param ask: asks; may raise.
    """

    def __init__(self, ask: Callable[[], Claim], log: "Logger") -> None:
        self._ask = ask
        self._log = log
        self._asking: Thread | None = None
        self._claims: list[Claim] = []

    def claim(self) -> Claim | None:
        """Ask in a thread, and wait a little; None: no answer yet.

        The thread that the handler interrupted may be talking to the supervisor: then the answer
        comes as soon as the handler has returned, and what runs finds it here.
        """
        if self._asking is None or not (self._asking.is_alive() or self._claims):
            self._asking = Thread(target=self._answer, daemon=True)
            self._asking.start()
        self._asking.join(ASKING_SECONDS)
        return self._claims[0] if self._claims else None

    def is_waited_for_after(self, error: BaseException, *, final: bool) -> bool:
        """Tell whether another try waits for what one that fails has made.

        :param final: whether Airflow lets no retry follow on the error.
        """
        final = final or isinstance(error, AirflowFailException)
        # Airflow refuses whatever a task asks for whose run is deleted.
        if not final and not isinstance(error, AirflowRuntimeError):
            return True
        # A try that Airflow has replaced without its knowing ends nothing of the other.
        claim = self.claim()
        return claim is Claim.ANOTHERS or not (final or claim is Claim.NOBODYS)

    def _answer(self) -> None:
        try:
            self._claims.append(self._ask())
        except Exception as error:
            with suppress(OSError):  # the process may be past its end, and its log closed
                self._log.warning("Airflow did not tell whose this task is: %s", error)


def is_left(claim: Claim | None, *, last: bool) -> bool:
    """Tell whether a killed try leaves what it waits for to another.

    Of a task that nobody ended the next try waits for it, if there is one: its worker was evicted,
    or Airflow did not hear of it.

    :param claim: None where Airflow does not tell.
    :param last: no other try would follow.
    """
    return claim is Claim.ANOTHERS or (claim is not Claim.NOBODYS and not last)
