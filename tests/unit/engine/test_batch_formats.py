"""The formats a batch reads and writes, and bad input in each."""

import csv
import gzip
import io
import itertools
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.compression import Member, PlainStream, compress
from model_delivery_engine.batch.formats import SUFFIX, Compression, OutputFormat
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.merge import (
    Destination,
    delete_parts,
    publish,
    publish_once,
    read_journals,
)
from model_delivery_engine.batch.parquet import ParquetSource
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult, shard_folder
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.batch.storage import version_of
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import BatchError, BudgetError, DiskFullError

from tests.unit.engine.batch_job import ERRORS, FOLDER, RESULTS, URI, Job, KilledError, kill_at
from tests.unit.engine.conftest import linear

ROWS = np.random.default_rng(3).normal(size=(3000, 4)).round(3)


def jsonl(rows: np.ndarray = ROWS) -> bytes:
    return b"".join(
        json.dumps({"id": n, "features": row.tolist()}).encode() + b"\n"
        for n, row in enumerate(rows)
    )


def check(job: Job, rows: np.ndarray = ROWS) -> None:
    job.publish()
    scores = [line["output"]["scores"] for line in job.lines()]
    np.testing.assert_allclose(scores, linear(rows), rtol=1e-4)


@pytest.mark.parametrize("shards", [1, 3])
def test_csv(tmp_path: Path, linear_bundle: Bundle, shards: int) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.csv")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "a1", "a2", "a3", "a4"])
    writer.writerows([[f'x, "{n}"', *row] for n, row in enumerate(ROWS.tolist())])
    job.options = BatchOptions(batch_size=64, input_fields={"a*": "features"})
    assert job.run(text.getvalue().encode(), shards) == ShardResult(3000, 3000, 0)
    check(job)
    assert job.lines()[7]["input"] == {"name": 'x, "7"'}


def test_csv_keeps_a_long_whole_number(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.csv")
    long = "123456789012345678901234567890"
    job.run(f'id,features\n{long},"[1,2,3,4]"\n{long},"[1]"'.encode())
    job.publish()
    assert [line["input"]["id"] for line in job.lines()] == [int(long)] * 2


@pytest.mark.parametrize("group", [100, 10_000])
def test_parquet_in_and_out(tmp_path: Path, linear_bundle: Bundle, group: int) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.parquet")
    bad = {5: [1.0, 2.0], 17: None}
    rows = [bad.get(n, row) for n, row in enumerate(ROWS.tolist())]
    table = pyarrow.table({"id": list(range(3000)), "features": rows})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, row_group_size=group)
    job.options = BatchOptions(batch_size=64, output_format=OutputFormat.PARQUET)
    assert job.run(buffer.getvalue(), shards=3) == ShardResult(3000, 2998, 2)
    assert len(job.shards) == (3 if group == 100 else 1)
    assert job.publish().input_size == 3000
    out = pyarrow.parquet.read_table(job.storage.path(RESULTS))
    assert out.column_names == ["input", "scores", "error"]
    assert json.loads(out["input"][9].as_py()) == {"id": 9}
    kept = [n for n in range(3000) if n not in bad]
    np.testing.assert_allclose(
        out["scores"].take(pyarrow.array(kept)).to_pylist(), linear(ROWS[kept]), rtol=1e-4
    )
    assert out["scores"][5].as_py() is None
    assert [each["error"]["offset"] for each in job.lines(ERRORS)] == [5, 17]
    assert "shape [2]" in out["error"][5].as_py()["reason"]


def test_parts_of_parquet_are_cut_by_bytes_not_by_rows(
    tmp_path: Path, linear_bundle: Bundle
) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.parquet")
    count = 2_000
    notes = np.random.default_rng(0).bytes(count * 32_768)
    table = pyarrow.table({
        "note": pyarrow.FixedSizeBinaryArray.from_buffers(
            pyarrow.binary(32_768), count, [None, pyarrow.py_buffer(notes)]
        ),
        "features": pyarrow.array([[1, 2, 3, 4]] * count, pyarrow.list_(pyarrow.float32())),
    })  # fmt: skip
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, use_dictionary=False)
    job.options = BatchOptions(batch_size=64, output_format=OutputFormat.PARQUET)
    assert job.run(buffer.getvalue()).ok == count
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    assert journal.largest_part == pytest.approx(count * 32_768 / 128, rel=0.01)


