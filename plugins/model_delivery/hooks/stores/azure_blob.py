"""Objects in Azure Blob Storage, over the microsoft-azure provider's WasbHook."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from airflow.providers.microsoft.azure.hooks.wasb import WasbHook
from airflow.sdk.exceptions import AirflowNotFoundException
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
)

from model_delivery.connections import undefined_connection
from model_delivery.exceptions import (
    ContainerMissingError,
    InvalidRequestError,
    StorageError,
    StorageRefusedError,
)
from model_delivery.hooks.stores import CHANGED, ObjectStat

_NEXT_STEPS = {
    "ContainerNotFound": "the container does not exist: create it, or correct the URI",
    "BlobNotFound": "the blob does not exist: put it there, or correct the URI",
    "ConditionNotMet": CHANGED,
    "AuthenticationFailed": "the account key is wrong: correct the connection",
    "AuthorizationFailure": "no permission: allow the connection's key to do this",
}

_KINDS: dict[str, type[StorageError | InvalidRequestError]] = {
    "ContainerNotFound": ContainerMissingError,
    "InvalidResourceName": InvalidRequestError,
    "InvalidUri": InvalidRequestError,
}

# An account that does not answer is given up within seconds: Azure's own defaults wait a minute,
# and Airflow retries the task anyway. Each can be set in the connection's extra.
_PATIENCE = {"connection_timeout": 5, "retry_total": 2, "initial_backoff": 1, "increment_base": 2}
# Azure takes 50,000 blocks: of 32 MiB they hold 1.5 TiB, of the client's own 4 MiB 195 GiB.
_BLOCKS = {"max_block_size": 32 << 20}


class _WasbHook(WasbHook):
    """The connection, with our patience and size of blocks where it does not state its own."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        connection = super().get_connection(conn_id)
        connection.extra = json.dumps({**_PATIENCE, **_BLOCKS, **connection.extra_dejson})
        return connection


class AzureBlobStore:
    """`wasbs://container@account.host/blob`, `abfss://` the same, or `wasbs://container/blob`.

    The connection holds the account; what the URI says of it is kept in listings and not used.

    :param connection: Airflow connection of type wasb.
    """

    def __init__(self, connection: str) -> None:
        self._connection = connection

    @cached_property
    def _service(self) -> Any:
        try:
            return _WasbHook(wasb_conn_id=self._connection).get_conn()
        except AirflowNotFoundException as error:
            raise undefined_connection(self._connection, "Azure Blob Storage") from error

    def _blob(self, uri: str) -> Any:
        _prefix, container, blob = split(uri)
        if not blob:
            raise InvalidRequestError(
                f"{uri!r} names no blob: write wasbs://container@account/blob"
            )
        return self._service.get_blob_client(container, blob)

    def stat(self, uri: str) -> ObjectStat | None:
        """Return size and ETag, or None for a missing blob of an existing container."""
        try:
            properties = self._blob(uri).get_blob_properties()
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == "ContainerNotFound":
                raise self._explained(uri, error) from error
            return None
        except AzureError as error:
            raise self._explained(uri, error) from error
        if _is_folder(properties):
            return None
        return ObjectStat(uri, int(properties.size), _etag(properties))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the blobs below a prefix; of an account with a hierarchical namespace no folder."""
        base, container, blob = split(prefix)
        try:
            client = self._service.get_container_client(container)
            for each in client.list_blobs(name_starts_with=blob, include=["metadata"]):
                if not _is_folder(each):
                    yield ObjectStat(f"{base}/{each.name}", int(each.size), _etag(each))
        except AzureError as error:
            raise self._explained(prefix, error) from error

    def read(
        self, uri: str, start: int, end: int | None, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream a byte range."""
        if end is not None and end <= start:
            return
        length = None if end is None else end - start
        # Azure refuses a range of an empty blob; without an offset it answers with nothing.
        wanted: dict[str, Any] = {"offset": start, "length": length} if start or length else {}
        wanted["decompress"] = False  # else a blob with a Content-Encoding comes as other bytes
        if etag is not None:
            wanted |= {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified}
        try:
            yield from self._blob(uri).download_blob(**wanted).chunks()
        except AzureError as error:
            raise self._explained(uri, error) from error

    def write(self, uri: str, file: IO[bytes], size: int | None = None) -> None:
        """Put a blob; its blocks become visible together."""
        try:
            self._blob(uri).upload_blob(file, overwrite=True)
        except AzureError as error:
            raise self._explained(uri, error) from error

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it."""
        with path.open("rb") as file:
            self.write(uri, file)
        path.unlink()

    def local_path(self, uri: str) -> Path | None:
        """Return None: objects are no files here."""

    def delete(self, uri: str) -> None:
        """Delete a blob."""
        try:
            self._blob(uri).delete_blob()
        except ResourceNotFoundError:
            return
        except AzureError as error:
            raise self._explained(uri, error) from error

    def _explained(self, uri: str, error: AzureError) -> StorageError | InvalidRequestError:
        code = getattr(error, "error_code", None)
        code = str(getattr(code, "value", code))  # an enumeration's member, or text
        if isinstance(error, ServiceRequestError):
            step = f"no answer ({error}): check the account's address"
        elif isinstance(error, HttpResponseError):
            step = _NEXT_STEPS.get(code, error.reason or str(error))
        else:
            step = str(error)
        kind = _KINDS.get(code, StorageRefusedError if code in _NEXT_STEPS else StorageError)
        return kind(f"{uri}: {step} (connection {self._connection!r})")


def _is_folder(properties: Any) -> bool:
    """Whether this is no blob, but a folder that an account of Data Lake Storage shows as one."""
    metadata: dict[str, str] = properties.metadata or {}
    return any(
        name.lower() == "hdi_isfolder" and value == "true" for name, value in metadata.items()
    )


def _etag(properties: Any) -> str:
    return str(properties.etag).strip('"')  # a listing has it bare, an answer's header quoted


def split(uri: str) -> tuple[str, str, str]:
    """Return (URI without the blob, container, blob) of an Azure URI."""
    scheme, _, rest = uri.partition("://")
    authority, _, blob = rest.partition("/")
    container = authority.partition("@")[0]
    if not container:
        raise InvalidRequestError(
            f"{uri!r} names no container: write {scheme}://container@account/blob"
        )
    return f"{scheme}://{authority}", container, blob
