"""A full disk is this machine's, and said so: no archive, model or record is at fault."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from model_delivery_engine.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOTHING = 64 * 1024  # bytes that a library could not use for anything


@contextlib.contextmanager
def disk_watched(folder: Path, what: str) -> Iterator[None]:
    """Say what to do where the disk of a folder is full.

    :param what: what it has no space for
    :raises DiskFullError: no space left
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(folder, what) from error


def refuse_full(folder: Path, what: str) -> None:
    """Raise DiskFullError where nothing is left, for a library that failed and says not at what.

    :param folder: exists
    """
    if shutil.disk_usage(folder).free < _NOTHING:
        raise _full(folder, what)


def _full(folder: Path, what: str) -> DiskFullError:
    return DiskFullError(
        f"{folder}: no space left on the disk for {what}; free some, or set TMPDIR to another disk"
    )
