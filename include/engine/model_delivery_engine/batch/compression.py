"""gzip and zstd, as streams whose members can be entered: a resume begins at the last one known."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from model_delivery_engine.batch.formats import Compression
from model_delivery_engine.errors import BatchError

# Bytes decompressed at a time: gzip makes a thousand of one, zstd 32,768 (a block of 128 KiB in 4
# bytes), so that a slice becomes 64 or 32 MiB at most.
_SLICES = {Compression.GZIP: 64 * 1024, Compression.ZSTD: 1024}


class _Decompressor(Protocol):
    unused_data: bytes
    eof: bool

    def decompress(self, data: bytes) -> bytes: ...


@dataclass(frozen=True)
class Member:
    """A gzip member or zstd frame: where it begins in the object and in the plain bytes."""

    compressed: int = 0
    plain: int = 0


def _zstd_decompressor() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


_DECOMPRESSORS: dict[Compression, Callable[[], Any]] = {
    Compression.GZIP: lambda: zlib.decompressobj(wbits=31),
    Compression.ZSTD: _zstd_decompressor,
}


class PlainStream:
    """The plain bytes of a compressed object.

    :param chunks: the object's bytes from ``member`` on
    :param uri: for messages
    :raises BatchError: bytes that are no such stream, or one that is cut off
    """

    def __init__(
        self, chunks: Iterable[bytes], compression: Compression, uri: str, member: Member
    ) -> None:
        self._chunks = chunks
        self._make = _DECOMPRESSORS[compression]
        self._slice = _SLICES[compression]
        self._padded = compression == Compression.GZIP  # perhaps, by zeros between its members
        self._what = f"{uri}: {compression}"
        self.member = member

    def __iter__(self) -> Iterator[bytes]:
        """Yield plain chunks; `member` is the one that the last of them came from."""
        compressed, plain = self.member.compressed, self.member.plain
        decompressor: _Decompressor | None = None
        for data in _slices(self._chunks, self._slice):
            while data:
                if decompressor is None and self._padded:
                    padding = len(data) - len(data.lstrip(b"\0"))
                    compressed, data = compressed + padding, data[padding:]
                    if not data:
                        break
                if decompressor is None:
                    self.member = Member(compressed, plain)
                    decompressor = self._make()
                out = self._decompress(decompressor, data, compressed)
                rest = decompressor.unused_data if decompressor.eof else b""
                compressed += len(data) - len(rest)
                plain += len(out)
                if decompressor.eof:
                    decompressor = None
                data = rest
                if out:
                    yield out
        if decompressor is not None:
            raise BatchError(f"{self._what} stream ends at byte {compressed} in mid-member; "
                             "put the whole object there")  # fmt: skip

    def _decompress(self, decompressor: _Decompressor, data: bytes, at: int) -> bytes:
        try:
            return decompressor.decompress(data)
        except Exception as error:  # zlib.error and ZstdError have no common base
            raise BatchError(
                f"{self._what} stream is corrupt after byte {at}: {error}; put a sound object there"
            ) from error


def _slices(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Small pieces: one that expands as far as it can still fits in memory."""
    for chunk in chunks:
        for at in range(0, len(chunk), size):
            yield chunk[at : at + size]


def compress(data: bytes, compression: Compression) -> bytes:
    """Return one gzip member or zstd frame, the same for the same bytes; plain bytes as they are.

    Members one after the other are a stream again, so compressed parts merge as they are.
    """
    if compression == Compression.GZIP:
        packer = zlib.compressobj(level=6, wbits=31)
        return packer.compress(data) + packer.flush()
    if compression == Compression.ZSTD:
        import zstandard

        return zstandard.ZstdCompressor(level=3).compress(data)
    return data
