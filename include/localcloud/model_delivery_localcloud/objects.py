"""The object store, through boto3: what the services and workers read and write."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from model_delivery_engine.batch.storage import part_bytes

from model_delivery_localcloud.errors import ObjectChanged, ObjectError, ObjectMissing
from model_delivery_localcloud.settings import Settings

log = logging.getLogger(__name__)

CHUNK = 256 * 1024
_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
_DENIED = frozenset({"403", "AccessDenied"})
_CHANGED = frozenset({"412", "PreconditionFailed"})


@dataclass(frozen=True)
class ObjectInfo:
    """Size in bytes and ETag of an object as it is now."""

    size: int
    etag: str


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of an `s3://` URI; raises ObjectError for anything else."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise ObjectError(f"{uri} is not an s3:// URI with a bucket")
    return parts.netloc, uri.removeprefix(f"s3://{parts.netloc}").lstrip("/")


class ObjectStore:
    """The S3 endpoint of the settings. Safe to share between threads.

    :param read_seconds: how long it may say nothing (default 60)
    :param attempts: how often a request is made at most (default 4)
    """

    def __init__(self, settings: Settings, *, read_seconds: float = 60, attempts: int = 4) -> None:
        self._endpoint = settings.s3_endpoint_url or "AWS S3"
        self._client = boto3.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            aws_access_key_id=settings.s3_access_key_id,
            aws_secret_access_key=settings.s3_secret_access_key,
            region_name="us-east-1" if settings.s3_endpoint_url else None,
            config=Config(
                connect_timeout=5,
                read_timeout=read_seconds,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            ),
        )

    def describe(self, uri: str) -> ObjectInfo:
        """Return an object's size and ETag; raises ObjectMissing or ObjectError."""
        answer = self._call("read", uri, "head_object")
        return ObjectInfo(answer["ContentLength"], answer["ETag"])

    def read(
        self,
        uri: str,
        *,
        etag: str | None = None,
        byte_range: tuple[int, int | None] | None = None,
    ) -> Iterator[bytes]:
        """Open an object and return its chunks.

        With `etag`, an object that has changed since raises ObjectError; `byte_range` is first
        and last byte, both included; None for the object's last. The object is opened before this
        returns.
        """
        options: dict[str, Any] = {}
        if etag is not None:
            options["IfMatch"] = etag
        if byte_range is not None:
            last = "" if byte_range[1] is None else byte_range[1]
            options["Range"] = f"bytes={byte_range[0]}-{last}"
        body = self._call("read", uri, "get_object", **options)["Body"]
        return self._chunks(uri, body)

    def list(self, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield URI, size and ETag of each object whose URI begins with `prefix`, by name."""
        bucket, key = split_uri(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        try:
            for page in pages:
                for each in page.get("Contents", []):
                    yield f"s3://{bucket}/{each['Key']}", ObjectInfo(each["Size"], each["ETag"])
        except (BotoCoreError, ClientError) as error:
            raise self._translate("list", prefix, error) from error

    def download(self, uri: str, path: Path, *, etag: str | None = None) -> None:
        """Write an object to `path`; raises ObjectMissing or ObjectError."""
        with path.open("wb") as file:
            for chunk in self.read(uri, etag=etag):
                file.write(chunk)

    def upload_if(self, path: Path, uri: str, wanted: Callable[[], bool]) -> bool:
        """Publish a complete file if it is still wanted once all of it was sent.

        Until then nothing at `uri` changes: what is there stays as it was if `wanted` says no.
        Returns what it said; what it raises leaves nothing behind either.
        """
        bucket, key = split_uri(uri)
        place = {"Bucket": bucket, "Key": key}
        place["UploadId"] = self._call("write", uri, "create_multipart_upload")["UploadId"]
        published = False
        try:
            parts: list[Any] = []
            part = part_bytes(path.stat().st_size)
            with path.open("rb") as file:
                while data := file.read(part):
                    number = len(parts) + 1
                    sent = self._client.upload_part(**place, PartNumber=number, Body=data)
                    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            if wanted():
                self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
                published = True
        except (BotoCoreError, ClientError) as error:
            raise self._translate("write", uri, error) from error
        finally:
            if not published:
                self._forget_upload(place)
        return published

    def _forget_upload(self, place: dict[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(**place)
        except (BotoCoreError, ClientError) as error:  # it costs space, and no result
            log.warning("parts of %s are left: %s", place["Key"], error)

    def upload(self, path: Path, uri: str) -> None:
        """Publish a complete file: readers see the old object or the whole new one."""
        with path.open("rb") as file:
            self.upload_stream(file, uri)

    def upload_stream(self, file: IO[bytes], uri: str, size: int | None = None) -> None:
        """Publish what a file has to read; readers never see part of it.

        :param size: about how many bytes that is (default: not known)
        """
        bucket, key = split_uri(uri)
        config = TransferConfig(use_threads=False, multipart_chunksize=part_bytes(size))
        try:
            self._client.upload_fileobj(file, bucket, key, Config=config)
        except Exception as error:
            # boto3's transfer wraps a ClientError in exceptions of its own.
            raise self._translate("write", uri, error) from error

    def put(self, uri: str, body: bytes, content_type: str) -> None:
        """Publish a short object in one request."""
        self._call("write", uri, "put_object", Body=body, ContentType=content_type)

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""
        self._call("delete", uri, "delete_object")

    def check_bucket(self, uri: str) -> None:
        """Raise ObjectMissing unless the URI's bucket exists and may be used."""
        bucket, _ = split_uri(uri)
        try:
            self._client.head_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError) as error:
            raise self._translate("open the bucket of", uri, error) from error

    def _call(self, verb: str, uri: str, operation: str, **options: Any) -> dict[str, Any]:
        bucket, key = split_uri(uri)
        if not key:
            raise ObjectMissing(f"{uri} names a bucket, not an object")
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                Bucket=bucket, Key=key, **options
            )
        except (BotoCoreError, ClientError) as error:
            raise self._translate(verb, uri, error) from error
        return answer

    def _chunks(self, uri: str, body: Any) -> Iterator[bytes]:
        try:
            yield from body.iter_chunks(CHUNK)
        except (BotoCoreError, OSError) as error:
            raise self._translate("read", uri, error) from error
        finally:
            body.close()

    def _translate(self, verb: str, uri: str, error: Exception) -> ObjectError:
        source = error if isinstance(error, ClientError) else error.__context__
        code = source.response["Error"]["Code"] if isinstance(source, ClientError) else ""
        if code in _ABSENT:
            return ObjectMissing(f"cannot {verb} {uri}: no such object or bucket")
        if code in _DENIED:
            return ObjectMissing(f"cannot {verb} {uri}: access denied; check bucket and grants")
        if code in _CHANGED:
            return ObjectChanged(f"{uri} has changed since it was registered")
        return ObjectError(f"cannot {verb} {uri} at {self._endpoint}: {error}")
