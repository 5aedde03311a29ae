"""The stores behind `StorageHook`: one file each, and the registry of their URI schemes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from model_delivery.aws import import_string
from model_delivery.exceptions import InvalidRequestError


@dataclass(frozen=True)
class ObjectStat:
    """One object: its URI, its size in bytes, and an ETag that changes with its content."""

    uri: str
    size: int
    etag: str


class Store(Protocol):
    """What a store offers; every error it raises is a StorageError that names the URI."""

    def stat(self, uri: str) -> ObjectStat | None:
        """Return the object's size and ETag, or None when there is none."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the objects below a prefix, sorted by name."""

    def read(
        self, uri: str, start: int, end: int | None, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream a byte range, of the version with this ETag if one is given."""

    def write(self, uri: str, file: IO[bytes], size: int | None = None) -> None:
        """Put an object, atomically, from a stream that may have no end to seek to.

        :param size: about how many bytes come, where that is known: some stores must know before
            that they are many. (default: up to 300 GiB)
        """

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it, atomically."""

    def local_path(self, uri: str) -> Path | None:
        """Return the object's file, or None where objects are no files."""

    def delete(self, uri: str) -> None:
        """Delete an object."""


_AZURE = "model_delivery.hooks.stores.azure_blob.AzureBlobStore"
SCHEMES = {
    "s3": "model_delivery.hooks.stores.s3.S3Store",
    "wasb": _AZURE,
    "wasbs": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "file": "model_delivery.hooks.stores.file.FileStore",
}


CHANGED = "the object is another now than when the job began: plan and start it again"


def open_store(uri: str, aws_conn_id: str, wasb_conn_id: str) -> Store:
    """Return the store of a URI's scheme over its connection."""
    scheme, separator, _rest = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise InvalidRequestError(f"{uri!r} is not an object's URI: it must begin with {known}")
    connection = {"s3": aws_conn_id, "file": ""}.get(scheme, wasb_conn_id)
    store: Store = import_string(SCHEMES[scheme])(connection)
    return store