def test_what_json_cannot_spell_comes_out_of_parquet_as_text(
    tmp_path: Path, linear_bundle: Bundle
) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.parquet")
    rows = [[1, 2, 3, 4], [1, 2, 3, float("nan")], [1]]
    table = pyarrow.table(
        {
            "features": pyarrow.array(rows, pyarrow.list_(pyarrow.float32())),
            "bytes": [b"\x00\xff"] * 3,
            "share": [float("nan"), float("inf"), 0.5],
            "deep": [[{"x": float("-inf")}]] * 3,
            "late": pyarrow.array([10**15] * 3, pyarrow.timestamp("s")),
        }
    )
    text = pyarrow.array([b"\xff\xfe"] * 3, pyarrow.binary()).view(pyarrow.string())
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table.append_column("text", text), buffer)
    assert job.run(buffer.getvalue()) == ShardResult(3, 1, 2)
    job.publish()
    good, nan, short = (line["input"] for line in job.lines())
    assert good == {"bytes": "AP8=", "share": "NaN", "deep": [{"x": "-Infinity"}],
                    "text": "//4=", "late": good["late"]}  # fmt: skip
    assert "1000000000000000000" in good["late"]  # in milliseconds: beyond the year 9999
    assert nan["features"] == [1.0, 2.0, 3.0, "NaN"]
    assert (nan["share"], short["share"]) == ("Infinity", 0.5)
    assert short["features"] == [1.0]


def test_a_large_row_group_is_not_in_memory(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.parquet")
    count = 300_000
    notes = pyarrow.array([f"{n:0>200}" for n in range(count)])  # 60 MB
    features = pyarrow.array([[1, 2, 3, 4]] * count, pyarrow.list_(pyarrow.float32()))
    path = job.storage.path(job.storage.put(job.uri, b""))
    table = pyarrow.table({"note": notes, "features": features})
    pyarrow.parquet.write_table(table, path, row_group_size=count, use_dictionary=False)
    del table, notes, features
    shard = Shard(index=0, uri=job.uri, start=0, end=count)
    (tmp_path / "spool").mkdir()
    version = version_of(job.storage, job.uri)
    source = ParquetSource(job.storage, shard, version, tmp_path / "spool", 2**20)
    before, most, rows, part = pyarrow.total_allocated_bytes(), 0, 0, source.next(9, 0)
    while part is not None:
        most = max(most, pyarrow.total_allocated_bytes() - before)
        found = pyarrow.ipc.open_file(str(source.fetch(part).path)).read_all()
        assert found["note"][0].as_py() == f"{part.start:0>200}"
        rows += found.num_rows
        del found
        part = source.next(part.index + 1, part.end)
    assert rows == count
    assert most < 16 * 2**20
    again = ParquetSource(job.storage, shard, version, tmp_path / "spool", 2**20)
    middle = again.next(9, 123_456)  # as a resume does
    assert middle is not None
    first = pyarrow.ipc.open_file(str(again.fetch(middle).path)).read_all()["note"][0]
    assert first.as_py() == f"{123_456:0>200}"


@pytest.mark.parametrize("wrong", [8, 20])
def test_raw_records_of_another_size_are_not_read_askew(
    tmp_path: Path, linear_bundle: Bundle, wrong: int
) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.raw")
    with pytest.raises(BatchError, match="plan the shards again with record_bytes=16"):
        job.run(ROWS[:101].astype("<f4").tobytes(), shards=4, record_bytes=wrong)


def test_raw_records_and_one_cut_short(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.raw")
    data = ROWS.astype("<f4").tobytes()
    assert job.run(data + b"123", shards=4, record_bytes=16) == ShardResult(3001, 3000, 1)
    job.publish()
    *good, last = job.lines()
    np.testing.assert_allclose([each["output"]["scores"] for each in good], linear(ROWS), rtol=1e-4)
    assert good[10]["input"] == {"offset": 160}
    assert last["error"] == {"reason": "the last record has 3 bytes of 16", "uri": "mem://in.raw",
                             "offset": 48_000}  # fmt: skip


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_nothing_is_a_stream_too(job: Job, kind: Compression) -> None:
    job.options = BatchOptions(batch_size=64, output_compression=kind)
    job.run(jsonl())
    suffix = SUFFIX[kind]
    publish(
        job.storage, FOLDER, read_journals(job.storage, FOLDER, 1), input_uri=URI,
        input_size=len(jsonl()), results_uri=RESULTS + suffix, errors_uri=ERRORS + suffix,
        budget=job.budget,
    )  # fmt: skip
    packed = job.storage.get(ERRORS + suffix)
    assert packed  # gunzip takes no empty file
    unpack = gzip.decompress if kind == Compression.GZIP else zstandard.decompress
    assert unpack(packed) == b""


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_a_stream_that_expands_far_stays_small_in_memory(kind: Compression) -> None:
    packed = compress(b'{"id": 1}\n' * 60_000_000, kind)
    stream = PlainStream([packed], kind, URI, Member())
    assert max(map(len, itertools.islice(stream, 40))) <= 70 * 2**20


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_compressed_output_is_one_stream(job: Job, kind: Compression) -> None:
    job.options = BatchOptions(batch_size=64, output_compression=kind)
    job.run(jsonl(), shards=2)
    job.publish()
    packed = job.storage.get(RESULTS)
    if kind == Compression.GZIP:
        plain = gzip.decompress(packed)
    else:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        plain = reader.read()
    assert plain.count(b"\n") == 3000
    assert json.loads(plain.splitlines()[-1])["input"] == {"id": 2999}


def test_zeros_after_a_gzip_stream_are_padding(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri=URI + ".gz")
    packed = compress(jsonl(), Compression.GZIP)
    assert job.run(packed + bytes(100_000) + packed + bytes(9)) == ShardResult(6000, 6000, 0)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"max_errors": -1}, "max_errors is -1; give 0 or more"),
        ({"max_error_percent": 150}, "max_error_percent is 150; give 0 to 100"),
        ({"early_abort_percent": -3}, "early_abort_percent is -3; give 0 to 100"),
        ({"early_abort_records": -3}, "early_abort_records is -3; give 0 or more"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(limits: dict[str, Any], why: str) -> None:
    with pytest.raises(BatchError, match=why):
        ErrorBudget(**limits)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (compress(jsonl(), Compression.GZIP)[:-20], "ends at byte .* in mid-member"),
        (b"no gzip at all", "corrupt after byte 0"),
    ],
)
def test_a_broken_stream_is_said(
    tmp_path: Path, linear_bundle: Bundle, data: bytes, why: str
) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri=URI + ".gz")
    with pytest.raises(BatchError, match=why):
        job.run(data)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_shards_make_no_difference(job: Job, ending: bytes, last: bool) -> None:
    data = jsonl().replace(b'"id"', '"ид"'.encode()).replace(b"\n", ending)
    data = data if last else data.removesuffix(ending)
    assert job.run(data, shards=7) == ShardResult(3000, 3000, 0)
    check(job)
    assert job.lines()[-1]["input"] == {"ид": 2999}


