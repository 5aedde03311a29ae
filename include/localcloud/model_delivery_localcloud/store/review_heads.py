"""Where a queue begins for a reviewer who has had many of its first items, or all."""

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

    Nor does who has had all of them walk past them each time: that nothing was found is known until
    a loop is started or an item is given back here. What gets free elsewhere, in another server or
    as the worker ends a lease, comes up when the time is over.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Place, float]] = {}
        # By flow and reviewer: the newest loop at the time, and how long it is good.
        self._nothing: dict[str, dict[str, tuple[int, float]]] = {}
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
            self._nothing.get(flow_id, {}).pop(worker, None)

    def has_nothing(self, flow_id: str, worker: str, newest: int) -> bool:
        """Tell whether nothing is left for a reviewer.

        :param newest: id of the newest loop
        """
        known, until = self._nothing.get(flow_id, {}).get(worker, (None, 0.0))
        return known == newest and time.monotonic() < until

    def note_nothing(self, flow_id: str, worker: str, newest: int, seconds: float) -> None:
        """Remember that nothing is left, and how long the way through the queue took.

        :param newest: id of the newest loop before that
        """
        if seconds < _SHORTEST_SECONDS:
            return
        with self._lock:
            if sum(map(len, self._nothing.values())) >= _MOST:
                self._nothing.clear()
            known = self._nothing.setdefault(flow_id, {})
            known[worker] = newest, time.monotonic() + _TIMES * seconds

    def given_back(self, flow_id: str | None = None) -> None:
        """Forget for whom nothing is left, in one queue (default: in all): an item got free."""
        with self._lock:
            if flow_id is None:
                self._nothing.clear()
            else:
                self._nothing.pop(flow_id, None)
