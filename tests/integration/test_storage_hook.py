"""One contract for every store: files, a real S3 (SeaweedFS) and a real Azure Blob (Azurite)."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
from model_delivery.exceptions import InvalidRequestError, StorageError
from model_delivery.hooks.storage import StorageHook

STORES = ["file", "s3", "azure"]
REMOTE = ["s3", "azure"]
LARGE_BYTES = 9 * 1024 * 1024 + 17
ANSWER_SECONDS = 20


@pytest.fixture
def hook(connections: None) -> StorageHook:
    return StorageHook()


@pytest.fixture(params=STORES)
def prefix(request: pytest.FixtureRequest, prefixes: dict[str, str]) -> str:
    return prefixes[request.param]


def uris(hook: StorageHook, prefix: str) -> list[str]:
    return [stat.uri for stat in hook.list(prefix + "/")]


def test_what_was_written_is_there_with_its_size(hook: StorageHook, prefix: str) -> None:
    uri = f"{prefix}/folder/data.jsonl"
    assert not hook.exists(uri)
    hook.write_bytes(uri, b"0123456789")
    assert hook.exists(uri)
    stat = hook.stat(uri)
    assert (stat.uri, stat.size) == (uri, 10)
    assert stat.etag


def test_the_etag_changes_with_the_content_and_only_then(hook: StorageHook, prefix: str) -> None:
    uri = f"{prefix}/data"
    hook.write_bytes(uri, b"one")
    first = hook.stat(uri).etag
    assert hook.stat(uri).etag == first
    hook.write_bytes(uri, b"two")
    assert hook.stat(uri).etag != first
    assert hook.read_bytes(uri) == b"two"


def test_the_version_asked_for_is_read_or_none(hook: StorageHook, prefix: str) -> None:
    uri = f"{prefix}/data"
    hook.write_bytes(uri, b"0123456789")
    etag = hook.stat(uri).etag
    assert [each.etag for each in hook.list(uri)] == [etag]
    assert b"".join(hook.read(uri, etag=etag)) == b"0123456789"
    assert b"".join(hook.read(uri, 3, 7, etag=etag)) == b"3456"
    time.sleep(0.01)
    hook.write_bytes(uri, b"9876543210")
    for start, end in ((0, None), (3, 7)):
        with pytest.raises(StorageError, match="is another now than when the job began"):
            list(hook.read(uri, start, end, etag=etag))


def test_what_is_missing_is_told_from_what_is_there(hook: StorageHook, prefix: str) -> None:
    hook.write_bytes(f"{prefix}/there", b"x")
    assert hook.missing(f"{prefix}/there") is None
    assert hook.missing(f"{prefix}/none") == f"{prefix}/none does not exist"
    assert hook.missing(f"{prefix}/{'n' * 300}") is not None
    for uri in ("ftp://host/x", "no URI", "s3://bucket", "file://relative/path"):
        assert hook.missing(uri) is not None


def test_files_that_go_while_they_are_listed_are_left_out(tmp_path: Path) -> None:
    hook = StorageHook()
    for name in "abc":
        hook.write_bytes(f"file://{tmp_path}/{name}", b"x")
    listed = hook.list(f"file://{tmp_path}/")
    first = next(listed)
    (tmp_path / "b").unlink()
    assert [each.uri[-1] for each in (first, *listed)] == ["a", "c"]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"), (0, 10, b"0123456789"), (0, 1, b"0"), (3, 7, b"3456"),
        (9, 10, b"9"), (4, None, b"456789"), (4, 4, b""), (0, 0, b""), (8, 100, b"89"),
    ],
)  # fmt: skip
def test_a_range_is_what_lies_from_start_to_before_end(
    hook: StorageHook, prefix: str, start: int, end: int | None, expected: bytes
) -> None:
    hook.write_bytes(f"{prefix}/digits", b"0123456789")
    assert hook.read_bytes(f"{prefix}/digits", start, end) == expected


def test_an_empty_object_is_an_object(hook: StorageHook, prefix: str, tmp_path: Path) -> None:
    uri = f"{prefix}/empty"
    hook.write_bytes(uri, b"")
    assert hook.stat(uri).size == 0
    assert hook.read_bytes(uri) == b""
    hook.download(uri, tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_listing_holds_what_begins_with_the_prefix_sorted(hook: StorageHook, prefix: str) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.jsonl", "other"):
        hook.write_bytes(f"{prefix}/{name}", name.encode())
    expected = [f"{prefix}/{name}" for name in ("a.jsonl", "b.jsonl", "deep/er/c.jsonl", "other")]
    assert uris(hook, prefix) == expected
    assert [s.uri for s in hook.list(f"{prefix}/a")] == expected[:1]
    assert [s.uri for s in hook.list(f"{prefix}/deep/")] == expected[2:3]
    sizes = [stat.size for stat in hook.list(prefix + "/")]
    assert sizes == [7, 7, 15, 5]
    assert list(hook.list(f"{prefix}/nothing/here/")) == []


def test_a_listing_and_a_stat_agree(hook: StorageHook, prefix: str) -> None:
    hook.write_bytes(f"{prefix}/data", b"12345")
    (listed,) = hook.list(prefix + "/")
    assert listed.etag.strip('"') == hook.stat(f"{prefix}/data").etag.strip('"')


def test_names_with_blanks_and_letters_of_other_scripts(hook: StorageHook, prefix: str) -> None:
    uri = f"{prefix}/run 1+2/größe-模型 %41.jsonl"
    hook.write_bytes(uri, b"x")
    assert hook.read_bytes(uri) == b"x"
    assert uris(hook, prefix) == [uri]


def test_a_large_file_goes_up_and_comes_down_whole(
    hook: StorageHook, prefix: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    source.write_bytes(os.urandom(LARGE_BYTES))
    uri = f"{prefix}/large.bin"
    hook.upload(source, uri)
    assert hook.stat(uri).size == LARGE_BYTES
    hook.download(uri, target)
    assert target.read_bytes() == source.read_bytes()
    across = 8 * 1024 * 1024
    wanted = source.read_bytes()[across - 5 : across + 5]
    assert hook.read_bytes(uri, across - 5, across + 5) == wanted


def test_a_large_object_is_streamed_in_pieces(hook: StorageHook, prefix: str) -> None:
    hook.write_bytes(f"{prefix}/large", bytes(LARGE_BYTES))
    pieces = [len(piece) for piece in hook.read(f"{prefix}/large")]
    assert sum(pieces) == LARGE_BYTES
    assert len(pieces) > 1


@pytest.mark.parametrize("size", [5, LARGE_BYTES])
def test_an_exception_while_writing_leaves_nothing(
    hook: StorageHook, prefix: str, size: int
) -> None:
    def broken() -> None:
        with hook.writing(f"{prefix}/half") as write:
            write(bytes(size))
            raise RuntimeError("the shard broke")

    with pytest.raises(RuntimeError, match="the shard broke"):
        broken()
    assert not hook.exists(f"{prefix}/half")
    assert uris(hook, prefix) == []


def test_an_exception_while_replacing_leaves_the_old_object(hook: StorageHook, prefix: str) -> None:
    hook.write_bytes(f"{prefix}/kept", b"old")

    def broken() -> None:
        with hook.writing(f"{prefix}/kept") as write:
            write(b"new")
            raise RuntimeError("the shard broke")

    with pytest.raises(RuntimeError):
        broken()
    assert hook.read_bytes(f"{prefix}/kept") == b"old"


class FailingFile:
    """A file whose disk breaks after the first parts of a multipart upload went out."""

    def __init__(self, good_bytes: int) -> None:
        self._left = good_bytes

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise OSError(5, "Input/output error")
        given = min(self._left, size if size and size > 0 else self._left)
        self._left -= given
        return bytes(given)


def test_an_upload_that_breaks_half_way_leaves_nothing(hook: StorageHook, prefix: str) -> None:
    uri = f"{prefix}/half"
    with pytest.raises((StorageError, OSError)):
        hook.store(uri).write(uri, FailingFile(2 * LARGE_BYTES))
    assert not hook.exists(uri)
    assert uris(hook, prefix) == []
    folder = Path(prefix.removeprefix("file://"))
    assert not folder.is_absolute() or list(folder.iterdir()) == []


def test_deleting_is_idempotent(hook: StorageHook, prefix: str) -> None:
    hook.write_bytes(f"{prefix}/data", b"x")
    hook.delete(f"{prefix}/data")
    assert not hook.exists(f"{prefix}/data")
    hook.delete(f"{prefix}/data")


@pytest.mark.parametrize(("source", "target"), list(itertools.product(STORES, STORES)))
def test_an_object_is_copied_between_any_two_stores(
    hook: StorageHook, prefixes: dict[str, str], source: str, target: str
) -> None:
    data = os.urandom(3 * 1024 * 1024 + 1)
    hook.write_bytes(f"{prefixes[source]}/from", data)
    copied = hook.copy(f"{prefixes[source]}/from", f"{prefixes[target]}/to")
    assert copied == len(data)
    assert hook.read_bytes(f"{prefixes[target]}/to") == data


def test_what_is_written_again_the_same_keeps_its_etag(hook: StorageHook, prefix: str) -> None:
    data = os.urandom(2 * 1024 * 1024 + 1)
    hook.write_bytes(f"{prefix}/from", data)
    assert hook.copy(f"{prefix}/from", f"{prefix}/to") == len(data)
    before = hook.stat(f"{prefix}/to")
    time.sleep(0.02)
    assert hook.copy(f"{prefix}/from", f"{prefix}/to") == len(data)
    assert hook.write_if_changed(f"{prefix}/to", [data[:9], data[9:]]) == len(data)
    assert hook.stat(f"{prefix}/to") == before
    other = data[:-1] + bytes([data[-1] ^ 1])
    hook.write_if_changed(f"{prefix}/to", [other])
    assert hook.read_bytes(f"{prefix}/to") == other


def test_a_missing_object_is_named(hook: StorageHook, prefix: str, tmp_path: Path) -> None:
    uri = f"{prefix}/not-there"
    for use in (hook.stat, hook.read_bytes, lambda uri: hook.download(uri, tmp_path / "target")):
        with pytest.raises(StorageError, match="not-there"):
            use(uri)
    with pytest.raises(StorageError, match="not-there"):
        hook.copy(uri, f"{prefix}/copy")
    assert uris(hook, prefix) == []
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


MISSING = {
    "s3": "s3://no-such-bucket/data",
    "azure": "wasbs://no-such-container@modeldelivery/data",
}
USES = {
    "exists": lambda hook, uri: hook.exists(uri),
    "list": lambda hook, uri: list(hook.list(uri)),
    "read": lambda hook, uri: hook.read_bytes(uri),
    "write": lambda hook, uri: hook.write_bytes(uri, b"x"),
    "write large": lambda hook, uri: hook.write_bytes(uri, bytes(LARGE_BYTES)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("store", REMOTE)
def test_a_missing_bucket_is_an_error_and_never_a_no(
    hook: StorageHook, store: str, use: str
) -> None:
    with pytest.raises(StorageError, match=r"does not exist") as caught:
        USES[use](hook, MISSING[store])
    assert MISSING[store] in str(caught.value)
    assert ("bucket" if store == "s3" else "container") in str(caught.value)


FAULTS = [
    ("s3", "aws_wrong_key", "secret key is wrong|no permission"),
    ("s3", "aws_unknown_key", "access key is unknown|no permission"),
    ("azure", "wasb_wrong_key", "account key is wrong|no permission"),
    ("s3", "aws_dead", "no answer"),
    ("azure", "wasb_dead", "no answer"),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("store", "connection", "says"), FAULTS, ids=[each[1] for each in FAULTS])
def test_a_fault_of_the_connection_names_object_connection_and_next_step_soon(
    prefixes: dict[str, str], store: str, connection: str, says: str, use: str
) -> None:
    hook = StorageHook(connection, connection)
    uri = f"{prefixes[store]}/data"
    started = time.monotonic()
    with pytest.raises(StorageError, match=says) as caught:
        USES[use](hook, uri)
    assert time.monotonic() - started < ANSWER_SECONDS
    message = str(caught.value)
    assert uri in message
    assert connection in message


def test_no_error_shows_a_secret(prefixes: dict[str, str], s3: Any, azure: Any) -> None:
    for store, connection, _says in FAULTS[:3]:
        with pytest.raises(StorageError) as caught:
            StorageHook(connection, connection).stat(f"{prefixes[store]}/data")
        for secret in ("not-the-secret", s3.credentials.aws_secret_access_key, azure.account_key):
            assert secret not in str(caught.value)


@pytest.mark.parametrize("uri", ["gs://bucket/key", "ftp://host/file", "/tmp/file", "s3:/b/k", ""])
def test_an_unknown_scheme_is_named_with_the_known_ones(hook: StorageHook, uri: str) -> None:
    with pytest.raises(InvalidRequestError, match="s3://") as caught:
        hook.exists(uri)
    assert repr(uri) in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3://bucket", "s3://bucket/", "wasbs://c@account", "wasbs://c@account/", "wasbs:///x"]
)
def test_an_uri_that_names_no_object_is_refused_before_any_call(
    hook: StorageHook, uri: str
) -> None:
    with pytest.raises(InvalidRequestError, match="names no"):
        hook.stat(uri)


def test_a_file_needs_an_absolute_path(hook: StorageHook) -> None:
    with pytest.raises(InvalidRequestError, match="absolute path"):
        hook.exists("file://relative/name")


def test_a_file_where_a_folder_must_be_is_named(hook: StorageHook, prefixes: Any) -> None:
    hook.write_bytes(f"{prefixes['file']}/data", b"x")
    with pytest.raises(StorageError, match="check the path") as caught:
        hook.write_bytes(f"{prefixes['file']}/data/below", b"x")
    assert f"{prefixes['file']}/data/below" in str(caught.value)