def test_a_huge_record_and_its_neighbours(job: Job) -> None:
    huge = json.dumps({"features": [1, 2, 3, 4], "text": "é" * 5_000_000}).encode()
    data = jsonl(ROWS[:5]) + huge + b"\n" + jsonl(ROWS[:5])
    assert job.run(data, shards=4) == ShardResult(11, 11, 0)
    job.publish()
    assert len(job.lines()[5]["input"]["text"]) == 5_000_000


def test_an_empty_input_gives_empty_results(job: Job) -> None:
    assert job.run(b"") == ShardResult(0, 0, 0)
    assert job.publish().records == 0
    assert job.lines() == job.lines(ERRORS) == []


def test_an_unknown_format_is_said(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.dat")
    with pytest.raises(BatchError, match="its name tells no format"):
        job.run(b"x")
    job.options = BatchOptions(input_format="xml")
    with pytest.raises(BatchError, match="input format 'xml' is unknown; there are jsonl"):
        job.run(b"x")


# Error records, budgets, the manifest's proof


BAD = {3: b"{broken", 5: b'{"features": [1]}', 8: b'"text"', 11: b"\xff\xfe", 2000: b"[]"}


def with_bad() -> bytes:
    lines = jsonl().splitlines()
    for n, line in BAD.items():
        lines[n] = line
    return b"\n".join(lines)


def test_the_error_file_is_itself_an_input_and_keeps_the_origin(job: Job) -> None:
    data = with_bad()
    assert job.run(data, shards=3) == ShardResult(3000, 2995, 5)
    manifest = job.publish()
    assert (manifest.records, manifest.ok, manifest.errors) == (3000, 2995, 5)
    errors = job.lines(ERRORS)
    offsets = [sum(len(line) + 1 for line in data.split(b"\n")[:n]) for n in BAD]
    assert [each["error"]["offset"] for each in errors] == offsets
    assert errors[1]["input"] == {"features": [1]}
    again = Job(job.storage.root / "again", job.bundle)
    assert again.run(job.storage.get(ERRORS)) == ShardResult(5, 0, 5)
    again.publish()
    assert again.lines(ERRORS) == errors
    assert again.storage.get(ERRORS) == again.storage.get(RESULTS)
    mended = job.storage.get(ERRORS).replace(b"[1]}", b'[1,2,3,4],"id":5}')
    fixed = Job(job.storage.root / "fixed", job.bundle)
    assert fixed.run(mended) == ShardResult(5, 1, 4)
    fixed.publish()
    assert fixed.lines()[1]["input"] == {"id": 5}


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        (ErrorBudget(max_errors=4), "records failed, 4 may"),
        (ErrorBudget(max_error_percent=0.1), r"5 of 3000 records \(0.17 %\) failed, 0.1 % may"),
    ],
)
def test_the_budget_holds_over_shards(job: Job, budget: ErrorBudget, why: str) -> None:
    job.budget = budget
    with pytest.raises(BudgetError, match=why):
        _run_and_publish(job)
    assert not job.storage.exists(RESULTS)


