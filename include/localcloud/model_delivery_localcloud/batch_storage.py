"""The object store as the batch engine wants it."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from model_delivery_engine.batch.storage import ChunkReader

from model_delivery_localcloud.errors import ObjectMissing
from model_delivery_localcloud.objects import ObjectStore

BUFFER = 1 << 20


@dataclass(frozen=True)
class StoredObject:
    """One object: URI, size in bytes, ETag."""

    uri: str
    size: int
    etag: str


class BatchStorage:
    """`s3://` URIs of the engine's batch over localcloud's object store; for several threads."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def stat(self, uri: str) -> StoredObject:
        """Return size and ETag; raises ObjectMissing or ObjectError."""
        found = self._objects.describe(uri)
        return StoredObject(uri, found.size, found.etag)

    def exists(self, uri: str) -> bool:
        """Tell whether the object exists."""
        try:
            self._objects.describe(uri)
        except ObjectMissing:
            return False
        return True

    def missing(self, uri: str) -> str | None:
        """Say why there is no such object, or return None where there is."""
        try:
            self._objects.describe(uri)
        except ObjectMissing as error:
            return str(error)
        return None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below a prefix, by name."""
        for uri, found in self._objects.list(prefix):
            yield StoredObject(uri, found.size, found.etag)

    def read(
        self, uri: str, start: int = 0, end: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream the bytes from `start` to before `end`; ObjectChanged for another version."""
        if end is not None and end <= start:
            return
        wanted = (start, None if end is None else end - 1) if start or end is not None else None
        yield from self._objects.read(uri, etag=etag, byte_range=wanted)

    def write_stream(self, uri: str, chunks: Iterable[bytes], *, size: int | None = None) -> None:
        """Put an object from chunks, about `size` bytes of them; it appears whole or not at all."""
        stream = io.BufferedReader(cast("io.RawIOBase", ChunkReader(chunks)), BUFFER)
        self._objects.upload_stream(stream, uri, size)

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it."""
        self._objects.upload(path, uri)
        path.unlink()

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""
        self._objects.delete(uri)

    def local_path(self, uri: str) -> Path | None:
        """Return None: objects are no files here."""
