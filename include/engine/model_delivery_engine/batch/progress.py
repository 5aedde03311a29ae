"""How far a shard is, as a line every few seconds."""

import time
from collections.abc import Callable

EVERY_S = 10.0


class Progress:
    """Tells records a second, percent, time left and failed.

    :param tell: takes a line
    :param total: positions of the shard; None where they are not known (a compressed object)
    :param done: positions that a resume found done
    :param every: seconds between two lines (default: 10)
    """

    def __init__(
        self, tell: Callable[[str], None], total: int | None, done: int, every: float = EVERY_S
    ) -> None:
        self._tell = tell
        self._total = total
        self._every = every
        self._at = self._done = done
        self._records = self._failed = 0
        self._started = self._told = time.monotonic()

    def add(self, positions: int, records: int, failed: int) -> None:
        """Count a part; tell, if the last line is old enough."""
        self._at += positions
        self._records += records
        self._failed += failed
        if time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            self._tell(self.line())

    def line(self) -> str:
        """Return the line."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        text = f"{self._records} records, {self._records / seconds:.0f} records/s"
        if self._total:
            moved = self._at - self._done
            left = (self._total - self._at) * seconds / moved if moved else 0.0
            text += f", {100 * self._at / self._total:.1f} %, {left:.0f} s left"
        return f"{text}, {self._failed} failed"
