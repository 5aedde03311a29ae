"""Where the rows of CSV end: at a line's end, but for one inside quotes.

A quote opens a cell only where one begins, as Python's csv has it. One that is never closed must
not swallow the rows after it: lines are one row only where together they are a whole one.
"""

import re
from collections.abc import Callable, Iterator

from model_delivery_engine.batch.json_lines import split_lines

QUOTE = b'"'
LONGEST_ROW_BYTES = 1024 * 1024  # of one that has line breaks inside quotes
_QUOTED = re.compile(rb'(?<![^,\n])"[^"]*(?:""[^"]*)*("|\Z)')

IsRow = Callable[[bytes], bool]


def split_rows(data: bytes, is_row: IsRow) -> list[bytes]:
    """Split a part into rows, without line ends.

    :param data: begins where a row does
    :param is_row: whether lines that are put together are one row of as many cells as there are
        columns
    """
    lines = split_lines(data)
    if QUOTE not in data or not any(b"\n" in found[0] for found in _QUOTED.finditer(data)):
        return lines
    return list(_rows(lines, is_row))


def row_end(data: bytes, wanted: int, is_row: IsRow, *, last: bool) -> int | None:
    """Return the first end of a row at or after a place; None where it lies beyond the data.

    :param data: begins where a row does, and goes on for `LONGEST_ROW_BYTES` after ``wanted`` or to
        the end of the object
    :param last: whether they end where the object does: its last row may have no line's end
    """
    line = data.find(b"\n", max(wanted - 1, 0)) + 1
    if line and data.find(QUOTE, 0, line) < 0:
        return line
    end = 0
    for row in split_rows(data, is_row):
        end += len(row) + 1
        if end > len(data):
            return len(data) if last else None
        if end >= wanted:
            return end
    return None


def ends_open(text: bytes) -> bool:
    """Whether a text ends inside quotes."""
    closings = _QUOTED.findall(text)
    return bool(closings) and not closings[-1]


def row_after(lines: list[bytes], at: int, is_row: IsRow) -> int:
    """Return the place of the line after the row that begins with a line."""
    end = _closed_at(lines, at) if QUOTE in lines[at] and ends_open(lines[at]) else None
    return end if end is not None and is_row(b"\n".join(lines[at:end])) else at + 1


def _rows(lines: list[bytes], is_row: IsRow) -> Iterator[bytes]:
    at = 0
    while at < len(lines):
        end = row_after(lines, at, is_row)
        yield b"\n".join(lines[at:end])
        at = end


def _closed_at(lines: list[bytes], at: int) -> int | None:
    """Return the place after the line that closes the quotes which one leaves open."""
    size = len(lines[at])
    for place in range(at + 1, len(lines)):
        size += len(lines[place]) + 1
        if size > LONGEST_ROW_BYTES:
            return None
        # Inside quotes a line is what it would be after an opening one.
        if QUOTE in lines[place] and not ends_open(QUOTE + lines[place]):
            return place + 1
    return None
