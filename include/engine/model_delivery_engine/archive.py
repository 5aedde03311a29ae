"""Tar archives: extracted without trust, packed the same way every time."""

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from model_delivery_engine.disk import disk_watched
from model_delivery_engine.errors import ArchiveError

GIB = 1024**3
_BLOCK = 1024 * 1024
# Of a member's name: folders in one another, which whatever walks or removes them goes down, and
# bytes, which leave room for the folder around it in a path of the system.
_MOST_FOLDERS = 32
_MOST_NAME_BYTES = 1024
_SHOWN = 100  # letters of a name in a message
# tarfile turns what a header says into numbers and texts without a look, and headers of headers
# into calls of calls.
_CORRUPT = (
    EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error, ValueError, RecursionError,
)  # fmt: skip


class _BoundedReader:
    """The decompressed stream, with a limit on its whole length and on each single read.

    tarfile reads an extended header in one call of the size its author claims, so the second limit
    keeps a forged header from filling the memory.
    """

    def __init__(self, stream: gzip.GzipFile, archive: Path, max_bytes: int) -> None:
        self._stream = stream
        self._archive = archive
        self._max_bytes = max_bytes
        self._last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _BLOCK:  # below 0 it would be all that is left
            raise ArchiveError(
                f"{self._archive.name}: a member's extended header claims {size} bytes; "
                "pack it again with a standard tar"
            )
        self._last = self._stream.read(size)
        self._check()
        return self._last

    def check_end_marker(self) -> None:
        """Refuse an archive whose last block is not zeros.

        tarfile takes a header that is cut or broken for the end of the archive and says nothing.
        """
        if not self._last or self._last.strip(b"\0"):
            raise tarfile.ReadError("no end marker")

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if position > self._max_bytes:
            raise self.too_large()
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self) -> None:
        if self._stream.tell() > self._max_bytes:
            raise self.too_large()

    def too_large(self) -> ArchiveError:
        """Return the error for an archive past the limit."""
        return ArchiveError(
            f"{self._archive.name}: expands past the limit of {self._max_bytes} bytes; "
            "pack only the model, which may have 2 GiB"
        )


def extract_archive(
    archive: Path, into: Path, *, max_bytes: int = 2 * GIB, max_members: int = 10_000
) -> None:
    """Extract a gzipped tar; ``into`` holds all of it or is left as it was.

    :param archive: the ``.tar.gz`` to read
    :param into: folder to fill: it must be absent or empty
    :param max_bytes: limit on the expanded archive, headers included (default: 2 GiB)
    :param max_members: limit on the number of members (default: 10,000)
    :raises ArchiveError: absent, corrupt or truncated archive; a member with an absolute path or
        ``..``, or a name that is too long or too deep; a link, device, sparse file or duplicate; an
        archive past a limit. Names the member.
    :raises DiskFullError: no space for a member
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ArchiveError(f"{into}: not an empty folder; extract {archive.name} into a new one")
    if not archive.is_file():
        raise ArchiveError(f"{archive}: no such archive; check the path or upload it again")
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        _extract(archive, partial, max_bytes, max_members)
        partial.replace(into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # nothing is left there after the rename


def _extract(archive: Path, into: Path, max_bytes: int, max_members: int) -> None:
    seen: set[PurePosixPath] = set()
    written = 0
    with gzip.open(archive, "rb") as stream:
        reader = _BoundedReader(stream, archive, max_bytes)
        for number, (tar, member) in enumerate(_members(reader, archive)):
            if number >= max_members:
                raise ArchiveError(
                    f"{archive.name}: more than {max_members} members; pack only the model"
                )
            path = _safe_path(member, archive)
            if path in seen:
                raise _refusal(archive, member.name, "is there twice")
            seen.add(path)
            # A header may claim more than lies behind it, or the same bytes as another's.
            written += max(0, member.size)
            if written > max_bytes:
                raise reader.too_large()
            shown = _shown(member.name)
            unpacked = f"{shown} of {archive.name}"
            with _naming(archive, shown), disk_watched(into.parent, unpacked):
                _write_member(tar, member, into / path)
        with _naming(archive, "its end"):
            _check_end(reader, archive)


def _members(
    reader: _BoundedReader, archive: Path
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each member as it comes, so that a refused one stops the reading."""
    with _naming(archive, "its first member"):
        tar = tarfile.TarFile(fileobj=reader, mode="r")  # type: ignore[arg-type]
    last = "its first member"
    while True:
        with _naming(archive, f"the member after {last}"):
            member = tar.next()
            if member is None:
                reader.check_end_marker()
                return
        yield tar, member
        last = _shown(member.name)
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header it has seen


