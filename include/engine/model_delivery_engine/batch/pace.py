"""How often to do what costs time, and need not be done each time."""

import contextlib
import time
from collections.abc import Iterator

_SHARE = 20  # times that it took, until it is done again: 5 % of the time at most


class Pace:
    """Something that is done as often as it can be in 5 % of the time."""

    def __init__(self) -> None:
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether to do it now."""
        return time.monotonic() >= self._next

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Do it, and see how long that takes."""
        started = time.monotonic()
        yield
        ended = time.monotonic()
        self._next = ended + _SHARE * (ended - started)
