"""Giving memory back: glibc keeps what a closed session has freed until it is told."""

import ctypes
import gc
from functools import cache
from typing import Any

_M_ARENA_MAX = -8  # <malloc.h>


@cache
def _glibc() -> Any | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def limit_arenas(count: int = 2) -> None:
    """Share malloc arenas among threads; each one keeps freed memory of its own (glibc only)."""
    if library := _glibc():
        library.mallopt(_M_ARENA_MAX, count)


def release_freed() -> None:
    """Return freed memory to the system (glibc only; elsewhere only collects garbage)."""
    gc.collect()
    if library := _glibc():
        library.malloc_trim(0)
