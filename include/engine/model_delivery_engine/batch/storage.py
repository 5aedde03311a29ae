"""What the batch pipeline needs of a store. The engine has none of its own: it is handed one."""

import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

_PAUSES_S = (0.5, 1.0, 2.0)


class ObjectInfo(Protocol):
    """One object: its URI, its size in bytes, and an ETag that changes with its content."""

    @property
    def uri(self) -> str: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def etag(self) -> str: ...  # noqa: D102


class Storage(Protocol):
    """Objects by URI. Every method may be called from several threads at a time."""

    def stat(self, uri: str) -> ObjectInfo:
        """Return size and ETag; raises the store's own error when there is no such object."""

    def exists(self, uri: str) -> bool:
        """Tell whether the object exists."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose URI begins with the prefix, in the order of their names."""

    def read(self, uri: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Stream the bytes from ``start`` to before ``end`` (default: the object's end)."""

    def write_stream(self, uri: str, chunks: Iterable[bytes]) -> None:
        """Put an object from chunks, in bounded memory; it appears whole or not at all."""

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it; the object appears whole or not at all."""

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""

    def local_path(self, uri: str) -> Path | None:
        """Return the object's file where the store is this machine's file system, else None."""


def read_steadily(
    storage: Storage, uri: str, start: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """Read a range; a read that breaks off is taken up where it stopped, 3 times, with pauses."""
    for pause in (*_PAUSES_S, None):
        try:
            for chunk in storage.read(uri, start, end):
                start += len(chunk)
                yield chunk
        except Exception:  # the store's own error, whatever its type
            if pause is None:
                raise
            time.sleep(pause)
        else:
            return


def read_bytes(storage: Storage, uri: str, start: int = 0, end: int | None = None) -> bytes:
    """Return a range of an object; meant for small ones."""
    return b"".join(read_steadily(storage, uri, start, end))


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