def _run_and_publish(job: Job) -> None:
    job.run(with_bad(), shards=3)
    job.publish()


def test_a_budget_that_is_kept_is_no_error(job: Job) -> None:
    job.budget = ErrorBudget(max_errors=5, max_error_percent=0.17)
    assert job.run(with_bad(), shards=3).errors == 5
    job.publish()


def test_the_shard_that_ends_last_holds_the_share(job: Job) -> None:
    job.budget = ErrorBudget(max_error_percent=0.1)
    with pytest.raises(BudgetError, match=r"5 of 3000 records \(0.17 %\) failed, 0.1 % may"):
        job.run(with_bad(), shards=3)
    assert len(list(job.storage.list(f"{FOLDER}/shard-"))) == 8  # all were run: 3, and 2 of errors
    with pytest.raises(BudgetError):
        job.run_one(0)
    job.budget = ErrorBudget(max_error_percent=0.2)
    assert job.run(shards=3).errors == 5


def test_the_budget_asks_the_store_now_and_then(job: Job) -> None:
    job.budget = ErrorBudget(max_errors=5000)
    job.options = BatchOptions(batch_size=512)
    asked, list_ = [], job.storage.list

    def slow_list(prefix: str) -> Any:
        if "/tallies/" in prefix:
            asked.append(prefix)
            time.sleep(0.1)
        return list_(prefix)

    job.storage.list = slow_list  # type: ignore[method-assign]
    assert job.run(jsonl() * 20).records == 60_000
    assert len([each for each in job.storage.list(f"{FOLDER}/") if "part-" in each.uri]) > 10
    assert len(asked) <= 5
    assert _tallied(job) == [(60_000, 0, 1)]


def test_what_a_job_before_left_does_not_count(job: Job) -> None:
    job.budget = ErrorBudget(max_errors=4)
    with pytest.raises(BudgetError):
        job.run(with_bad(), shards=3)
    for each in list(job.storage.list(f"{FOLDER}/shard-")):
        job.storage.delete(each.uri)
    assert job.run(jsonl() + b"{}\n", shards=3).errors == 1  # the input is put right


def test_a_shard_that_begins_again_counts_from_nothing(job: Job) -> None:
    job.budget = ErrorBudget(max_errors=5)
    job.run(with_bad())
    assert _tallied(job) == [(3000, 5, 1)]
    for each in list(job.storage.list(f"{FOLDER}/shard-")):
        job.storage.delete(each.uri)
    kill_at(job, 2)
    with pytest.raises(KilledError):
        job.run()
    assert _tallied(job) == [(0, 0, 0)]


def _tallied(job: Job) -> list[tuple[int, ...]]:
    names = [each.uri.rpartition("/")[2] for each in job.storage.list(f"{FOLDER}/tallies/")]
    return [tuple(map(int, name.split("-")[1:])) for name in names]


