"""What the batch pipeline needs of a store. The engine has none of its own: it is handed one."""

import io
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from model_delivery_engine.errors import BatchError

_PAUSES_S = (0.5, 1.0, 2.0)
_PART_BYTES = 32 << 20
_MOST_PARTS = 8_000  # S3 takes 10,000; what is said of a size may be a little less than comes


class ObjectInfo(Protocol):
    """One object: its URI, its size in bytes, and an ETag that changes with its content."""

    @property
    def uri(self) -> str: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def etag(self) -> str: ...  # noqa: D102


def part_bytes(size: int | None) -> int:
    """Return how large the parts of an upload to S3 are, in bytes: 32 MiB, or larger ones.

    :param size: about how many bytes come; None where that is not known, for up to 312 GiB
    """
    return max(_PART_BYTES, -(-(size or 0) // _MOST_PARTS))


class Storage(Protocol):
    """Objects by URI. Every method may be called from several threads at a time."""

    def stat(self, uri: str) -> ObjectInfo:
        """Return size and ETag; raises the store's own error when there is no such object."""

    def exists(self, uri: str) -> bool:
        """Tell whether the object exists."""

    def missing(self, uri: str) -> str | None:
        """Say why there is no such object, or return None where there is.

        A URI that can name none is missing too. Raises the store's own error where the store does
        not answer, or does not say.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose URI begins with the prefix, in the order of their names."""

    def read(
        self, uri: str, start: int = 0, end: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream the bytes from ``start`` to before ``end`` (default: the object's end).

        :param etag: the version to read; raises the store's own error where it is another
            (default: whichever is there)
        """

    def write_stream(self, uri: str, chunks: Iterable[bytes], *, size: int | None = None) -> None:
        """Put an object from chunks, in bounded memory; it appears whole or not at all.

        :param size: about how many bytes come, for stores that must know before that they are many
            (default: not known)
        """

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it; the object appears whole or not at all."""

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""

    def local_path(self, uri: str) -> Path | None:
        """Return the object's file where the store is this machine's file system, else None."""


class FileState(NamedTuple):
    """What the file system says of a file, so that another one under its name is noticed."""

    inode: int
    size: int
    changed_ns: int


def file_state(file: Path | int) -> FileState:
    """Return the state of a path, or of an open file by its descriptor."""
    stat = os.stat(file)
    return FileState(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def check_state(file: Path | int, expected: FileState | None, uri: str) -> None:
    """Raise a BatchError where a file is no longer in the state it was in; None: any will do."""
    if expected is not None and file_state(file) != expected:
        raise BatchError(f"{uri} changed under the job; plan and start it again")


@dataclass(frozen=True)
class Version:
    """Which version of an object a run reads. Every read is held to it, not the first alone.

    Else an object that is replaced and put back between two looks at it would leave parts of what
    was there between.

    :param file: its state where it is a file here, else None
    """

    etag: str
    file: FileState | None = None


def version_of(storage: Storage, uri: str) -> Version:
    """Return an object's version as it is now."""
    local = storage.local_path(uri)
    state = None if local is None or not local.exists() else file_state(local)
    return Version(storage.stat(uri).etag, state)  # the state first: what comes after is noticed


def read_steadily(
    storage: Storage,
    uri: str,
    start: int = 0,
    end: int | None = None,
    *,
    etag: str | None = None,
) -> Iterator[bytes]:
    """Read a range; a read that breaks off is taken up where it stopped, 3 times, with pauses.

    Not where the store's error has a true ``lasting``: then no other try would end otherwise.
    """
    for pause in (*_PAUSES_S, None):
        try:
            for chunk in storage.read(uri, start, end, etag=etag):
                start += len(chunk)
                yield chunk
        except Exception as error:  # the store's own error, whatever its type
            if pause is None or getattr(error, "lasting", False):
                raise
            time.sleep(pause)
        else:
            return


def read_bytes(
    storage: Storage,
    uri: str,
    start: int = 0,
    end: int | None = None,
    *,
    etag: str | None = None,
) -> bytes:
    """Return a range of an object; meant for small ones."""
    return b"".join(read_steadily(storage, uri, start, end, etag=etag))


class ChunkReader(io.RawIOBase):
    """Chunks as the file that a store's client reads from; it has no end to seek to."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the chunk that comes next."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
