"""Where an object of CSV may be cut, found from what lies around a place in it.

Whether a line's end is inside quotes depends on all that stands before. But a row of several lines
is no longer than `LONGEST_ROW_BYTES`, so the row that a place lies in began no further back: rows
are read from every line's beginning there, and where all these readings meet, a row begins,
whatever stands before.

Source: speculative parsing, Ge et al., SIGMOD 2019, https://doi.org/10.1145/3299869.3319898
"""

import itertools
from collections.abc import Callable

from model_delivery_engine.batch.csv_rows import LONGEST_ROW_BYTES, QUOTE, IsRow, row_after
from model_delivery_engine.batch.json_lines import split_lines
from model_delivery_engine.batch.shards import next_line
from model_delivery_engine.errors import BatchError

_MEETING_BYTES = 256 * 1024  # in which readings have almost always met
_FARTHEST_BYTES = 64 * 1024 * 1024


def next_row(
    uri: str, position: int, size: int, read_range: Callable[[int, int], bytes], is_row: IsRow
) -> int:
    """Return a place at or after a position where a row begins, or the object's end.

    It reads 1 MiB before the position, and where there are quotes in it, as much behind it too.

    :param is_row: whether lines that are put together are one row of as many cells as columns
    :raises BatchError: quotes that can be read in two ways for 64 MiB, or an object that changed
    """
    line = next_line(uri, position, size, read_range)
    if QUOTE not in read_range(max(position - LONGEST_ROW_BYTES - 1, 0), line):
        return line
    more = _MEETING_BYTES
    while more <= _FARTHEST_BYTES:
        begin = max(position - LONGEST_ROW_BYTES - more, 0)
        end = min(line + LONGEST_ROW_BYTES + more, size)
        found = _meeting(
            read_range(begin, end), position - begin, is_row, first=begin == 0, last=end == size
        )
        if found is not None:
            return begin + found
        more *= 4
    raise BatchError(
        f"{uri}: whether byte {position} is inside quotes cannot be told from the "
        f"{_FARTHEST_BYTES >> 20} MiB before it; plan this object as one shard"
    )


def _meeting(data: bytes, wanted: int, is_row: IsRow, *, first: bool, last: bool) -> int | None:
    """Return where a row begins at or after a place; None where that cannot be told.

    :param first: whether the data begin where the object does; else they begin anywhere
    :param last: whether they end where it does
    """
    lines = split_lines(data)
    starts = list(itertools.accumulate(lines, lambda at, line: at + len(line) + 1, initial=0))
    starts[-1] = len(data)
    # What follows is needed to see where a row ends.
    sure = len(data) if last else len(data) - LONGEST_ROW_BYTES - 1
    readings = {0} if first else _beginnings(starts)
    for place, start in enumerate(starts):
        if place not in readings:
            continue
        if start > sure:
            return None
        if len(readings) == 1 and start >= wanted:
            return start
        if place == len(lines):
            return None
        readings.remove(place)
        readings.add(row_after(lines, place, is_row))
    return None


def _beginnings(starts: list[int]) -> set[int]:
    """Return the lines one of which begins a row: the first whole one, and those near it."""
    within = itertools.takewhile(
        lambda n: starts[n] <= LONGEST_ROW_BYTES + 1, range(1, len(starts))
    )
    return {1, *within}
