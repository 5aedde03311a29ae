"""Folders that jobs work in: each is its worker's, and goes with the job or with the worker.

A job's child process has its temporary files there as well, so nothing of a job lies elsewhere on
the worker's disk. A worker holds a lock on each of its folders, which the kernel takes from it
however it ends: what is not locked has no owner, and the next worker that starts removes it.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_delivery_engine.disk import remove_tree

log = logging.getLogger(__name__)

PREFIX = "localcloud-work-"
TEMPORARY = "_tmp"
_REMOVALS = 3


@contextmanager
def job_folder() -> Iterator[Path]:
    """Make a folder for one job, with one for temporary files in it, and remove it after."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # a worker that started meanwhile may have taken it for nobody's
            break
        os.close(lock)
    try:
        (folder / TEMPORARY).mkdir()
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def sweep_folders() -> None:
    """Remove the folders whose worker was killed."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its worker is at work
            continue
        else:
            log.info("removing %s, left by a worker that was killed", folder)
            _remove(folder)
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    # What was killed may still be about to write: what it leaves is removed at the next round.
    for _ in range(_REMOVALS):
        try:
            remove_tree(folder)
        except OSError as error:
            failed = error
        else:
            return
    log.warning("%s cannot be removed (%s); the next worker tries again", folder, failed)
