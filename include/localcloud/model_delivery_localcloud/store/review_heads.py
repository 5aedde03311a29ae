"""Where a queue begins for a reviewer who has had many of its first items."""

import time
from threading import Lock

# Priority and id: items are taken in their order. No item comes before this one.
Place = tuple[float, int]
BEGINNING: Place = (-1.0, 0)
# A place is good for so many times what it took to find; a shorter walk is not worth remembering.
_TIMES = 30
_SHORTEST_SECONDS = 0.002
_MOST = 10_000


class Heads:
    """Where the next item of a reviewer was found, if it took long, for a while.

    An item with several slots stays in its queue after one reviewer's answer, so one who is ahead
    of the others walks past all their own for each next item: 50,000 take 0.2 to 0.5 s. What gets
    free or is started before the place comes up when its time is over, or nothing else is left.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Place, float]] = {}
        self._lock = Lock()

    def of(self, flow_id: str, worker: str) -> Place:
        """Return where to begin."""
        place, until = self._known.get((flow_id, worker), (BEGINNING, 0.0))
        return place if time.monotonic() < until else BEGINNING

    def note(self, flow_id: str, worker: str, place: Place, seconds: float) -> None:
        """Remember where the next item was, and how long the way from the beginning took."""
        if seconds < _SHORTEST_SECONDS:
            return
        with self._lock:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[flow_id, worker] = place, time.monotonic() + _TIMES * seconds

    def forget(self, flow_id: str, worker: str) -> None:
        """Begin at the beginning again."""
        with self._lock:
            self._known.pop((flow_id, worker), None)
