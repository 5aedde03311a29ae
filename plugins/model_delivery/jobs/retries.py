"""How patiently a service is asked that does not answer, or answers that it is busy."""

import random
import time

# Twelve failures in a row are about six minutes of a service that is down, with the pauses below.
MAX_FAILURES = 12
MAX_BACKOFF_SECONDS = 60.0
SLICE_SECONDS = 0.25


def backoff(failures: int) -> float:
    """Return the pause after so many failures in a row: exponential with jitter, in seconds."""
    return random.uniform(0.5, 1.0) * min(MAX_BACKOFF_SECONDS, 2.0 ** max(failures - 1, 0))


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
