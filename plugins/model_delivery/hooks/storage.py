"""One hook for objects wherever they lie: S3, Azure Blob, or files."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from airflow.sdk import BaseHook

from model_delivery.exceptions import (
    ContainerMissingError,
    InvalidRequestError,
    StorageError,
)
from model_delivery.hooks.stores import ObjectStat, Store, open_store

_BUFFER_BYTES = 1 << 20


class StorageHook(BaseHook):
    """Objects by URI: `s3://bucket/key`, `wasbs://` or `abfss://container@account/blob`, `file://`.

    The scheme picks the store and its connection.

    :param aws_conn_id: connection of `s3://`. (default: "aws_default")
    :param wasb_conn_id: connection of Azure Blob. (default: "wasb_default")
    """

    def __init__(
        self, aws_conn_id: str = "aws_default", wasb_conn_id: str = "wasb_default"
    ) -> None:
        super().__init__()
        self.aws_conn_id = aws_conn_id
        self.wasb_conn_id = wasb_conn_id
        self._stores: dict[str, Store] = {}

    def store(self, uri: str) -> Store:
        """Return the store of a URI, opened once a scheme; StorageError for an unknown scheme."""
        scheme = uri.partition("://")[0]
        if scheme not in self._stores:
            self._stores[scheme] = open_store(uri, self.aws_conn_id, self.wasb_conn_id)
        return self._stores[scheme]

    def exists(self, uri: str) -> bool:
        """Tell whether the object exists; no permission or no bucket is an error, not a no."""
        return self.store(uri).stat(uri) is not None

    def stat(self, uri: str) -> ObjectStat:
        """Return size in bytes and ETag; StorageError when there is no such object."""
        stat = self.store(uri).stat(uri)
        if stat is None:
            raise StorageError(f"{uri} does not exist: put it there, or correct the URI")
        return stat

    def missing(self, uri: str) -> str | None:
        """Say why there is no such object, or return None where there is.

        StorageError where the store does not answer, or gives no permission to know.
        """
        try:
            stat = self.store(uri).stat(uri)
        except (InvalidRequestError, ContainerMissingError) as error:
            return str(error)
        return f"{uri} does not exist" if stat is None else None

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield every object whose URI begins with the prefix, in the order of their names."""
        yield from self.store(prefix).list(prefix)

    def read(
        self, uri: str, start: int = 0, end: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream the bytes from `start` to before `end` (default: the object's end).

        :param etag: the version to read; StorageError where it is another. (default: any)
        """
        yield from self.store(uri).read(uri, start, end, etag)

    def read_bytes(self, uri: str, start: int = 0, end: int | None = None) -> bytes:
        """Return a range of an object; meant for small ones."""
        return b"".join(self.read(uri, start, end))

    def upload(self, source: Path, uri: str) -> None:
        """Put a file; the object is visible whole or not at all."""
        with source.open("rb") as file:
            self.store(uri).write(uri, file)

    def download(self, uri: str, target: Path) -> None:
        """Get an object into a file, which appears under its name when it is whole."""
        partial = target.with_name(target.name + ".part")
        try:
            with partial.open("wb") as file:
                for chunk in self.read(uri):
                    file.write(chunk)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it; the object is visible whole or not at all."""
        self.store(uri).take(path, uri)

    def local_path(self, uri: str) -> Path | None:
        """Return the object's file where the store is this machine's file system, else None."""
        return self.store(uri).local_path(uri)

    def write_stream(self, uri: str, chunks: Iterable[bytes], *, size: int | None = None) -> None:
        """Put an object from chunks, in bounded memory; it appears whole or not at all.

        :param size: about how many bytes come. (default: up to 300 GiB)
        """
        from model_delivery_engine.batch.storage import ChunkReader

        self.store(uri).write(uri, io.BufferedReader(ChunkReader(chunks), _BUFFER_BYTES), size)

    @contextlib.contextmanager
    def writing(self, uri: str) -> Iterator[Callable[[bytes], None]]:
        """Give a function to write with; the object appears when the block ends well, or never."""
        with TemporaryDirectory(prefix="model-delivery-") as folder:
            path = Path(folder) / "object"
            with path.open("wb") as file:
                yield lambda data: _write(file, data)
            self.upload(path, uri)

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Put a small object."""
        with self.writing(uri) as write:
            write(data)

    def write_if_changed(self, uri: str, chunks: Iterable[bytes]) -> int:
        """Put an object, unless it is there already, the same; return its size in bytes.

        A task that is run again then leaves its ETag as it is, which on most stores is of the time
        of writing: what was begun with it can go on.
        """
        with TemporaryDirectory(prefix="model-delivery-") as folder:
            path = Path(folder) / "object"
            with path.open("wb") as file:
                file.writelines(chunks)
            size = path.stat().st_size
            there = self.store(uri).stat(uri)
            if there is None or there.size != size or not self._holds(uri, path):
                self.upload(path, uri)
        return size

    def _holds(self, uri: str, path: Path) -> bool:
        with path.open("rb") as file:
            return all(file.read(len(chunk)) == chunk for chunk in self.read(uri))

    def copy(self, source: str, target: str) -> int:
        """Copy an object, also from one store to another; return its size in bytes.

        A target that is the same already is left as it is.
        """
        return self.write_if_changed(target, self.read(source))

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""
        self.store(uri).delete(uri)


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
