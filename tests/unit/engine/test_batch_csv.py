"""CSV: rows of several lines, rows that are none, and cells that come out as they went in."""

import csv
import io
import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from model_delivery_engine.batch.csv_lines import CsvLines, is_row
from model_delivery_engine.batch.csv_rows import LONGEST_ROW_BYTES, split_rows
from model_delivery_engine.batch.formats import SUFFIX, Compression
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult, shard_folder
from model_delivery_engine.batch.planning import plan
from model_delivery_engine.batch.records import RecordParser
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import TensorSpec
from onnx import TensorProto, helper

from tests.unit.engine.batch_job import ERRORS, FOLDER, Job
from tests.unit.engine.conftest import save_graph


@pytest.fixture
def job(tmp_path: Path, linear_bundle: Bundle) -> Job:
    return Job(tmp_path / "job", linear_bundle, uri="mem://in.csv")


def test_bad_rows(job: Job) -> None:
    data = (
        b'id,features\n1,"[1,2,3,4]"\n2,"[1,2\n3]"\n\n4,"[1,2]"\n5\n6,"[0,0,0,0]"\n'
        b'7,"[1,2,3,4]",precious,data\n\xff\xfe,"[1,2,3,4]"\n8.50,"none\n9,"[1,2,3,4]"'
    )
    assert job.run(data) == ShardResult(9, 3, 6, 1)
    job.publish()
    errors = job.lines(ERRORS)
    reasons = [each["error"]["reason"] for each in errors]
    assert "shape [2]" in reasons[1]
    assert "1 cells in a row of 2 columns" in reasons[2]
    assert "4 cells in a row of 2 columns" in reasons[3]
    assert errors[3]["input"] == '7,"[1,2,3,4]",precious,data'
    assert errors[4]["error"]["base64"] == "//4sIlsxLDIsMyw0XSI="  # the row's own bytes
    assert "a line break inside quotes must leave a row of as many cells" in reasons[5]
    assert errors[5]["input"] == '8.50,"none'
    assert errors[0]["error"]["offset"] == data.index(b'2,"[1,2\n')
    assert errors[5]["error"]["offset"] == data.index(b"8.50")


def test_cells_come_out_as_they_went_in(job: Job) -> None:
    cells = ["12.50", "1e5", "12345678901234567.12345", "-0", "007", "[1.10, 2]", 'x,"y"', ""]
    text = io.StringIO()
    writer = csv.writer(text)
    names = [f"c{n}" for n in range(len(cells))]
    writer.writerow([*names, "features"])
    writer.writerow([*cells, "[1,2,3,4]"])
    writer.writerow([*cells, "[1]"])
    job.run(text.getvalue().encode())
    job.publish()
    expected = ["12.50", "1e5", "12345678901234567.12345", "-0", '"007"', "[1.10, 2]",
                r'"x,\"y\""', '""']  # fmt: skip
    fields = ",".join(f'"{n}":{cell}' for n, cell in zip(names, expected, strict=True)).encode()
    good, bad = job.storage.get("mem://results.jsonl").splitlines()
    assert b'{"input":{%b},' % fields in good
    assert b'{"input":{%b,"features":[1]},' % fields in bad


def test_a_cell_may_be_long(job: Job) -> None:
    note = "n" * 200_000
    assert job.run(f'note,features\n{note},"[1,2,3,4]"\n"{note}","[1]"'.encode()).ok == 1
    job.publish()
    assert job.lines()[0]["input"] == {"note": note}
    assert job.lines()[1]["input"]["note"] == note


def text_rows(count: int, seed: int = 3) -> list[list[str]]:
    chance = random.Random(seed)
    pieces = ["one", "two,", "\n", "\r\n", '"', '1,"[9,9,9,9]"\n', "é", '\n"[1,2,3,4]",7\n']
    return [
        [str(n), "".join(chance.choices(pieces, k=chance.randrange(12))), "[1,2,3,4]"]
        for n in range(count)
    ]


def as_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "text", "features"])
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_rows_of_several_lines_are_one_record_each(
    tmp_path: Path, linear_bundle: Bundle, compression: Compression
) -> None:
    from model_delivery_engine.batch.compression import compress

    rows = text_rows(20_000)
    suffix = "" if compression == Compression.NONE else ".zst"
    job = Job(tmp_path / "job", linear_bundle, uri=f"mem://in.csv{suffix}")
    job.options = BatchOptions(batch_size=64)
    assert job.run(compress(as_csv(rows), compression)) == ShardResult(20_000, 20_000, 0)
    manifest = job.publish()
    assert manifest.records == 20_000
    found = [line["input"] for line in job.lines()]
    assert found == [{"id": int(n), "text": _said(text)} for n, text, _ in rows]