@contextmanager
def _naming(archive: Path, member: str) -> Iterator[None]:
    """Turn what gzip, zlib and tarfile raise into one error that names the member."""
    try:
        yield
    except _CORRUPT as error:
        raise ArchiveError(
            f"{archive.name}: corrupt or truncated at {member} ({error}); "
            "pack it again with tar -czf and upload it again"
        ) from error
    except OSError as error:
        raise ArchiveError(
            f"{archive.name}: cannot extract {member}: {error.strerror}; rename the member"
        ) from error


def _safe_path(member: tarfile.TarInfo, archive: Path) -> PurePosixPath:
    name = member.name
    path = PurePosixPath(name)
    if path.is_absolute():
        raise _refusal(archive, name, "has an absolute path")
    if ".." in path.parts:
        raise _refusal(archive, name, "has '..' in its path")
    if not all(_is_portable(letter) for letter in name):
        raise _refusal(archive, name, "has a character that is no part of a portable name")
    if len(path.parts) > _MOST_FOLDERS or len(name.encode()) > _MOST_NAME_BYTES:
        raise _refusal(
            archive,
            name,
            f"is more than {_MOST_FOLDERS} folders deep, or its name more than "
            f"{_MOST_NAME_BYTES} bytes long",
        )
    if member.issym() or member.islnk():
        raise _refusal(archive, name, f"is a link to {_shown(member.linkname)}")
    if not member.isdir() and (member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)):
        raise _refusal(archive, name, "is a device, pipe or other special file")
    if member.issparse():  # an extended header makes one of a regular file too
        raise _refusal(archive, name, "is a sparse file")
    return path


def _is_portable(letter: str) -> bool:
    # A surrogate stands for a byte that is no UTF-8: no database stores a message with one.
    return letter >= " " and letter not in "\\\x7f" and not "\ud800" <= letter <= "\udfff"


def _refusal(archive: Path, member: str, why: str) -> ArchiveError:
    return ArchiveError(
        f"{archive.name}: member {_shown(member)} {why}; "
        "pack regular files with relative paths (tar -czf model.tar.gz -C folder .)"
    )


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError("no data")
    with source, path.open("xb") as out:
        shutil.copyfileobj(source, out, 64 * 1024)
        if out.tell() != member.size:
            raise EOFError(f"{out.tell()} of {member.size} bytes")


def _check_end(reader: _BoundedReader, archive: Path) -> None:
    """Read to the end: gzip checks its sum there, and nothing may hide behind the last member."""
    while block := reader.read(_BLOCK):
        if block.strip(b"\0"):
            raise ArchiveError(
                f"{archive.name}: data after the last member; pack it again with tar -czf"
            )


def pack_archive(folder: Path, archive: Path) -> None:
    """Pack a folder's files; the same files give the same bytes, and ``archive`` appears at once.

    Times, owners and modes are left out and members are sorted by name; empty folders are not kept.

    :raises ArchiveError: the folder is absent or empty, or holds a link or special file
    """
    files = _regular_files(folder)
    archive.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{archive.name}-", dir=archive.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            _pack(stream, folder, files)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)


def _regular_files(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*"), key=lambda each: each.as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArchiveError(f"{path}: a link or special file; replace it by a regular file")
        if path.is_file():
            files.append(path)
    if not files:
        raise ArchiveError(f"{folder}: no files to pack; check the path")
    return files


def _pack(stream: IO[bytes], folder: Path, files: list[Path]) -> None:
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed,
        tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            member.mode = 0o644
            with path.open("rb") as source:
                tar.addfile(member, source)
