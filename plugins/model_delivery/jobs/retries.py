"""How patiently a service is asked that does not answer, or answers that it is busy."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from model_delivery.jobs.faults import is_credential_fault, is_service_error
from model_delivery.jobs.rate import backoff

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

# Sixteen failures in a row, with `rate.backoff` between them, are about five minutes of a service
# that is down.
MAX_FAILURES = 16
# A key that is being replaced is refused for seconds; one that is wrong shall not take minutes.
CREDENTIAL_REFUSALS = 6
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


def until_answered(
    ask: Callable[[], Answer],
    pause: Pause,
    *,
    most_failures: Callable[[Exception], int],
    explained: Callable[[Exception], Exception],
    reopen: Callable[[], None],
) -> Answer:
    """Ask until there is an answer, or until it fails too often.

    :param pause: sleeps between attempts; cut, the failure at hand is the last.
    :param most_failures: how many failures in a row end it, by the newest of them.
    :param explained: what is raised then.
    :param reopen: looks the connection up again: its key was refused, and may have been replaced.
    """
    failures = 0
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_service_error(error):
                raise
            failures += 1
            if is_credential_fault(error):
                reopen()
            most = most_failures(error)
            if failures >= most or pause.cut:
                raise explained(error) from error
            log.warning("%s (%d of %d): asking again", error, failures, most)
            pause.sleep(backoff(failures))
