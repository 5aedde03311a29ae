"""Temporary folders that outlive no owner for long: what a killed one left, the next one removes.

The owner holds a lock on its folder, which the kernel releases however the process ends. A process
id in the name would not do: containers share folders, and number their processes alike.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "model-delivery-task-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder, and remove it afterwards; folders whose owners are gone are removed first."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_left(path)
    folder, lock = _made()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_scratch(path: Path) -> None:
    """Remove the scratch folder that a path lies in, if it does: its owner is gone."""
    for folder in (path, *path.parents):
        if folder.name.startswith(_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)


def _made() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # of a file system without locks: nobody removes it
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # another one took it for left, before it was locked


def _remove_left(folder: Path) -> None:
    with contextlib.suppress(OSError):  # gone meanwhile, of another user, or locked by its owner
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
