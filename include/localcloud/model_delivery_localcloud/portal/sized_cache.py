"""A cache of so many bytes and seconds, whatever the size of one value."""

import time
from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

# What the smallest of values takes, in bytes.
_LEAST = 4096


class SizedCache(Generic[Key, Value]):
    """Values by key; where there is no room for one, those go that were longest not asked for.

    :param most_bytes: sum of the values' sizes, of which each is at least 4 KiB
    :param seconds: how long a value is good
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._kept: OrderedDict[Key, tuple[Value, int, float]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Key) -> Value | None:
        """Return a value, None where it is not there or is too old."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            value, _size, until = found
            if time.monotonic() > until:
                self._drop(key)
                return None
            self._kept.move_to_end(key)
            return value

    def put(self, key: Key, value: Value, size: int) -> None:
        """Keep a value of so many bytes; one that is larger than the whole cache is not kept."""
        size = max(size, _LEAST)
        with self._lock:
            self._drop(key)
            if size > self._most_bytes:
                return
            while self._bytes + size > self._most_bytes:
                self._drop(next(iter(self._kept)))
            self._kept[key] = value, size, time.monotonic() + self._seconds
            self._bytes += size

    def _drop(self, key: Key) -> None:
        if key in self._kept:
            _value, size, _until = self._kept.pop(key)
            self._bytes -= size
