"""Shards: ranges of one object that begin and end where records do."""

import itertools
from collections.abc import Callable
from typing import TypedDict

from model_delivery_engine.errors import BatchError

_BLOCK = 64 * 1024
MAX_RECORD_BYTES = 64 * 1024 * 1024


class Shard(TypedDict):
    """Positions ``start`` to before ``end`` of the object at ``uri``: bytes, or rows of Parquet."""

    index: int
    uri: str
    start: int
    end: int


def plan_shards(
    uri: str, size: int, count: int, read_range: Callable[[int, int], bytes]
) -> list[Shard]:
    """Cut an object of lines into shards of about equal size.

    Only the lines at the cuts are read. Where lines are long there are fewer shards than asked for;
    an empty object has none.

    :param uri: where the object is, for messages and for each shard
    :param size: its size in bytes
    :param count: shards wanted
    :param read_range: returns the bytes from start to end (exclusive) of the object
    :raises BatchError: a count below 1, or a read_range that returns another number of bytes
    """
    return cut_shards(uri, size, count, lambda ideal: next_line(uri, ideal, size, read_range))


def cut_shards(uri: str, size: int, count: int, boundary: Callable[[int], int]) -> list[Shard]:
    """Cut positions 0 to ``size`` at record boundaries.

    :param boundary: returns the first record boundary at or after a position
    :raises BatchError: a count below 1
    """
    if count < 1:
        raise BatchError(f"{uri}: {count} shards asked for; ask for at least one")
    cuts = [0]
    for number in range(1, count):
        ideal = size * number // count
        if ideal > cuts[-1]:
            cuts.append(boundary(ideal))
    bounds = sorted({*cuts, size})
    pairs = itertools.pairwise(bounds)
    return [Shard(index=n, uri=uri, start=a, end=b) for n, (a, b) in enumerate(pairs)]


def next_line(uri: str, position: int, size: int, read_range: Callable[[int, int], bytes]) -> int:
    """Return the first line start at or after a position, which may be the position itself.

    Bytes of a multi-byte character never equal a line feed, so a position inside one is as good as
    any.

    :raises BatchError: a line over 64 MiB, or an object that changed
    """
    at = position - 1
    while at < size:
        end = min(at + _BLOCK, size)
        block = read_range(at, end)
        if len(block) != end - at:
            raise BatchError(
                f"{uri}: {len(block)} bytes came for the range {at} to {end}; "
                "the object changed under the job, start it again"
            )
        newline = block.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        at = end
        if at - position > MAX_RECORD_BYTES:
            raise BatchError(
                f"{uri}: the line around byte {position} is over {MAX_RECORD_BYTES} bytes; "
                "check that the input is one record a line"
            )
    return size