def _said(text: str) -> object:
    return text


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_last_row_is_one_without_a_final_newline_too(
    tmp_path: Path, linear_bundle: Bundle, compression: Compression, shards: int, end: bytes
) -> None:
    """It lies over the end that is wanted of the first part, and has lines like rows inside."""
    from model_delivery_engine.batch.compression import compress

    rows = [["1", "x\n" * 20_000, "[1,2,3,4]"], ["2", 'a,b,"[9,9,9,9]"\n' * 5_000, "[1,2,3,4]"]]
    data = as_csv(rows).removesuffix(b"\n") + end
    assert 40_100 < 65_536 < len(data)
    job = Job(tmp_path / "job", linear_bundle, uri=f"mem://in.csv{SUFFIX[compression]}")
    assert job.run(compress(data, compression), shards) == ShardResult(2, 2, 0)
    job.publish()
    assert [line["input"]["text"] for line in job.lines()] == [text for _, text, _ in rows]


def test_a_cut_inside_quotes_is_said(job: Job) -> None:
    rows = [["1", "[1,2,3,4]\n" * 400, "[1,2,3,4]"], ["2", "x", "[1,2,3,4]"]]
    assert job.run(as_csv(rows), shards=2).ok == 2  # a plan has none
    again = Job(job.storage.root / "again", job.bundle, uri=job.uri)
    again.storage.put(job.uri, as_csv(rows))
    again.shards = [Shard(index=0, uri=job.uri, start=0, end=as_csv(rows).index(b"\n[1,2") + 1)]
    with pytest.raises(BatchError, match=r"inside quotes .* plan the shards again"):
        again.run_one(0)


