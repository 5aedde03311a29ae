"""Keeps Python's full garbage collections from stopping a triggerer's event loop."""

import gc
from functools import cache

from airflow.providers.common.compat.sdk import conf


@cache
def spare(what: str) -> None:
    """Take all objects that are there now out of the garbage collector's sight, once for `what`.

    A full collection walks over every object of the process while all triggers stand still: 0.2 s
    with a service's model in memory, which is there to stay. What is garbage in a cycle at this
    moment is not found any more, so this is done when something large was loaded, not regularly.

    :param what: what was loaded: the triggerer's first wait, or a hook and with it its service.
    """
    if conf.getboolean("model_delivery", "freeze_heap", fallback=True):
        gc.freeze()
