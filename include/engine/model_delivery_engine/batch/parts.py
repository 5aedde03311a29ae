"""Parts: the unit of work and of resume. A shard is cut into them by its positions alone.

Where a part ends depends on the shard and the bytes, never on timing or on how storage cuts its
chunks: a resumed job cuts the same parts, and so runs the same batches and writes the same bytes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_delivery_engine.batch.compression import Member, PlainStream
from model_delivery_engine.batch.formats import Compression
from model_delivery_engine.batch.shards import MAX_RECORD_BYTES, Shard, next_line
from model_delivery_engine.batch.storage import (
    FileState,
    Storage,
    Version,
    read_bytes,
    read_steadily,
)
from model_delivery_engine.errors import BatchError

FIRST_PART_BYTES = 64 * 1024
SMALLEST_PART_BYTES = 256 * 1024
LARGEST_PART_BYTES = 8 * 1024 * 1024
PART_S = 20.0  # that a part may take on one core: a kill loses no more, however slow the model
_LEAST_PART_BYTES = 1024
START = Member()


@dataclass(frozen=True)
class Part:
    """Positions ``start`` to ``end`` (exclusive); ``index`` counts the parts of a shard."""

    index: int
    start: int
    end: int


@dataclass(frozen=True)
class PartData:
    """Where a worker finds a part's bytes on this machine.

    :param path: a file, ``length`` bytes of it from ``offset`` on
    :param spooled: whether the file is a copy, to be removed after use
    :param state: what the file must still be when it is read, where it is no copy
    """

    part: Part
    path: Path
    offset: int
    length: int
    spooled: bool
    state: FileState | None = None


class PartSource(Protocol):
    """The parts of one shard, in order."""

    def next(self, index: int, start: int) -> Part | None:
        """Return the part that begins at ``start``, or None at the shard's end.

        Called by one thread at a time, with starts that rise.
        """

    def fetch(self, part: Part) -> PartData:
        """Bring the part's bytes to this machine; called by several threads at a time."""

    def weight(self, part: Part) -> int:
        """Return the bytes that a part counts, of which ``largest`` says how many it may have."""


