"""How patiently a service is asked that does not answer, or answers that it is busy."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from model_delivery.jobs.faults import (
    is_busy,
    is_credential_fault,
    is_passing,
    is_service_error,
    is_throttling,
)
from model_delivery.jobs.rate import backoff

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

# How long a service may be down, or too busy, before whoever waits for it gives up.
OUTAGE_SECONDS = 900.0
# Failures in a row that a service calls neither passing nor our fault.
MAX_FAILURES = 16
# A key that is being replaced is refused for seconds; one that is wrong shall not take minutes.
CREDENTIAL_REFUSALS = 6
# A connection is looked up again after so many failures in a row: its endpoint may be corrected.
REOPEN_AFTER = 3
# Right after a job was made, a service may not know it yet: believed when it says so this often.
MISSING_ANSWERS = 3
SLICE_SECONDS = 0.25


class Pause:
    """Sleeps that a signal handler can cut short.

    A flag and short sleeps rather than an event: the handler runs on the thread that sleeps, which
    may hold an event's lock at that moment.
    """

    def __init__(self) -> None:
        self.cut = False

    def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds, or until `cut` is set."""
        until = time.monotonic() + seconds
        while not self.cut and (left := until - time.monotonic()) > 0:
            time.sleep(min(SLICE_SECONDS, left))


class Failures:
    """Failures in a row of one call.

    :param outage: how long those that pass as a rule may go on, in seconds.
    :param absence: how long the service may be away, in seconds; one that asks for fewer requests
        is there. (default: as long as an outage)
    """

    def __init__(self, outage: float, absence: float | None = None) -> None:
        self.count = self._unreached = 0
        self._of_kind: Counter[int] = Counter()
        self._outage = outage
        self._absence = outage if absence is None else absence
        self._since = time.monotonic()
        self._away_since: float | None = self._since

    def ask_for_a_new_client(self, error: Exception) -> bool:
        """Count what the connection may be the reason of; tell whether to look it up again."""
        if is_busy(error) or not is_passing(error):
            self._away_since = None
        elif self._away_since is None:
            self._away_since = time.monotonic()
        if is_credential_fault(error):
            return True
        if is_throttling(error) or not is_passing(error):
            return False  # that is an answer
        self._unreached += 1
        return self._unreached % REOPEN_AFTER == 0

    def are_enough(self, most: int | None) -> bool:
        """Count one more, and tell whether it shall be the last.

        :param most: how many of its kind are enough; None of a fault that passes as a rule.
        """
        self.count += 1
        if most is not None:
            # By kind: one "not found" after two throttlings is the first of its kind.
            self._of_kind[most] += 1
            return self._of_kind[most] >= most
        now = time.monotonic()
        is_away = self._away_since is not None and now - self._away_since >= self._absence
        return is_away or now - self._since >= self._outage


def until_answered(
    ask: Callable[[], Answer],
    pause: Pause,
    *,
    most_failures: Callable[[Exception], int | None],
    outage: float,
    explained: Callable[[Exception], Exception],
    reopen: Callable[[], None],
    absence: float | None = None,
) -> Answer:
    """Ask until there is an answer, or until it fails too often.

    :param pause: sleeps between attempts; cut, the failure at hand is the last.
    :param most_failures: how many failures in a row end it, by the newest of them; None of a fault
        that passes as a rule.
    :param outage: how long such faults may go on, in seconds.
    :param absence: how long the service may be away; see `Failures`.
    :param explained: what is raised then.
    :param reopen: looks the connection up again: its key may have been replaced, or its endpoint.
    """
    failures = Failures(outage, absence)
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_service_error(error):
                raise
            if failures.ask_for_a_new_client(error):
                reopen()
            if failures.are_enough(most_failures(error)) or pause.cut:
                raise explained(error) from error
            log.warning("%s (%d in a row): asking again", error, failures.count)
            pause.sleep(backoff(failures.count))
