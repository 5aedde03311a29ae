"""Answers of the database that are remembered for a moment, since each call asks for them."""

import random
import time
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
SECONDS = 3.0
MOST = 10_000


class Remembered(Generic[Key, Value]):
    """Values by key, each at most 3 s old. Who is taken off a team or a role loses it by then.

    How old exactly is drawn: what fifty people asked for at once would be too old at once, again
    and again, and whoever answers them at a standstill for as long as all of it takes.
    """

    def __init__(self, find: Callable[[Key], Value]) -> None:
        self._find = find
        self._lock = Lock()
        self._known: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value:
        """Return the value of a key, found anew where it is too old."""
        now = time.monotonic()
        known = self._known.get(key)
        if known is not None and now < known[0]:
            return known[1]
        value = self._find(key)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = now + SECONDS * random.uniform(0.5, 1.0), value
        return value

    def forget(self, key: Key) -> None:
        """Find a key's value anew at the next call."""
        with self._lock:
            self._known.pop(key, None)
