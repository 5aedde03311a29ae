"""What a job waits for that is none of its own work: other jobs' turns, what is installed once.

Whoever bounds a job's time leaves that out, so each wait is told as it begins and as it ends.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path

log = logging.getLogger(__name__)

Told = Callable[[str], AbstractContextManager[object]]
_told: ContextVar[Told] = ContextVar("told", default=contextlib.nullcontext)


@contextlib.contextmanager
def telling_waits(told: Told) -> Iterator[None]:
    """Enter `told` during each wait of the block, with what is waited for."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Wait in the block; the log says for what, and how long it took."""
    log.info("waiting for %s", what)
    began = time.monotonic()
    try:
        with _told.get()(what):
            yield
    finally:
        log.info("waited %.1f s for %s", time.monotonic() - began, what)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a file, which the kernel takes back however this process ends.

    The file is its owner's alone: who may open it could hold it.

    :param path: made where it is not there, in a folder that is
    :param what: what another process that holds it is waited for
    :raises OSError: the folder cannot be written, or has no locks
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)  # earlier releases made it for everybody
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting(what):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
