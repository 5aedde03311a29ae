"""How patiently a service is asked that does not answer, or answers that it is busy."""

import time

# Sixteen failures in a row, with `rate.backoff` between them, are about five minutes of a service
# that is down.
MAX_FAILURES = 16
# A key that is being replaced is refused for seconds; one that is wrong shall not take minutes.
CREDENTIAL_REFUSALS = 6
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
