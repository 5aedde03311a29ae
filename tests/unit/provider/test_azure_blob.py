"""Azure Blob as Azurite is not: folders in listings, and blobs with an encoding."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.merge import delete_parts

PLACE = "abfss://container@account.dfs.core.windows.net"
PACKED = gzip.compress(b'{"a": 1}\n' * 1000)
_FACTS = {
    "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT", "ETag": '"0x1"',
    "x-ms-blob-type": "BlockBlob",
}  # fmt: skip


class Account(ThreadingHTTPServer):
    """An account with a hierarchical namespace, as its Blob endpoint shows it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = {"out", "out/_parts", "out/_parts/shard-00000"}
        self.blobs = {
            "out/_parts/shard-00000/journal-1.json": b"{}",
            "out/_parts/shard-00000/part-00000.jsonl": b"{}\n",
            "packed.jsonl.gz": PACKED,
        }


class _Handler(BaseHTTPRequestHandler):
    server: Account

    @property
    def name(self) -> str:
        return self.path.partition("?")[0].removeprefix("/account/container").removeprefix("/")

    def do_GET(self) -> None:
        if self.name:
            self._answer_blob(self.server.blobs[self.name])
        else:
            self._answer(200, self._listing().encode(), {"Content-Type": "application/xml"})

    def do_HEAD(self) -> None:
        folder = self.name in self.server.folders
        self._answer(200, b"", {**_FACTS, **({"x-ms-meta-hdi_isfolder": "true"} if folder else {})})

    def do_DELETE(self) -> None:
        if any(each.startswith(f"{self.name}/") for each in self.server.blobs):
            self._answer(409, b"", {"x-ms-error-code": "DirectoryIsNotEmpty"})
            return
        self.server.blobs.pop(self.name, None)
        self._answer(202, b"")

    def _listing(self) -> str:
        asked = parse_qs(self.path.partition("?")[2])
        told = asked.get("include") == ["metadata"]
        mark = "<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>" if told else ""
        names = sorted([*self.server.folders, *self.server.blobs])
        entries = [
            f"<Blob><Name>{name}</Name><Properties><Etag>0x1</Etag>"
            f"<Content-Length>{len(self.server.blobs.get(name, b''))}</Content-Length>"
            f"<BlobType>BlockBlob</BlobType></Properties>"
            f"{mark if name in self.server.folders else ''}</Blob>"
            for name in names
            if name.startswith(asked.get("prefix", [""])[0])
        ]
        return (
            '<?xml version="1.0"?><EnumerationResults ContainerName="container"><Blobs>'
            f"{''.join(entries)}</Blobs><NextMarker/></EnumerationResults>"
        )

    def _answer_blob(self, data: bytes) -> None:
        begin, end = 0, len(data)
        if "x-ms-range" in self.headers:
            begin, last = self.headers["x-ms-range"].removeprefix("bytes=").split("-")
            begin, end = int(begin), min(int(last) + 1, end)
        whole = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
        self._answer(206, data[begin:end], {**_FACTS, **whole, "Content-Encoding": "gzip"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with Account() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"BlobEndpoint=http://127.0.0.1:{server.server_port}/account;"
        extra = {"connection_string": f"{place}AccountName=account;AccountKey=a2V5;"}
        connection = json.dumps({"conn_type": "wasb", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_WASB_DEFAULT", connection)
        yield server
        server.shutdown()


def test_a_folder_is_no_object(account: Account) -> None:
    hook = StorageHook()
    assert [each.uri for each in hook.list(f"{PLACE}/")] == [
        f"{PLACE}/{name}" for name in sorted(account.blobs)
    ]
    assert hook.exists(f"{PLACE}/packed.jsonl.gz")
    assert not hook.exists(f"{PLACE}/out/_parts")


def test_parts_are_deleted_below_folders(account: Account) -> None:
    delete_parts(StorageHook(), f"{PLACE}/out/_parts")
    assert list(account.blobs) == ["packed.jsonl.gz"]


@pytest.mark.parametrize("start", [0, 10])
def test_a_blob_with_an_encoding_is_read_as_it_lies_there(account: Account, start: int) -> None:
    uri = f"{PLACE}/packed.jsonl.gz"
    assert StorageHook().read_bytes(uri, start, len(PACKED)) == PACKED[start:]
    assert StorageHook().read_bytes(uri) == PACKED
