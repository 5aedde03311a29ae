"""The Range header of one byte range (RFC 9110, section 14)."""

import re

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class UnsatisfiableRangeError(ValueError):
    """The range lies beyond the end."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return first and last byte, None for the whole.

    A header that is no single byte range is ignored, as the RFC allows. Raises
    UnsatisfiableRangeError for a range that lies beyond `size`.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
    if last and first and int(last) < int(first):
        return None
    if start >= size or (not first and int(last) == 0):
        raise UnsatisfiableRangeError(f"the range starts beyond the end, {size} bytes")
    return start, end
