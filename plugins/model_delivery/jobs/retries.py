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
        self._longest_gap = 0.0
        self._ticked_at = _now()

    def tick(self) -> None:
        """Note that the process runs."""
        self._longest_gap, self._ticked_at = self.longest_gap, _now()

    @property
    def longest_gap(self) -> float:
        """The longest time between two ticks, in seconds: a process that stood still had none."""
        return max(self._longest_gap, _now() - self._ticked_at)

    def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds, or until `cut` is set."""
        until = time.monotonic() + seconds
        self.tick()
        while not self.cut and (left := until - time.monotonic()) > 0:
            time.sleep(min(SLICE_SECONDS, left))
            self.tick()


def _now() -> float:
    # Counts while the machine is suspended too, where there is such a clock.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
