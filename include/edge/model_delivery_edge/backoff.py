"""How long to wait before another try."""

import random


class Backoff:
    """Exponential with jitter and no end: each wait is drawn from half to all of its limit.

    :param first: limit of the first wait, in seconds (default: 0.5)
    :param ceiling: limit that no wait exceeds, in seconds (default: 60)
    """

    def __init__(self, first: float = 0.5, ceiling: float = 60.0) -> None:
        self._first = first
        self._ceiling = ceiling
        self._limit = first

    def next(self) -> float:
        """Return the seconds to wait now; the next wait may be twice as long."""
        limit = self._limit
        self._limit = min(limit * 2, self._ceiling)
        return limit * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again with the first wait: something worked."""
        self._limit = self._first
