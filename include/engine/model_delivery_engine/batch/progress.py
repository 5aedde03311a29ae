"""How far a shard is, as a line every few seconds."""

import time
from collections.abc import Callable

EVERY_S = 10.0


class Progress:
    """Tells a shard's records and those that failed, and this run's records a second and time left.

    :param tell: takes a line
    :param share: returns how much of the shard is done, 0 to 1
    :param records: those that a resume found done
    :param failed: of these
    :param every: seconds between two lines (default: 10)
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        share: Callable[[], float],
        records: int,
        failed: int,
        every: float = EVERY_S,
    ) -> None:
        self._tell = tell
        self._share = share
        self._every = every
        self.records = self._found = records
        self.failed = failed
        self._begun = share()
        self._started = self._told = time.monotonic()

    def add(self, records: int, failed: int) -> None:
        """Count what is new, or less what is run again; tell, if the last line is old enough."""
        self.records += records
        self.failed += failed
        if time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            self._tell(self.line())

    def line(self) -> str:
        """Return the line."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate, share = (self.records - self._found) / seconds, self._share()
        moved = share - self._begun
        left = f"{(1 - share) * seconds / moved:.0f} s left, " if moved else ""  # no part is done
        return (
            f"{self.records} records, {rate:.0f} records/s, {100 * share:.1f} %, {left}"
            f"{self.failed} failed"
        )
