"""Objects in S3, over the amazon provider's S3Hook."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from model_delivery.exceptions import (
    ContainerMissingError,
    InvalidRequestError,
    StorageError,
    StorageRefusedError,
)
from model_delivery.hooks.stores import CHANGED, ObjectStat

CHUNK_BYTES = 1 << 20
_MISSING = {"404", "NoSuchKey", "NotFound"}
_NEXT_STEPS = {
    "NoSuchBucket": "the bucket does not exist: create it, or correct the URI",
    "NoSuchKey": "the object does not exist: put it there, or correct the URI",
    "404": "the object or its bucket does not exist: put it there, or correct the URI",
    "403": "no permission: allow the connection's key to do this",
    "AccessDenied": "no permission: allow the connection's key to do this",
    "412": CHANGED,
    "PreconditionFailed": CHANGED,
    "InvalidAccessKeyId": "the access key is unknown: correct the connection",
    "SignatureDoesNotMatch": "the secret key is wrong: correct the connection",
}

# Of a batch of images each of two lanes a core has 8 readers: as many as 16 cores have. Botocore's
# own 10 would close and open one for each read beyond.
_CONNECTIONS = 256


class S3Store:
    """`s3://bucket/key`.

    :param connection: Airflow connection of type aws.
    """

    def __init__(self, connection: str) -> None:
        self._connection = connection

    @cached_property
    def _client(self) -> Any:
        from botocore.config import Config

        hook = S3Hook(aws_conn_id=self._connection)
        config = Config(max_pool_connections=_CONNECTIONS).merge(hook.config)
        return hook.get_client_type(region_name=hook.region_name, config=config)

    def stat(self, uri: str) -> ObjectStat | None:
        """Return size and ETag, or None for a missing object of an existing bucket."""
        bucket, key = split(uri)
        try:
            head = self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING and self._bucket_exists(uri, bucket):
                return None
            raise self._explained(uri, error) from error
        except BotoCoreError as error:
            raise self._explained(uri, error) from error
        return ObjectStat(uri, int(head["ContentLength"]), head["ETag"])

    def _bucket_exists(self, uri: str, bucket: str) -> bool:
        # HEAD has no body, so it cannot tell a missing bucket from a missing object.
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchBucket"}:
                raise ContainerMissingError(f"{uri}: {_NEXT_STEPS['NoSuchBucket']}") from error
            raise self._explained(uri, error) from error
        return True

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the objects below a prefix."""
        bucket, _, key = prefix.removeprefix("s3://").partition("/")
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        try:
            for page in pages:
                for each in page.get("Contents", []):
                    yield ObjectStat(f"s3://{bucket}/{each['Key']}", each["Size"], each["ETag"])
        except (ClientError, BotoCoreError) as error:
            raise self._explained(prefix, error) from error

    def read(
        self, uri: str, start: int, end: int | None, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream a byte range."""
        if end is not None and end <= start:
            return
        bucket, key = split(uri)
        wanted = {}
        if start or end is not None:
            wanted["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if etag is not None:
            wanted["IfMatch"] = etag
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key, **wanted)
            yield from answer["Body"].iter_chunks(CHUNK_BYTES)
        except (ClientError, BotoCoreError) as error:
            raise self._explained(uri, error) from error

    def write(self, uri: str, file: IO[bytes], size: int | None = None) -> None:
        """Put an object; a large one in parts, which S3 shows only when they are complete."""
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig
        from model_delivery_engine.batch.storage import part_bytes

        bucket, key = split(uri)
        config = TransferConfig(multipart_chunksize=part_bytes(size), max_concurrency=4)
        try:
            self._client.upload_fileobj(file, bucket, key, Config=config)
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            raise self._explained(uri, error) from error

    def take(self, path: Path, uri: str) -> None:
        """Put a file and remove it."""
        with path.open("rb") as file:
            self.write(uri, file)
        path.unlink()

    def local_path(self, uri: str) -> Path | None:
        """Return None: objects are no files here."""

    def delete(self, uri: str) -> None:
        """Delete an object."""
        bucket, key = split(uri)
        try:
            self._client.delete_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise self._explained(uri, error) from error

    def _explained(self, uri: str, error: Exception) -> StorageError | InvalidRequestError:
        if isinstance(error, ParamValidationError):
            return InvalidRequestError(f"{uri} can be no object's URI: {error}")
        # botocore's own errors have a response too, of None where there was none.
        code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code")
        kind = StorageRefusedError if code in _NEXT_STEPS else StorageError
        if code is None:
            step = f"no answer ({error}): check the endpoint of connection {self._connection!r}"
        else:
            step = _NEXT_STEPS.get(code, str(error))
        return kind(f"{uri}: {step} (connection {self._connection!r})")


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of an `s3://` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise InvalidRequestError(f"{uri!r} names no object: write s3://bucket/key")
    return bucket, key
