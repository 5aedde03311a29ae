"""Keeps Python's garbage collector from walking over what is there to stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

from airflow.providers.common.compat.sdk import conf


@cache
def spare(what: str) -> None:
    """Take all objects that are there now out of the garbage collector's sight, once for `what`.

    A full collection walks over every object of the process while all triggers stand still: 0.2 s
    with a service's model in memory, 0.3 s with ten thousand waits. What is garbage in a cycle at
    this moment is not found any more, so this is done when there is more than ever, not regularly.

    :param what: what is there now: the triggerer itself, a hook, a service's model, so many waits.
    """
    if conf.getboolean("model_delivery", "freeze_heap", fallback=True):
        gc.freeze()


# Two threads that load at once would each take the other's pause for how it was before.
_pausing = Lock()


@contextmanager
def paused() -> Iterator[None]:
    """Load something large in one go, without collections that would find nothing."""
    with _pausing:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()
