"""Models of other shapes than a row of numbers in, a row of numbers out."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import Compression, OutputFormat
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult
from model_delivery_engine.batch.records import Missing
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.errors import BatchError
from onnx import TensorProto, helper

from tests.unit.engine.batch_job import ERRORS, URI, Job
from tests.unit.engine.conftest import Dims, save_graph

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Made = Callable[..., Job]
node = helper.make_node


@pytest.fixture
def made(tmp_path: Path, linear_bundle: Bundle) -> Made:
    """Return what makes a job of a graph."""

    def _made(nodes: list[Any], inputs: Any, outputs: Any, *, uri: str = URI, **more: Any) -> Job:
        path = save_graph(tmp_path / "graph" / "model.onnx", nodes, inputs, outputs, more)
        return Job(tmp_path / "job", replace(linear_bundle, model_path=path), uri=uri)

    return _made


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(table: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def table_model(made: Made, uri: str, shape: Dims) -> Job:
    return made(
        [node("Concat", ["age", "income"], ["y"], axis=1)],
        {"age": (FLOAT, shape), "income": (FLOAT, shape)},
        {"y": (FLOAT, ["n", *[None] * (len(shape) - 1)])},
        uri=uri,
    )


@pytest.mark.parametrize("shape", [["n", 1], ["n", 1, 1]])
@pytest.mark.parametrize(
    ("uri", "data"),
    [
        (URI, lines([{"id": 1, "age": 3, "income": 2.5}, {"id": 2, "age": 4, "income": 5}])),
        ("mem://in.csv", b"id,age,income\n1,3,2.5\n2,4,5\n"),
        (
            "mem://in.parquet",
            parquet(pyarrow.table({"id": [1, 2], "age": [3.0, 4.0], "income": [2.5, 5.0]})),
        ),
    ],
)
def test_a_number_is_an_input_of_one_element(
    made: Made, uri: str, data: bytes, shape: Dims
) -> None:
    job = table_model(made, uri, shape)
    assert job.run(data) == ShardResult(2, 2, 0)
    job.publish()
    answers = [np.ravel(line["output"]["y"]).tolist() for line in job.lines()]
    assert answers == [[3, 2.5], [4, 5]]
    assert [line["input"] for line in job.lines()] == [{"id": 1}, {"id": 2}]


def test_a_list_of_one_is_still_one(made: Made) -> None:
    job = table_model(made, URI, ["n", 1])
    rows = [{"age": [3], "income": [2.5]}, {"age": 4, "income": [5], "tags": [1]}, {"age": [1, 2]}]
    assert job.run(lines(rows)) == ShardResult(3, 2, 1)


def test_a_number_is_no_row_of_any_length(made: Made) -> None:
    job = made([node("Identity", ["x"], ["y"])], {"x": (FLOAT, ["n", "l"])},
               {"y": (FLOAT, ["n", "l"])})  # fmt: skip
    assert job.run(lines([{"x": 3}, {"x": [3]}])) == ShardResult(2, 1, 1)


@pytest.mark.parametrize("uri", [URI, "mem://in.csv", "mem://in.parquet"])
def test_a_text_is_an_input_of_one_element(made: Made, uri: str) -> None:
    texts = ["007", "[1]", "a\nb", ""]
    given = {
        URI: lines([{"t": text} for text in texts]),
        "mem://in.csv": b'id,t\n1,007\n2,"[1]"\n3,"a\nb"\n4,\n',
        "mem://in.parquet": parquet(pyarrow.table({"t": texts})),
    }
    job = made([node("Identity", ["t"], ["y"])], {"t": (STRING, ["n", 1])},
               {"y": (STRING, ["n", 1])}, uri=uri)  # fmt: skip
    assert job.run(given[uri]) == ShardResult(4, 4, 0)
    job.publish()
    assert [line["output"]["y"] for line in job.lines()] == [[text] for text in texts]


@pytest.mark.parametrize(
    ("nodes", "shape", "declared", "more"),
    [
        ([node("ReduceMean", ["x"], ["y"], keepdims=0)], ["n", 4], [], {}),  # of the whole batch
        ([node("ReduceMean", ["x"], ["y"], keepdims=0)], [8, 4], [], {}),
        ([node("Gather", ["x", "at"], ["y"])], [4], [2], {"at": np.array([0, 1])}),  # none at all
    ],
)
def test_an_output_without_a_batch_is_refused_before_anything_is_read(
    made: Made, nodes: list[Any], shape: Dims, declared: Dims, more: dict[str, Any]
) -> None:
    job = made(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, declared)}, **more)
    with pytest.raises(BatchError, match=r"output 'y' has shape .* batch as first dimension"):
        job.run(lines([{"x": [1, 2, 3, 4]}]))
    assert job.storage.read_bytes[job.uri] == 4  # to see that it is text


def test_an_output_of_unknown_rank_is_none_of_rank_0(made: Made) -> None:
    """ONNX Runtime says the same of both."""
    job = made([node("Reshape", ["x", "s"], ["y"])], {"x": (FLOAT, ["n", 4])},
               {"y": (FLOAT, None)}, s=np.array([-1, 2, 2]))  # fmt: skip
    assert job.run(lines([{"x": [1, 2, 3, n]} for n in range(5)])) == ShardResult(5, 5, 0)


@pytest.mark.parametrize("batch_size", [None, 64])
def test_outputs_of_varying_length_of_a_model_that_takes_one_record(
    made: Made, batch_size: int | None
) -> None:
    nodes = [node("NonZero", ["x"], ["both"]), node("Slice", ["both", "a", "e"], ["y"])]
    job = made(nodes, {"x": (FLOAT, [1, 4])}, {"y": (INT64, [1, "k"])}, a=np.array([1]),
               e=np.array([2]))  # fmt: skip
    job.options = replace(job.options, batch_size=batch_size)
    rows = [[n % 2, 1, 0, n % 3] for n in range(6)]
    assert job.run(lines([{"x": row} for row in rows])) == ShardResult(6, 6, 0)
    job.publish()
    expected = [np.flatnonzero(row).tolist() for row in rows]
    assert [line["output"]["y"] for line in job.lines()] == expected


def test_parquet_that_names_a_column_twice_is_refused(made: Made) -> None:
    job = table_model(made, "mem://in.parquet", ["n", 1])
    columns = [pyarrow.array([1.0]), pyarrow.array([2.0]), pyarrow.array([3.0])]
    table = pyarrow.Table.from_arrays(columns, names=["age", "income", "age"])
    with pytest.raises(BatchError, match="two columns of the name 'age'; name each once"):
        job.run(parquet(table))


@pytest.mark.parametrize("uri", [URI, "mem://in.csv"])
@pytest.mark.parametrize(("packed", "end"), [(Compression.GZIP, ".gz"), (Compression.ZSTD, ".zst")])
def test_compressed_bytes_under_a_plain_name_are_refused(
    made: Made, uri: str, packed: Compression, end: str
) -> None:
    job = table_model(made, uri, ["n", 1])
    with pytest.raises(BatchError, match=rf"{uri} is {packed}, .* let it end in {end}, or"):
        job.run(compress(b'{"age": 1, "income": 2}\n' * 99, packed))


NAN = float("nan")
VALUES = pyarrow.table({"x": [2.0, None, NAN, math.inf]})
LISTS = pyarrow.table({"x": [[2.0], [None], [NAN], [math.inf]]})
GAPS = {  # a value, two or more that are missing, one that is wrong
    "json": (URI, b'{"x":2}\n{"x":null}\n{"x":"NaN"}\n{"x":[2,3]}\n'),
    "json-list": (URI, b'{"x":[2]}\n{"x":[null]}\n{"x":["NA"]}\n{"x":[[null]]}\n'),
    "csv": ("mem://in.csv", b"id,x\n1,2\n2,\n3,NaN\n4,n.a.\n"),
    "csv-list": ("mem://in.csv", b"id,x\n1,[2]\n2,[null]\n3,n/a\n4,[true]\n"),
    "parquet": ("mem://in.parquet", parquet(VALUES)),
    "parquet-whole": ("mem://in.parquet", parquet(VALUES.slice(0, 3))),
    "parquet-list": ("mem://in.parquet", parquet(LISTS)),
    "parquet-list-whole": ("mem://in.parquet", parquet(LISTS.slice(0, 3))),
    "raw": ("mem://in.raw", np.array([2, NAN, -NAN, math.inf], "<f4").tobytes()),
}


@pytest.mark.parametrize(
    ("asked", "framework", "taken"),
    [
        (None, "ONNX", False), (None, "XGBOOST", True), (Missing.NAN, "SKLEARN", True),
        (Missing.ERROR, "XGBOOST", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", GAPS)
def test_a_missing_value_is_nan_to_a_model_that_takes_it(
    made: Made, name: str, asked: Missing | None, framework: str, taken: bool
) -> None:
    uri, data = GAPS[name]
    job = made(
        [node("IsNaN", ["x"], ["gap"]), node("Where", ["gap", "instead", "x"], ["y"])],
        {"x": (FLOAT, ["n", 1])}, {"y": (FLOAT, ["n", 1])}, uri=uri,
        instead=np.array([-1], np.float32),
    )  # fmt: skip
    manifest = job.bundle.manifest
    source = replace(manifest.source, framework=framework)
    job.bundle = replace(job.bundle, manifest=replace(manifest, source=source))
    job.options = BatchOptions(batch_size=64, missing=asked)
    job.run(data, record_bytes=4)
    job.publish()
    expected = [2.0, -1.0, -1.0, None] if taken else [2.0, None, None, None]
    found = [line["output"] and line["output"]["y"][0] for line in job.lines()]
    assert found == expected[: len(found)]
    if not taken:
        assert "missing='nan'" in job.lines()[1]["error"]["reason"]
        again = Job(job.storage.root / "again", job.bundle)
        again.options = BatchOptions(batch_size=64, missing=Missing.NAN)
        again.run(job.storage.get(ERRORS))
        again.publish()
        found = [line["output"] for line in again.lines()]
        assert found == [{"y": [-1.0]}, {"y": [-1.0]}, None][: len(found)]


def test_nan_is_called_by_its_name(made: Made) -> None:
    job = table_model(made, "mem://in.parquet", ["n", 1])
    table = pyarrow.table({"age": [1.0, float("nan"), 1e39], "income": [1.0, 2.0, 3.0]})
    assert job.run(parquet(table)) == ShardResult(3, 1, 2)
    job.publish()
    reasons = [line["error"]["reason"] for line in job.lines() if line["error"]]
    assert reasons[0] == (
        "field 'age' holds NaN; put a number there, or say missing='nan' where the model takes NaN"
    )
    assert "outside the range of FP32" in reasons[1]


def test_parquet_has_outputs_as_the_model_declares_them(made: Made) -> None:
    job = made(
        [node("Reshape", ["x", "shape"], ["y"])], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n"])},
        shape=np.array([-1, 4]),
    )  # fmt: skip
    data = lines([{"x": [1, 2, 3, 4]}] * 3)
    job.options = BatchOptions(batch_size=64, output_format=OutputFormat.PARQUET)
    with pytest.raises(BatchError, match=r"output 'y' is not the float a record that .*='jsonl'"):
        job.run(data)
    job.forget()
    job.options = BatchOptions(batch_size=64)
    assert job.run(data) == ShardResult(3, 3, 0)
