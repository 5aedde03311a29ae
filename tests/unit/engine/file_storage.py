"""A store of files for the engine's tests: what the pipeline asks of one, and faults on demand."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Info:
    uri: str
    size: int
    etag: str


@dataclass
class FileStorage:
    """URIs are ``mem://<path below root>``.

    :param local: whether the engine is told where the files are
    :param read_bytes: bytes read so far, by URI
    :param failures: reads that still fail, after some bytes
    :param away: reads of URIs that hold this fail, and nobody can say what is there
    """

    root: Path
    local: bool = False
    chunk: int = 7919
    read_bytes: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    away: str = ""

    def path(self, uri: str) -> Path:
        return self.root / uri.removeprefix("mem://")

    def put(self, uri: str, data: bytes) -> str:
        self.write_stream(uri, [data])
        return uri

    def get(self, uri: str) -> bytes:
        return self.path(uri).read_bytes()

    def stat(self, uri: str) -> Info:
        stat = self.path(uri).stat()
        if self.path(uri).is_dir():
            raise IsADirectoryError(uri)
        return Info(uri, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")

    def exists(self, uri: str) -> bool:
        return self.path(uri).exists()

    def missing(self, uri: str) -> str | None:
        if self.away:
            raise ConnectionRefusedError("the store is away")
        return None if self.path(uri).is_file() else f"{uri} does not exist"

    def list(self, prefix: str) -> Iterator[Info]:
        for path in sorted(self.root.rglob("*")):
            uri = f"mem://{path.relative_to(self.root)}"
            if path.is_file() and uri.startswith(prefix):
                yield self.stat(uri)

    def read(
        self, uri: str, start: int = 0, end: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        if self.away and self.away in uri:
            raise ConnectionRefusedError("the store is away")
        with self.path(uri).open("rb") as file:
            if etag is not None and self.stat(uri).etag != etag:
                raise OSError(f"{uri} is another version")
            file.seek(start)
            left = (self.stat(uri).size if end is None else end) - start
            while left > 0 and (data := file.read(min(self.chunk, left))):
                left -= len(data)
                self.read_bytes[uri] = self.read_bytes.get(uri, 0) + len(data)
                yield data
                if self.failures:
                    self.failures -= 1
                    raise ConnectionResetError("the store hung up")

    def write_stream(self, uri: str, chunks: Iterable[bytes], *, size: int | None = None) -> None:
        path = self.path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}-{os.urandom(4).hex()}")
        with partial.open("wb") as file:
            file.writelines(chunks)
        partial.replace(path)

    def take(self, path: Path, uri: str) -> None:
        self.path(uri).parent.mkdir(parents=True, exist_ok=True)
        path.replace(self.path(uri))

    def delete(self, uri: str) -> None:
        self.path(uri).unlink(missing_ok=True)

    def local_path(self, uri: str) -> Path | None:
        return self.path(uri) if self.local else None
