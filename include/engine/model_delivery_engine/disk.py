"""This machine's disk: a full one is said to be full, and whatever was written can be removed."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
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


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, however deep; nothing where it is not there.

    Whoever wrote it may have gone deeper than a path of the system, or Python's stack, reaches: so
    what lies in a folder is moved beside it before it is removed, and no path has more than one
    part. Links are removed, never followed.

    :raises OSError: something cannot be removed
    """
    try:
        base = _opened(str(folder))
    except FileNotFoundError:
        return
    token, moved = secrets.token_hex(8), 0
    try:
        while names := os.listdir(base):
            for name in names:
                if not _is_folder(base, name):
                    os.unlink(name, dir_fd=base)
                    continue
                inside = _opened(name, base)
                try:
                    for entry in os.listdir(inside):
                        if not _is_folder(inside, entry):
                            os.unlink(entry, dir_fd=inside)
                            continue
                        moved += 1
                        os.chmod(entry, stat.S_IRWXU, dir_fd=inside)  # moving it writes into it
                        os.rename(entry, f"{token}{moved}", src_dir_fd=inside, dst_dir_fd=base)
                finally:
                    os.close(inside)
                os.rmdir(name, dir_fd=base)
    finally:
        os.close(base)
    folder.rmdir()


def _opened(name: str, place: int | None = None) -> int:
    if stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
        os.chmod(name, stat.S_IRWXU, dir_fd=place)  # its writer may have shut it
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)


def _is_folder(place: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)


def _full(folder: Path, what: str) -> DiskFullError:
    return DiskFullError(
        f"{folder}: no space left on the disk for {what}; free some, or set TMPDIR to another disk"
    )
