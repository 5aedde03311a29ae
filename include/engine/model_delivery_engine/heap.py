"""Memory that was freed, given back to the system."""

import ctypes
import sys


def give_back() -> None:
    """Have the C library return what is free in its heap; nothing where it has no call for that.

    A session frees its weights in blocks of megabytes, which glibc keeps for itself: a process that
    starts another, or opens the next session, would still count for them.
    """
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
