import pytest
from model_delivery_engine.batch.lines import read_lines
from model_delivery_engine.batch.shards import plan_shards
from model_delivery_engine.errors import BatchError

URI = "s3://bucket/input.jsonl"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_do_not_depend_on_where_chunks_are_cut(size: int) -> None:
    data = 'é\n\r\n{"a": 1}\r\nlast'.encode()
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    expected = [(10, "é".encode()), (13, b""), (15, b'{"a": 1}'), (25, b"last")]
    assert list(read_lines(chunks, start=10)) == expected


def test_a_line_over_the_limit_is_an_error_with_its_offset() -> None:
    with pytest.raises(BatchError, match="line at byte 3 is over 10 bytes"):
        list(read_lines([b"ok\n" + b"x" * 11], max_line_bytes=10))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 500])
def test_shards_cover_the_object_on_line_boundaries(count: int, ending: bytes) -> None:
    lines = [b"x" * (n * 37 % 90) for n in range(60)]
    data = (ending or b"\n").join(lines) + ending
    shards = plan_shards(URI, len(data), count, lambda start, end: data[start:end])
    assert [shard["index"] for shard in shards] == list(range(len(shards)))
    assert 1 <= len(shards) <= count
    parts = [data[shard["start"] : shard["end"]] for shard in shards]
    assert b"".join(parts) == data
    assert all(part.endswith(b"\n") for part in parts[:-1])
    assert all(parts)


def test_shards_are_of_about_equal_size() -> None:
    data = b"0123456789\n" * 1000
    shards = plan_shards(URI, len(data), 4, lambda start, end: data[start:end])
    sizes = [shard["end"] - shard["start"] for shard in shards]
    assert len(sizes) == 4
    assert max(sizes) - min(sizes) <= 11 * 2


def test_a_record_longer_than_a_shard_and_a_read_is_kept_whole() -> None:
    data = b"short\n" + b"x" * 200_000 + b"\nend\n"
    shards = plan_shards(URI, len(data), 8, lambda start, end: data[start:end])
    assert b"\nend\n" in data[shards[-1]["start"] - 1 :]
    for shard in shards:
        assert shard["start"] == 0 or data[shard["start"] - 1 : shard["start"]] == b"\n"


def test_an_empty_object_has_no_shards() -> None:
    assert plan_shards(URI, 0, 4, lambda start, end: b"") == []


def test_an_object_that_shrank_is_noticed() -> None:
    with pytest.raises(BatchError, match="the object changed under the job"):
        plan_shards(URI, 1000, 2, lambda start, end: b"short")


def test_no_shards_at_all_is_refused() -> None:
    with pytest.raises(BatchError, match="0 shards"):
        plan_shards(URI, 10, 0, lambda start, end: b"")
