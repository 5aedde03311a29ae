"""Objects as files, for tests and single machines."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from model_delivery.exceptions import InvalidRequestError, StorageError, StorageRefusedError
from model_delivery.hooks.stores import CHANGED, ObjectStat

CHUNK_BYTES = 1 << 20
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class FileStore:
    """`file:///absolute/path`. The ETag is made of size and time of last change."""

    def __init__(self, _connection: str) -> None: ...

    def stat(self, uri: str) -> ObjectStat | None:
        """Return size and ETag, or None."""
        path = _path(uri)
        try:
            return _stat(path) if path.is_file() else None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # there can be none
                return None
            raise _explained(uri, error) from error

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the files below a prefix, sorted by path."""
        wanted = str(_path(prefix)) + ("/" if prefix.endswith("/") else "")
        folder = Path(wanted) if wanted.endswith("/") else Path(wanted).parent
        for path in sorted(folder.rglob("*")):
            if not str(path).startswith(wanted) or path.suffix == ".part":
                continue
            with contextlib.suppress(FileNotFoundError):  # it is gone since the folder was read
                if path.is_file():
                    yield _stat(path)

    def read(
        self, uri: str, start: int, end: int | None, etag: str | None = None
    ) -> Iterator[bytes]:
        """Stream a byte range."""
        try:
            with _path(uri).open("rb") as file:
                if etag is not None and _etag(os.fstat(file.fileno())) != etag:
                    raise StorageRefusedError(f"{uri}: {CHANGED}")
                file.seek(start)
                left = (end if end is not None else os.fstat(file.fileno()).st_size) - start
                while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise _explained(uri, error) from error

    def write(self, uri: str, file: IO[bytes], size: int | None = None) -> None:
        """Write beside the target, then rename over it."""
        target = _path(uri)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not by `tempfile`, whose files nobody else may read, whatever the umask says.
            partial = target.with_name(f"{uuid.uuid4().hex}.part")
            try:
                with partial.open("xb") as written:
                    shutil.copyfileobj(file, written, CHUNK_BYTES)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise _explained(uri, error) from error

    def take(self, path: Path, uri: str) -> None:
        """Rename a file to the target; copy one of another disk."""
        target = _path(uri)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise _explained(uri, error) from error
            with path.open("rb") as file:
                self.write(uri, file)
            path.unlink()

    def local_path(self, uri: str) -> Path | None:
        """Return the file, whether it exists or not."""
        return _path(uri)

    def delete(self, uri: str) -> None:
        """Delete a file."""
        _path(uri).unlink(missing_ok=True)


def _path(uri: str) -> Path:
    path = Path(uri.removeprefix("file://"))
    if not path.is_absolute():
        raise InvalidRequestError(f"{uri} has no absolute path: write file:///folder/name")
    return path


def _stat(path: Path) -> ObjectStat:
    stat = path.stat()
    return ObjectStat(f"file://{path}", stat.st_size, _etag(stat))


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _explained(uri: str, error: OSError) -> StorageError:
    kind = StorageRefusedError if isinstance(error, _LASTING) else StorageError
    return kind(f"{uri}: {error.strerror or error}: check the path and its permissions")