def part_bytes(shard_bytes: int) -> int:
    """Size that parts grow to: at most 1/128 of a shard, so that a kill loses little work."""
    return min(max(shard_bytes // 128, SMALLEST_PART_BYTES), LARGEST_PART_BYTES)


def timed_part_bytes(largest: int, weight: int, seconds: float) -> int:
    """Return ``largest``, halved until a part takes no longer than `PART_S`.

    :param weight: bytes of what was timed
    :param seconds: how long it took
    """
    while largest > _LEAST_PART_BYTES and seconds * largest > PART_S * weight:
        largest //= 2
    return largest


def target_bytes(index: int, largest: int) -> int:
    """Size wanted of a part. The first are small: a job that fails early is seen early."""
    return min(FIRST_PART_BYTES << min(index, 20), largest)


class Cut(Protocol):
    """Where a part of an object may end, if not at any line's end."""

    def __call__(self, data: bytes, wanted: int, *, last: bool) -> int | None:
        """Return the first record's end at or after a place; None where it lies beyond the data.

        :param data: begins where a record does
        :param last: whether they end where the object does
        """


class LineSource:
    """Parts of an uncompressed object of lines, or of records of one size.

    :param version: of the object
    :param largest: size that parts grow to, bytes; may be set anew before the first is cut again
    :param record_bytes: size of a record; None for lines
    :param cut: where records end; None at each line's end
    :param ahead: bytes that ``cut`` wants to see beyond the end that is wanted
    """

    def __init__(
        self, storage: Storage, shard: Shard, version: Version, spool: Path, largest: int,
        record_bytes: int | None = None, cut: Cut | None = None, ahead: int = 0,
    ) -> None:  # fmt: skip
        self._storage = storage
        self._shard = shard
        self._version = version
        self._spool = spool
        self.largest = largest
        self._record_bytes = record_bytes
        self._local = storage.local_path(shard["uri"])
        self._cut, self._ahead, self._size = cut, ahead, 0
        self._window = _Window(self._read_range)
        if cut is not None:
            self._size = storage.stat(shard["uri"]).size

    def next(self, index: int, start: int) -> Part | None:
        """Cut at the first record boundary past the wanted size."""
        end = self._shard["end"]
        if start >= end:
            return None
        wanted = start + target_bytes(index, self.largest)
        if self._cut is not None:
            found = self._record_end(self._cut, start, min(wanted, end))
            if found is not None:
                part = Part(index, start, self._within(found))
                if self._local is None:
                    data = self._window.read(start, part.end)
                    (self._spool / f"in-{index}").write_bytes(data)
                return part
        if wanted >= end:
            return Part(index, start, end)
        if self._record_bytes:
            count = -(-(wanted - start) // self._record_bytes)
            return Part(index, start, min(start + count * self._record_bytes, end))
        return Part(index, start, next_line(self._shard["uri"], wanted, end, self._read_range))

    def fetch(self, part: Part) -> PartData:
        """Point into the file, or copy the range."""
        length = part.end - part.start
        if self._local is not None:
            state = self._version.file
            return PartData(part, self._local, part.start, length, spooled=False, state=state)
        path = self._spool / f"in-{part.index}"
        if not path.exists():  # else it came when it was cut
            copy_range(self._storage, self._shard["uri"], part, path, self._version.etag)
        return PartData(part, path, 0, length, spooled=True)

    def weight(self, part: Part) -> int:
        """Return its bytes."""
        return part.end - part.start

    def _record_end(self, cut: Cut, start: int, wanted: int) -> int | None:
        end = min(wanted + self._ahead, self._size)
        found = cut(self._window.read(start, end), wanted - start, last=end == self._size)
        return None if found is None else start + found

    def _within(self, found: int) -> int:
        if found > self._shard["end"]:
            raise BatchError(
                f"{self._shard['uri']}: shard {self._shard['index']} ends at {self._shard['end']}, "
                f"inside quotes that a row goes on in to {found}; plan the shards again"
            )
        return found

    def _read_range(self, start: int, end: int) -> bytes:
        return read_bytes(self._storage, self._shard["uri"], start, end, etag=self._version.etag)


class _Window:
    """What of an object was read already, from where the next part begins: it is read once.

    :param read: returns the bytes from start to end (exclusive) of the object
    """

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._start, self._data = 0, b""

    def read(self, start: int, end: int) -> bytes:
        """Return a range; what stands before its start is not asked for again."""
        skipped = start - self._start
        self._data = self._data[skipped:] if 0 <= skipped <= len(self._data) else b""
        self._start = start
        known = start + len(self._data)
        if known < end:
            self._data += self._read(known, end)
        return self._data[: end - start]


class CompressedSource:
    """Parts of a gzip or zstd object of lines; positions count plain bytes.

    :param member: where to enter the stream: the last member known to begin at or before the first
        part that is still to do (default: the object's start)
    """

    def __init__(
        self, storage: Storage, shard: Shard, version: Version, spool: Path,
        compression: Compression, largest: int, member: Member = START, cut: Cut | None = None,
        ahead: int = 0,
    ) -> None:  # fmt: skip
        self._cut, self._ahead = cut, ahead
        self._spool = spool
        self._largest = largest
        chunks = read_steadily(
            storage, shard["uri"], member.compressed, shard["end"], etag=version.etag
        )
        self._size, self._read = shard["end"], member.compressed
        self._stream = PlainStream(self._counted(chunks), compression, shard["uri"], member)
        self._plain: Iterator[bytes] = iter(self._stream)
        self._uri = shard["uri"]
        self._buffer = bytearray()
        self._position = member.plain
        self.members: dict[int, Member] = {}

    def next(self, index: int, start: int) -> Part | None:
        """Decompress up to the part's end and spool it."""
        self._skip(start)
        wanted = target_bytes(index, self._largest)
        searched = max(wanted - 1, 0)
        while True:
            self._fill(searched + 1)
            cut = self._buffer.find(b"\n", searched) + 1
            if cut or len(self._buffer) <= searched:
                break
            searched = len(self._buffer)
            if searched > wanted + MAX_RECORD_BYTES:
                raise BatchError(f"{self._uri}: the line around plain byte {start + wanted} is "
                                 f"over {MAX_RECORD_BYTES} bytes; check that it is one record "
                                 "a line")  # fmt: skip
        if self._cut is not None and self._buffer:
            seen = wanted + self._ahead
            self._fill(seen + 1)
            last = len(self._buffer) <= seen
            cut = self._cut(bytes(self._buffer[:seen]), wanted, last=last) or cut
        data = bytes(self._buffer[: cut or len(self._buffer)])
        if not data:
            self._check_end()
            return None
        del self._buffer[: len(data)]
        self._position += len(data)
        self.members[index] = self._stream.member
        (self._spool / f"in-{index}").write_bytes(data)
        return Part(index, start, start + len(data))

    def fetch(self, part: Part) -> PartData:
        """Point to what was spooled."""
        path = self._spool / f"in-{part.index}"
        return PartData(part, path, 0, part.end - part.start, spooled=True)

    def weight(self, part: Part) -> int:
        """Return its plain bytes."""
        return part.end - part.start

    @property
    def share(self) -> float:
        """How much of the object was read, 0 to 1: what is plain of the rest, nobody knows."""
        return self._read / max(self._size, 1)

    def _check_end(self) -> None:
        if self._read != self._size:
            raise BatchError(
                f"{self._uri}: {self._read} bytes came of {self._size}; the object changed under "
                "the job, start it again"
            )

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._read += len(chunk)
            yield chunk

    def _skip(self, start: int) -> None:
        while self._position < start:
            self._fill(1)
            drop = min(len(self._buffer), start - self._position)
            if not drop:
                raise BatchError(f"{self._uri} ends at plain byte {self._position}, before the "
                                 f"part at {start}; the object changed under the job")  # fmt: skip
            del self._buffer[:drop]
            self._position += drop

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size and (chunk := next(self._plain, None)) is not None:
            self._buffer += chunk


def copy_range(storage: Storage, uri: str, part: Part, path: Path, etag: str) -> None:
    """Copy a part into a file; BatchError if it is shorter than it should be."""
    with path.open("wb") as file:
        file.writelines(read_steadily(storage, uri, part.start, part.end, etag=etag))
        if file.tell() != part.end - part.start:
            raise BatchError(
                f"{uri}: {file.tell()} bytes came for the range {part.start} to {part.end}; "
                "the object changed under the job, start it again"
            )


def last_member(members: Mapping[int, Member], position: int) -> Member:
    """Return the last member that begins at or before a plain position."""
    fitting = [each for each in members.values() if each.plain <= position]
    return max(fitting, key=lambda each: each.plain, default=Member())