@pytest.mark.parametrize("seed", range(3))
def test_plans_cut_between_rows(job: Job, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are small here, so that none but the first begins where the object does."""
    for module in ("csv_rows", "csv_cuts"):
        name = f"model_delivery_engine.batch.{module}.LONGEST_ROW_BYTES"
        monkeypatch.setattr(name, 2_000)
    monkeypatch.setattr("model_delivery_engine.batch.csv_cuts._MEETING_BYTES", 500)
    data = as_csv(text_rows(5_000, seed))
    data += b'1,"open\n2,b,"[1,2,3,4]"\n3,bare"quote,4\n' * 50 + as_csv(text_rows(5_000, seed + 9))
    ends = itertools.accumulate(split_rows(data, is_row(3)), lambda at, row: at + len(row) + 1,
                                initial=0)  # fmt: skip
    job.storage.put(job.uri, data)
    shards = plan(job.storage, job.uri, 400)
    assert len(shards) > 390
    assert {shard["end"] for shard in shards} <= set(ends)


def test_what_can_be_read_in_two_ways_is_not_cut(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line opens quotes that the next one closes, from whichever the reading begins."""
    monkeypatch.setattr("model_delivery_engine.batch.csv_rows.LONGEST_ROW_BYTES", 2_000)
    monkeypatch.setattr("model_delivery_engine.batch.csv_cuts.LONGEST_ROW_BYTES", 2_000)
    monkeypatch.setattr("model_delivery_engine.batch.csv_cuts._FARTHEST_BYTES", 256 * 1024)
    job.storage.put(job.uri, b"a,b\n" + b'",\n' * 500_000)
    with pytest.raises(BatchError, match=r"inside quotes cannot be told .* as one shard"):
        plan(job.storage, job.uri, 2)


def test_without_quotes_a_plan_reads_a_mebibyte_for_each_cut(job: Job) -> None:
    job.storage.put(job.uri, b"a,b\n" + b"1,2\n" * 4_000_000)
    assert len(plan(job.storage, job.uri, 8)) == 8
    assert job.storage.read_bytes[job.uri] < 8 * (LONGEST_ROW_BYTES + 200_000)


def test_a_quote_that_is_never_closed_swallows_no_rows() -> None:
    row = is_row(2)
    data = b'1,"open\n2,b\n3,"c"\n4,d\n5,"e\nf"\n'
    assert split_rows(data, row) == [b'1,"open', b"2,b", b'3,"c"', b"4,d", b'5,"e\nf"']
    far = b'1,"open\n' + b"2,b\n" * (LONGEST_ROW_BYTES // 4) + b'3"\n'
    assert split_rows(far, row)[:2] == [b'1,"open', b"2,b"]


@pytest.fixture
def echo(tmp_path: Path, linear_bundle: Bundle) -> Bundle:
    """Return a model that says the text it is given."""
    path = save_graph(
        tmp_path / "echo" / "model.onnx",
        [helper.make_node("Identity", ["title"], ["said"])],
        {"title": (TensorProto.STRING, ["n"])},
        {"said": (TensorProto.STRING, ["n"])},
    )
    return replace(linear_bundle, model_path=path)


def test_a_text_that_looks_like_a_number_is_a_text(tmp_path: Path, echo: Bundle) -> None:
    titles = ["1984", "2001: A Space Odyssey", "[1]", "-", "1e5", "007"]
    data = "year,title\n" + "".join(f"1990,{title}\n" for title in titles)
    job = Job(tmp_path / "job", echo, uri="mem://in.csv")
    assert job.run(data.encode()) == ShardResult(6, 6, 0)
    job.publish()
    assert [line["output"]["said"] for line in job.lines()] == titles
    assert job.lines()[0]["input"] == {"year": 1990}


def test_a_store_is_asked_for_each_byte_once(job: Job) -> None:
    rows = as_csv(text_rows(5_000)).partition(b"\n")[2]
    data = b"id,text,features\n" + rows * 8 + b'9,"never closed,[1,2,3,4]\n' + rows
    assert job.run(data).records == 45_001
    assert job.storage.read_bytes[job.uri] < 1.1 * len(data)


def test_a_resume_of_the_last_part_reads_little_else(job: Job) -> None:
    data = b"id,text,features\n" + as_csv(text_rows(5_000)).partition(b"\n")[2] * 20
    job.run(data)
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    last = journal.parts.pop(max(journal.parts))
    journal.complete = False
    (uri,) = job.journals()
    job.storage.put(uri, journal.to_json())
    job.storage.read_bytes.clear()
    assert job.run_one(0).records == 100_000
    assert job.storage.read_bytes[job.uri] <= last.end - last.start + 70_000  # and the header


def as_is(line: dict[str, Any]) -> None:
    pass


def sorted_keys(line: dict[str, Any]) -> None:
    line["input"] = dict(sorted(line["input"].items()))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("change", [as_is, sorted_keys])
def test_columns_of_a_pattern_keep_their_order_in_error_lines(
    tmp_path: Path, linear_bundle: Bundle, suffix: str, change: Callable[[dict[str, Any]], None]
) -> None:
    """JSON has no order of fields; a row's error line tells its table's."""
    sink = io.BytesIO()
    rows = {"f_d": [4.0, 4.0], "f_a": [1.0, math.inf], "f_c": [3.0, 3.0], "f_b": [2.0, 2.0]}
    pyarrow.parquet.write_table(pyarrow.table(rows), sink)
    data = {".csv": b"f_d,f_a,f_c,f_b\n4,1,3,2\n4,oops,3,2\n", ".parquet": sink.getvalue()}
    job = Job(tmp_path / "job", linear_bundle, uri=f"mem://in{suffix}")
    job.options = BatchOptions(batch_size=64, input_fields={"f_*": "features"})
    assert job.run(data[suffix]) == ShardResult(2, 1, 1)
    job.publish()
    (error,) = job.lines(ERRORS)
    change(error)
    error["input"]["f_a"] = 1
    again = Job(tmp_path / "again", linear_bundle)
    again.options = job.options
    assert again.run(json.dumps(error).encode()) == ShardResult(1, 1, 0)
    again.publish()
    assert again.lines()[0]["output"] == job.lines()[0]["output"]
    error["input"]["f_0"] = error["input"].pop("f_a")
    again.forget()
    assert again.run(json.dumps(error).encode()) == ShardResult(1, 0, 1)
    again.publish()
    assert "'f_0' is no column of its table" in again.lines()[0]["error"]["reason"]


@pytest.mark.parametrize(
    ("dtype", "cell", "expected"),
    [
        ("BOOL", "true", True),
        ("BOOL", "False", False),
        ("BOOL", " 1", True),
        ("BOOL", "0", False),
        ("INT64", "1.0", 1),
        ("INT64", " 7 ", 7),
        ("FP32", " 1.5", 1.5),
    ],
)
def test_a_cell_is_read_as_the_input_takes_it(dtype: str, cell: str, expected: object) -> None:
    parser = RecordParser([TensorSpec("x", dtype, (-1, 1))], None)
    reader = CsvLines(parser, "mem://in.csv", b"id,x")
    ((batch, _),) = reader.batches(f"7,{cell}\n".encode(), 5, 8)
    assert not batch.faults
    assert isinstance(batch.tensors, dict)
    assert batch.tensors["x"].tolist() == [[expected]]


@pytest.mark.parametrize(
    ("dtype", "cell"), [("BOOL", "2"), ("BOOL", "maybe"), ("INT64", "1.5"), ("FP32", "one")]
)
def test_a_cell_that_it_does_not_take_is_quoted(dtype: str, cell: str) -> None:
    parser = RecordParser([TensorSpec("x", dtype, (-1, 1))], None)
    reader = CsvLines(parser, "mem://in.csv", b"id,x")
    ((batch, _),) = reader.batches(f"7,{cell}\n".encode(), 5, 8)
    assert cell in batch.faults[0].reason
