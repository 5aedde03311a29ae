"""What stores make of files, of large objects, and of errors that nobody need meet twice."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from model_delivery.exceptions import StorageError
from model_delivery.hooks.storage import StorageHook
from model_delivery.hooks.stores.azure_blob import AzureBlobStore
from model_delivery.hooks.stores.s3 import S3Store
from model_delivery_engine.batch.storage import read_bytes

MOST_PARTS, MOST_BLOCKS = 10_000, 50_000  # as the stores have it
_AZURE = "wasb://account:a2V5@account.blob.core.windows.net"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_a_file_has_the_mode_that_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        StorageHook().write_stream(f"file://{tmp_path}/out/results.jsonl", [b"{}\n"])
    finally:
        os.umask(before)
    (file,) = (tmp_path / "out").iterdir()
    assert file.stat().st_mode & 0o777 == mode


class S3Client:
    """Takes uploads, and answers reads with an error."""

    def __init__(self, code: str = "") -> None:
        self.code, self.reads = code, 0
        self.part_bytes = 0

    def upload_fileobj(self, _file: Any, _bucket: str, _key: str, Config: Any) -> None:
        self.part_bytes = Config.multipart_chunksize

    def get_object(self, **_request: Any) -> Iterator[bytes]:
        self.reads += 1
        raise ClientError({"Error": {"Code": self.code, "Message": "by the test"}}, "GetObject")


@pytest.mark.parametrize("size", [None, 0, 10 << 20, 400_000_000_000, 4 << 40])
def test_s3_has_parts_enough_for_what_comes(
    monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    client = S3Client()
    monkeypatch.setattr(S3Store, "_client", client)
    StorageHook().write_stream("s3://bucket/results.jsonl", [b"{}\n"], size=size)
    assert client.part_bytes * MOST_PARTS >= 1.2 * (size or 0)
    assert size is None or size > 1 << 38 or client.part_bytes == 32 << 20


@pytest.mark.parametrize(("said", "expected"), [("", 256), ("max_pool_connections", 300)])
def test_s3_has_connections_for_all_readers(
    monkeypatch: pytest.MonkeyPatch, said: str, expected: int
) -> None:
    config = {said: expected} if said else {}
    connection = {
        "conn_type": "aws", "login": "key", "password": "secret",
        "extra": {"region_name": "eu-west-1", "config_kwargs": config},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    assert S3Store("aws_default")._client.meta.config.max_pool_connections == expected


def test_azure_has_blocks_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WASB_DEFAULT", _AZURE)
    store = AzureBlobStore("wasb_default")
    assert store._service._config.max_block_size * MOST_BLOCKS > 1 << 40


@pytest.mark.parametrize(
    ("code", "tries"),
    [("PreconditionFailed", 1), ("NoSuchKey", 1), ("AccessDenied", 1), ("SlowDown", 4)],
)
def test_what_no_second_try_mends_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, code: str, tries: int
) -> None:
    client = S3Client(code)
    monkeypatch.setattr(S3Store, "_client", client)
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    with pytest.raises(StorageError, match="s3://bucket/in"):
        read_bytes(StorageHook(), "s3://bucket/in", 0, 10)
    assert client.reads == tries


def test_a_file_that_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    (tmp_path / "in").write_bytes(b"0123456789")
    for uri in (f"file://{tmp_path}/in", f"file://{tmp_path}/none"):
        with pytest.raises(StorageError):
            read_bytes(StorageHook(), uri, etag="another")
    assert paused == []