@pytest.mark.parametrize(("bad", "ends"), [(50, True), (49, False)])
def test_half_of_the_first_records_is_too_much(job: Job, bad: int, ends: bool) -> None:
    job.budget = ErrorBudget(early_abort_records=100)
    job.options = BatchOptions(batch_size=64)
    data = b"{}\n" * bad + b'{"features":[1,2,3,4]}\n' * (100 - bad)
    with pytest.raises(BudgetError, match="less than 50") if ends else nullcontext():
        job.run(data)


def test_a_job_of_bad_records_ends_early(job: Job) -> None:
    job.budget = ErrorBudget(max_error_percent=99, early_abort_records=100)
    with pytest.raises(BudgetError, match="may; read the error lines"):
        job.run(b"{}\n" * 3_000_000)
    parts = [each for each in job.storage.list(f"{FOLDER}/") if "part-" in each.uri]
    assert len(parts) <= 2


def test_the_manifest_names_a_missing_shard(job: Job) -> None:
    job.run(jsonl(), shards=3)
    job.forget(1)
    with pytest.raises(BatchError, match="shard-00001 has no journal; run that shard first"):
        job.publish()


PLACES = Destination(RESULTS, ERRORS, "mem://manifest.json")


def publish_job(job: Job, budget: ErrorBudget, uri: str = URI) -> Any:
    return publish_once(
        job.storage, FOLDER, len(job.shards), PLACES, input_uri=uri, input_format=None,
        budget=budget,
    )  # fmt: skip


def test_results_that_may_not_be_published_replace_none(job: Job) -> None:
    job.run(jsonl())
    publish_job(job, ErrorBudget())
    before = [job.storage.get(uri) for uri in (RESULTS, ERRORS, PLACES.manifest_uri)]
    delete_parts(job.storage, FOLDER)
    job.run(with_bad())
    with pytest.raises(BudgetError):
        publish_job(job, ErrorBudget(max_errors=4))
    assert before == [job.storage.get(uri) for uri in (RESULTS, ERRORS, PLACES.manifest_uri)]


def test_a_manifest_of_something_else_is_no_result(job: Job) -> None:
    job.run(jsonl())
    published = publish_job(job, ErrorBudget())
    delete_parts(job.storage, FOLDER)
    assert publish_job(job, ErrorBudget()) == published  # as a retry finds it
    other = "mem://other.jsonl"
    with pytest.raises(BatchError, match=r"manifest.json is of mem://input.jsonl, .* run its shar"):
        publish_job(job, ErrorBudget(), other)
    job.storage.delete(RESULTS)
    with pytest.raises(BatchError, match="whose results are gone"):
        publish_job(job, ErrorBudget())


def test_the_disk_is_full(job: Job) -> None:
    """Parts are spooled to where every write fails as on a full disk: the kernel's own device."""
    from model_delivery_engine.batch.parts import Part, PartData
    from model_delivery_engine.batch.runner import PartRunner

    work = _work(job)
    (work.spool / "out-0").symlink_to("/dev/full")
    path = job.storage.path(job.storage.put(URI, jsonl()))
    part = PartData(Part(0, 0, len(jsonl())), path, 0, len(jsonl()), spooled=False)
    with pytest.raises(DiskFullError, match=r"no space left on the disk .* set TMPDIR"):
        PartRunner(work).run(part, 64, _keep, print)


def test_a_worker_process_that_dies_is_named(job: Job) -> None:
    from model_delivery_engine.batch.parts import Part, PartData
    from model_delivery_engine.batch.pool import Processes

    work = _work(job)
    pool = Processes(work, 1)
    try:
        pool._all[0]._process.kill()
        path = job.storage.path(job.storage.put(URI, jsonl()))
        part = PartData(Part(0, 0, 50), path, 0, len(jsonl()), spooled=False)
        assert pool.run(part, 64, _keep, print).ok == 3000  # by a new one
    finally:
        pool.close()


def _keep(_file: object) -> None:
    """Leave a file in the spool."""


def _work(job: Job):  # noqa: ANN202
    from model_delivery_engine.batch.formats import InputFormat
    from model_delivery_engine.batch.runner import Work

    spool = job.storage.root / "spool"
    spool.mkdir(parents=True)
    return Work(job.bundle.model_path, "linear", URI, InputFormat.JSONL, OutputFormat.JSONL,
                Compression.NONE, spool)  # fmt: skip
