"""Blocking work off the event loop that is never abandoned half way."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def finish_in_thread(work: Callable[[], Result]) -> Result:
    """Run blocking work in a thread; a cancellation waits until the work has ended.

    Work that touches the disk must not still run when its successor starts.
    """
    future = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if error := future.exception():
            raise error from None
        raise
