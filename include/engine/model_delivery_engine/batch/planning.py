"""Plan a job's shards, whatever the input's format."""

from collections.abc import Callable

from model_delivery_engine.batch.formats import Compression, InputFormat, encoding_of
from model_delivery_engine.batch.shards import Shard, cut_shards, next_line, plan_shards
from model_delivery_engine.batch.storage import Storage, read_bytes
from model_delivery_engine.errors import BatchError


def positions(storage: Storage, uri: str, input_format: str | None = None) -> int:
    """Return an input's size in the positions of its shards: rows for Parquet, bytes otherwise."""
    encoding = encoding_of(uri, input_format)
    if encoding.format != InputFormat.PARQUET:
        return storage.stat(uri).size
    from model_delivery_engine.batch.parquet import open_parquet

    return int(open_parquet(storage, uri).metadata.num_rows)


def plan(
    storage: Storage,
    uri: str,
    count: int,
    *,
    input_format: str | None = None,
    record_bytes: int | None = None,
) -> list[Shard]:
    """Cut an input into shards of about equal size on record boundaries.

    A compressed object is one shard: nothing tells where its lines begin. Parquet is cut between
    row groups.

    :param count: shards wanted; there may be fewer
    :param record_bytes: size of a record, for raw records
    :raises BatchError: a count below 1, raw records of unknown size, an input that is not readable
    """
    encoding = encoding_of(uri, input_format)
    size = positions(storage, uri, input_format)
    if encoding.compression != Compression.NONE:
        return cut_shards(uri, size, 1, lambda ideal: ideal)
    if encoding.format == InputFormat.PARQUET:
        return cut_shards(uri, size, count, _row_groups(storage, uri, size))
    if encoding.format == InputFormat.RAW:
        if not record_bytes:
            raise BatchError(f"{uri}: give the size of a raw record in bytes")
        return cut_shards(uri, size, count, lambda at: min(-(-at // record_bytes) * record_bytes,
                                                           size))  # fmt: skip

    def read(start: int, end: int) -> bytes:
        return read_bytes(storage, uri, start, end)

    if encoding.format == InputFormat.CSV and size and count > 1:
        from model_delivery_engine.batch.csv_cuts import next_row
        from model_delivery_engine.batch.csv_lines import header_columns, is_row

        row = is_row(len(header_columns(read(0, next_line(uri, 1, size, read)), uri)))
        return cut_shards(uri, size, count, lambda at: next_row(uri, at, size, read, row))
    return plan_shards(uri, size, count, read)


def _row_groups(storage: Storage, uri: str, size: int) -> Callable[[int], int]:
    from model_delivery_engine.batch.parquet import open_parquet

    metadata = open_parquet(storage, uri).metadata
    ends, row = [], 0
    for number in range(metadata.num_row_groups):
        row += metadata.row_group(number).num_rows
        ends.append(row)
    return lambda ideal: next((end for end in ends if end >= ideal), size)
