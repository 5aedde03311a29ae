"""JSON lines with the byte offset of each, so that a record can be found again in its object."""

from collections.abc import Iterable, Iterator

from model_delivery_engine.errors import BatchError

MAX_LINE_BYTES = 64 * 1024 * 1024


def read_lines(
    chunks: Iterable[bytes], start: int = 0, *, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Split a stream of chunks into lines.

    :param chunks: bytes in order, cut anywhere
    :param start: offset of the first byte in its object
    :param max_line_bytes: limit on a line (default: 64 MiB)
    :returns: offset and bytes of each line without its line end; the last may lack one
    :raises BatchError: a line over the limit, with its offset
    """
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield start, line.removesuffix(b"\r")
            start += len(line) + 1
        if len(rest) > max_line_bytes:
            raise BatchError(
                f"the line at byte {start} is over {max_line_bytes} bytes; "
                "check that the input is JSON lines, one record a line"
            )
    if rest:
        yield start, rest.removesuffix(b"\r")
