"""Many calls of a worker at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
CALLS_AT_A_TIME = 8
_QUEUED = 64


def each_at_once(work: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """Yield what comes of each, in order, with several under way; the first error ends it all."""
    with ThreadPoolExecutor(CALLS_AT_A_TIME, thread_name_prefix="human-loops") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for each in given:
                waiting.append(pool.submit(work, each))
                if len(waiting) >= _QUEUED:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
