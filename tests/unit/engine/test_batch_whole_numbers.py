"""Whole numbers of every size, the same by every way in and out."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from model_delivery_engine.batch.formats import OutputFormat
from model_delivery_engine.batch.pipeline import BatchOptions
from model_delivery_engine.bundle import Bundle
from onnx import TensorProto, helper

from tests.unit.engine.batch_job import RESULTS, Job
from tests.unit.engine.conftest import save_graph

TYPES = {"UINT64": TensorProto.UINT64, "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8}
LIMITS = {"UINT64": (0, 2**64 - 1), "INT64": (-(2**63), 2**63 - 1), "UINT8": (0, 255)}
ROWS = [
    [0, 1], [2**63 - 1, 1], [2**63, 1], [2**64 - 1, 0], [2**64, 1], [-1, 1], [-(2**63), 0],
    [2**63, 2**63], [-1, 2**63], [255, 0], [256, 0],
]  # fmt: skip


@pytest.fixture
def same(request: pytest.FixtureRequest, tmp_path: Path, linear_bundle: Bundle) -> Bundle:
    """Return a model that answers what it is given."""
    kind = TYPES[request.param]
    path = save_graph(
        tmp_path / "same" / "model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (kind, ["n", 2])},
        {"y": (kind, ["n", 2])},
    )
    return replace(linear_bundle, model_path=path)


def jsonl(rows: list[list[int]]) -> bytes:
    return b"".join(json.dumps({"x": row}).encode() + b"\n" for row in rows)


def as_csv(rows: list[list[int]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([["x"], *([json.dumps(row)] for row in rows)])
    return text.getvalue().encode()


@pytest.mark.parametrize("output_format", list(OutputFormat))
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("same", list(TYPES), indirect=True)
def test_a_number_is_answered_where_the_models_type_holds_it(
    tmp_path: Path, same: Bundle, form: str, together: bool, output_format: OutputFormat,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Alone or beside a bad record: one reads whole batches at once, the other each record."""
    low, high = LIMITS[request.node.callspec.params["same"]]
    good = [row for row in ROWS if low <= min(row) and max(row) <= high]
    rows = ROWS if together else good
    job = Job(tmp_path / "job", same, uri=f"mem://in.{form}")
    job.options = BatchOptions(batch_size=64, output_format=output_format)
    job.run(jsonl(rows) if form == "jsonl" else as_csv(rows))
    job.publish()
    if output_format == OutputFormat.PARQUET:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(job.storage.get(RESULTS)))
        answers, errors = table["y"].to_pylist(), table["error"].to_pylist()
    else:
        answers = [line["output"] and line["output"]["y"] for line in job.lines()]
        errors = [line["error"] for line in job.lines()]
    assert answers == [row if row in good else None for row in rows]
    reasons = {error["reason"] for error in errors if error is not None}
    assert all("has a value outside the range of" in reason for reason in reasons)


@pytest.mark.parametrize("kind", ["uint64", "int64"])
@pytest.mark.parametrize("nulls", [True, False])
@pytest.mark.parametrize("same", list(TYPES), indirect=True)
def test_columns_of_parquet(
    tmp_path: Path, same: Bundle, kind: str, nulls: bool, request: pytest.FixtureRequest
) -> None:
    low, high = LIMITS[request.node.callspec.params["same"]]
    least, most = LIMITS[kind.upper()]
    rows = [row for row in ROWS if least <= min(row) and max(row) <= most]
    values = [*rows, *([None] if nulls else [])]
    table = pyarrow.table({"x": pyarrow.array(values, pyarrow.list_(getattr(pyarrow, kind)()))})
    data = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, data)
    job = Job(tmp_path / "job", same, uri="mem://in.parquet")
    job.run(data.getvalue().to_pybytes())
    job.publish()
    answers = [line["output"] and line["output"]["y"] for line in job.lines()]
    fits = [low <= min(row) and max(row) <= high for row in rows]
    expected = [row if fit else None for row, fit in zip(rows, fits, strict=True)]
    assert answers == [*expected, *([None] if nulls else [])]
