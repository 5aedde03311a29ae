"""How fast a service may be asked: a token bucket, a back-off and a polling interval."""

import asyncio
import random
import time

from model_delivery.exceptions import InvalidRequestError

REQUESTS_PER_SECOND = 20.0
SLOWEST = 0.5
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
# 30 years: what is longer is no time that a date can be added to.
LONGEST_SECONDS = 1e9
# A look at a quiet group is due after this part of the time that it has been quiet.
QUIET_PART = 0.05


class TokenBucket:
    """Shares one account's request rate among all polls, first come first served.

    The rate halves when the service throttles, at most once a second, and grows again by one
    request a second each second of success.

    :param rate: requests a second at most, also the largest burst. (default: 20)
    """

    def __init__(self, rate: float = REQUESTS_PER_SECOND) -> None:
        self._most = rate
        self.rate = rate
        self._tokens = rate
        self._filled_at = self._slowed_at = time.monotonic()
        self._queue = asyncio.Lock()

    async def take(self) -> None:
        """Return when one request may be sent."""
        async with self._queue:
            self._fill()
            if self._tokens < 1:
                await asyncio.sleep((1 - self._tokens) / self.rate)
                self._fill()
            self._tokens -= 1

    def _fill(self) -> None:
        now = time.monotonic()
        gained = (now - self._filled_at) * self.rate
        self._tokens = min(max(1.0, self.rate), self._tokens + gained)
        self._filled_at = now

    def throttled(self) -> None:
        """Slow down."""
        now = time.monotonic()
        if now - self._slowed_at >= 1 or self.rate == self._most:
            self.rate = max(SLOWEST, self.rate / 2)
            self._slowed_at = now
        self._tokens = min(self._tokens, 0.0)

    def answered(self) -> None:
        """Speed up a little."""
        self.rate = min(self._most, self.rate + 1 / self.rate)


def backoff(failures: int) -> float:
    """Return the time to wait after so many failures in a row, in seconds: full jitter."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10))
    return random.uniform(0, longest)


def interval(shortest: float, longest: float, quiet: float) -> float:
    """Return the time until the next look, in seconds.

    :param shortest: the bounds, which the user sets.
    :param quiet: seconds since a job of the group last joined or ended. A job that has run for an
        hour is not looked at every two seconds: the delay stays a twentieth of the wait.
    """
    due = min(longest, max(shortest, quiet * QUIET_PART))
    # Groups that started together drift apart, within the bounds.
    return max(shortest, due * random.uniform(0.85, 1.0))


def check_intervals(**intervals: float) -> None:
    """Refuse what is no time: of waits that share a poll, one would end all."""
    for name, seconds in intervals.items():
        if not isinstance(seconds, int | float) or not 0 < seconds < LONGEST_SECONDS:
            raise InvalidRequestError(
                f"{name} is {seconds!r}: give seconds, over 0 and under {LONGEST_SECONDS:.0e}"
            )
