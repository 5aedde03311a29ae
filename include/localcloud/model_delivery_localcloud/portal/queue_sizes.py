"""How many items queues have, counted as often as that costs little."""

import time
from threading import Lock

from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_queue import open_loops

# A count is good for so many times what it took: of 100 ms 3 s, of 1 ms no time that is noticed.
_TIMES = 30


class QueueSizes:
    """The number of items with a free slot, by flow id; of a large queue seconds old.

    Each reviewer's page asks now and again, and counting reads the whole queue: 100,000 items take
    Postgres 0.1 s, ten times a second where fifty people answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._known: dict[str, tuple[int, float]] = {}

    def of(self, flow_id: str) -> int:
        """Return how many items a queue has."""
        with self._lock:
            number, until = self._known.get(flow_id, (None, 0.0))
            if number is not None and time.monotonic() < until:
                return number
            if number is not None:  # one counts anew, the others need not wait for it
                self._known[flow_id] = number, float("inf")
        try:
            return self._counted(flow_id)
        except BaseException:
            with self._lock:
                self._known.pop(flow_id, None)
            raise

    def _counted(self, flow_id: str) -> int:
        began = time.monotonic()
        with self._database.read() as session:
            number = open_loops(session, flow_id)
        now = time.monotonic()
        with self._lock:
            self._known[flow_id] = number, now + _TIMES * (now - began)
        return number
