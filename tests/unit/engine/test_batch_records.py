"""Records through a model, good and bad, in one shard."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet
import pytest
from model_delivery_engine.batch.answers import error_line
from model_delivery_engine.batch.batch import Batch, Fault
from model_delivery_engine.batch.formats import OutputFormat
from model_delivery_engine.batch.inference import answer
from model_delivery_engine.batch.json_lines import JsonLines
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult
from model_delivery_engine.batch.records import Missing, RecordParser
from model_delivery_engine.bundle import Bundle, Manifest, open_bundle
from model_delivery_engine.errors import BatchError, InferenceError
from model_delivery_engine.tensors import Array, TensorSpec
from onnx import TensorProto, helper

from tests.unit.engine.batch_job import ERRORS, RESULTS, URI, Job
from tests.unit.engine.conftest import linear, save_graph, save_linear

Compiled = Callable[..., tuple[Manifest, Path]]


def record(number: int, features: Any) -> str:
    return json.dumps({"id": number, "features": features, "label": number % 3})


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_come_in_order_and_equal_numpy(job: Job, batch_size: int) -> None:
    features = np.random.default_rng(0).normal(size=(10, 4)).round(3)
    data = "\n".join(record(n, row.tolist()) for n, row in enumerate(features))
    result, lines = job.answers(data.encode(), batch_size=batch_size)
    assert result == ShardResult(10, 10, 0)
    assert [line["input"] for line in lines] == [{"id": n, "label": n % 3} for n in range(10)]
    np.testing.assert_allclose(
        [line["output"]["scores"] for line in lines], linear(features), rtol=1e-4
    )
    assert all(line["error"] is None for line in lines)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"id": 1}', "'features' is missing"),
        ('{"features": [1, 2, 3]}', r"shape [3], input 'features' takes [4]"),
        ('{"features": [1]}', "shape [1], input"),
        ('{"features": []}', "shape [0], input"),
        ('{"features": [[1, 2, 3, 4]]}', "shape [1, 4]"),
        ('{"features": [1, 2, [3], 4]}', "not a regular array"),
        ('{"features": ["1", "2", "3", "4"]}', "does not hold FP32"),
        ('{"features": [true, false, true, true]}', "does not hold FP32"),
        ('{"features": [1, true, 3, 4]}', "holds values of several kinds"),
        ('{"features": [1, "2", 3, 4]}', "does not hold FP32"),
        ('{"features": null}', "does not hold FP32"),
        ('{"features": [1, 2, NaN, 4]}', "not JSON"),
        ('{"features": [1, 2, 3, 4], "w": 1e999}', "infinity"),
        ('{"features": [1, 2, 3, 4], "note": "cut \\ud83d"}', "surrogate"),
        ('{"features": [1, 2, 1e39, 4]}', "outside the range of FP32"),
        ('{"features": [1, 2, 1e999, 4]}', "infinity"),
        ('{"features": [1, 2, ' + "9" * 400 + ", 4]}", "infinity"),
    ],
)
def test_a_bad_record_becomes_one_error_record(job: Job, line: str, why: str) -> None:
    good = record(0, [1, 2, 3, 4])
    result, lines = job.answers(f"{good}\n{line}\n{good}\n".encode())
    assert result == ShardResult(3, 2, 1)
    assert [each["output"] is None for each in lines] == [False, True, False]
    error = lines[1]["error"]
    assert why in error["reason"]
    assert (error["uri"], error["offset"]) == (URI, len(good) + 1)


def test_an_error_record_holds_all_of_the_record(job: Job) -> None:
    _, lines = job.answers(b'{"id": "a7", "features": [1], "label": 2}')
    assert lines[0]["input"] == {"id": "a7", "features": [1], "label": 2}
    assert job.lines(ERRORS) == lines


def test_bytes_that_are_no_text_are_one_error(job: Job) -> None:
    result, lines = job.answers(b'{"id": "\xff\xfe"}\n')
    assert result == ShardResult(1, 0, 1)
    assert lines[0]["input"] is None


def test_blank_lines_are_no_records(job: Job) -> None:
    result, _ = job.answers(f"\n  \r\n{record(0, [1, 2, 3, 4])}\r\n\n".encode())
    assert result == ShardResult(1, 1, 0, skipped=3)


def test_no_lines_give_no_output(job: Job) -> None:
    assert job.answers(b"") == (ShardResult(0, 0, 0), [])


def test_a_model_of_fixed_batch_gets_its_last_batch_filled_up(
    tmp_path: Path, compiled: Compiled
) -> None:
    path = save_linear(tmp_path / "fixed" / "model.onnx")
    _, archive = compiled(path, '{"features": [4, 4]}')
    fixed = open_bundle(archive, tmp_path / "fixed-bundle")
    features = np.random.default_rng(0).normal(size=(6, 4)).round(3)
    data = "\n".join(record(n, row.tolist()) for n, row in enumerate(features))
    result, lines = Job(tmp_path / "job", fixed).answers(data.encode())
    assert result == ShardResult(6, 6, 0)
    scores = [line["output"]["scores"] for line in lines]
    np.testing.assert_allclose(scores, linear(features), rtol=1e-4)


def test_a_record_that_fails_in_the_model_costs_no_other_its_answer(
    tmp_path: Path, compiled: Compiled
) -> None:
    path = save_graph(
        tmp_path / "gather" / "model.onnx",
        [helper.make_node("Gather", ["table", "id"], ["y"])],
        {"id": (TensorProto.INT64, ["n"])},
        {"y": (TensorProto.FLOAT, ["n"])},
        {"table": np.array([10, 20, 30], np.float32)},
    )
    _, archive = compiled(path, '{"id": [-1]}')
    gather = open_bundle(archive, tmp_path / "gather-bundle")
    data = b'{"id": 2}\n{"id": 99}\n{"id": 0}\n{"id": 1.5}\n'
    result, lines = Job(tmp_path / "job", gather).answers(data)
    assert result == ShardResult(4, 2, 2)
    assert [line["output"] and line["output"]["y"] for line in lines] == [30.0, None, 10.0, None]
    assert "failed on its inputs" in lines[1]["error"]["reason"]
    assert "does not hold INT64" in lines[3]["error"]["reason"]


def test_an_answer_of_nan_is_an_error_not_broken_json(tmp_path: Path, compiled: Compiled) -> None:
    path = save_graph(
        tmp_path / "log" / "model.onnx",
        [helper.make_node("Sqrt", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 1])},
        {"y": (TensorProto.FLOAT, ["n", 1])},
    )
    _, archive = compiled(path, '{"x": [-1, 1]}')
    root = open_bundle(archive, tmp_path / "log-bundle")
    result, lines = Job(tmp_path / "job", root).answers(b'{"x": [4]}\n{"x": [-1]}\n')
    assert result == ShardResult(2, 1, 1)
    assert lines[0]["output"] == {"y": [2.0]}
    assert lines[1]["error"]["reason"] == "output 'y' is NaN or infinite"


@pytest.fixture
def roots(tmp_path: Path, linear_bundle: Bundle) -> Bundle:
    """Return a model of square roots, of as many numbers as each record has."""
    path = save_graph(
        tmp_path / "roots" / "model.onnx",
        [helper.make_node("Sqrt", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", "m"])},
        {"y": (TensorProto.FLOAT, ["n", "m"])},
    )
    return replace(linear_bundle, model_path=path)  # the compiler would fix the dimension


RAGGED = b'{"x": [0.01, 2]}\n{"x": [-1]}\n{"x": [0.01]}\n{"x": [3, 1, 0.01]}\n'


def test_answers_of_different_lengths_are_as_those_of_equal_ones(
    tmp_path: Path, roots: Bundle
) -> None:
    result, lines = Job(tmp_path / "ragged", roots).answers(RAGGED)
    assert result == ShardResult(4, 3, 1)
    assert lines[1]["error"]["reason"] == "output 'y' is NaN or infinite"
    alone = Job(tmp_path / "alone", roots)
    _, (one,) = alone.answers(b'{"x": [3, 1, 0.01]}\n')
    assert alone.storage.get(RESULTS) in Job(tmp_path / "ragged", roots).storage.get(RESULTS)
    assert one == lines[3]


def test_records_of_one_shape_are_run_together() -> None:
    class Doubles:
        runs: ClassVar[list[tuple[int, ...]]] = []
        name, batch_size, inputs, outputs = "doubles", None, (), ()

        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            self.runs.append(inputs["x"].shape)
            if 99 in inputs["x"]:
                raise InferenceError("ninety-nine")
            return {"y": inputs["x"] * 2}

    samples = [{"x": np.arange(n, n + 1 + n % 3)} for n in range(12)]
    made = Batch(12, [b""] * 12, samples, lambda _place, why: Fault(why, "file:///x", 0, b""))
    answers = answer(made, Doubles())
    assert Doubles.runs == [(4, 1), (4, 2), (4, 3)]
    for each, sample in zip(answers.outputs["y"], samples, strict=True):
        np.testing.assert_array_equal(each, sample["x"] * 2)

    samples[5] = {"x": np.array([99])}
    answers = answer(made, Doubles())
    assert {place: fault.reason for place, fault in answers.faults.items()} == {5: "ninety-nine"}
    left = samples[:5] + samples[6:]
    for each, sample in zip(answers.outputs["y"], left, strict=True):
        np.testing.assert_array_equal(each, sample["x"] * 2)


def test_answers_of_different_lengths_in_parquet(tmp_path: Path, roots: Bundle) -> None:
    job = Job(tmp_path / "job", roots)
    job.options = BatchOptions(batch_size=64, output_format=OutputFormat.PARQUET)
    assert job.run(RAGGED) == ShardResult(4, 3, 1)
    job.publish()
    found = pyarrow.parquet.read_table(job.storage.path(RESULTS))["y"].to_pylist()
    assert found[1] is None
    np.testing.assert_allclose(found[3], np.sqrt([3, 1, 0.01]), rtol=1e-6)


def test_fields_can_be_named_otherwise_than_inputs(job: Job, tmp_path: Path) -> None:
    data = b'{"features": "kept", "pixels": [1, 2, 3, 4]}'
    _, lines = job.answers(data, input_fields={"pixels": "features"})
    assert lines[0]["input"] == {"features": "kept"}
    assert lines[0]["error"] is None
    other = Job(tmp_path / "other", job.bundle)
    with pytest.raises(BatchError, match="input 'features' has no field"):
        other.answers(data, input_fields={"pixels": "image"})


def test_a_batch_size_below_one_is_refused(job: Job) -> None:
    with pytest.raises(BatchError, match="batch_size is 0"):
        job.answers(b"x", batch_size=0)


LONG = 123456789012345678901234567890


@pytest.mark.parametrize(
    "fields",
    [
        {"id": LONG},
        {"id": -(2**63) - 1},
        {"id": 2**64},
        {"id": 2**64 - 1, "low": -(2**63)},
        {"at": {"deep": [{"id": LONG}, "é", 0.1, None]}},
        {"label": "9" * 40, "share": 0.12345678901234568},
    ],
)
def test_a_whole_number_of_any_length_is_kept(job: Job, fields: dict[str, Any]) -> None:
    line = json.dumps({**fields, "features": [1, 2, 3, 4]}).encode()
    bad = json.dumps({**fields, "features": [1]}).encode()
    _, (answer, error) = job.answers(line + b"\n" + bad)
    assert answer["input"] == fields
    assert error["input"] == {**fields, "features": [1]}
    _, (again,) = Job(job.storage.root / "again", job.bundle).answers(
        job.storage.get(ERRORS).replace(b"[1]", b"[1, 2, 3, 4]")
    )
    assert again["input"] == fields


def test_a_long_whole_number_is_a_float_where_the_model_takes_one(job: Job) -> None:
    line = b'{"features": [1e25, 10000000000000000000000000, 0.5, 4]}'
    _, (found, expected) = job.answers(line + b"\n" + line.replace(b"1" + b"0" * 25, b"1e25"))
    assert found["output"] == expected["output"]


def nested(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


def envelope(record: Any = None, **error: Any) -> str:
    given = {"reason": "why", "uri": "mem://first", "offset": 3, **error}
    return json.dumps({"input": record, "output": None, "error": given})


@pytest.mark.parametrize(
    "line",
    [
        envelope(base64=5),
        envelope(base64=["x"]),
        envelope(base64="no base64!"),
        envelope(base64="abc"),
        envelope(base64="\u00e9"),
        envelope(offset="3"),
        envelope(offset=2**70),
        envelope(offset=-1),
        envelope(offset=True),
        envelope(uri={"a": 1}),
        envelope(reason=None),
        envelope(columns=3),
        envelope(columns=["a", 3]),
        '{"input": ' + nested(1000) + ', "output": null, "error": '
        '{"reason": "", "uri": "", "offset": 0}}',
        '{"features": [1, 2, 3, 4], "deep": ' + nested(1010) + "}",
        '{"features": ' + nested(1010) + "}",
        f'{{"features": [1, 2, 3, 4], "id": {2**70}, "deep": {nested(990)}}}',
    ],
)
@pytest.mark.parametrize("output_format", OutputFormat)
def test_no_line_ends_the_job(job: Job, line: str, output_format: OutputFormat) -> None:
    good = record(0, [1, 2, 3, 4])
    job.options = BatchOptions(batch_size=64, output_format=output_format)
    assert job.run(f"{good}\n{line}\n{good}\n".encode()) == ShardResult(3, 2, 1)
    job.publish()
    (error,) = job.storage.get(ERRORS).splitlines()
    place = b'"uri":"mem://input.jsonl","offset":%d' % (len(good) + 1)
    assert place in error
    assert line.encode() in error  # whole, and as it was


def test_an_error_line_without_a_record_is_one_again(job: Job) -> None:
    _, lines = job.answers(envelope(base64="//4=").encode() + b"\n" + envelope().encode())
    assert [each["error"]["uri"] for each in lines] == ["mem://first"] * 2
    assert lines[0]["error"]["base64"] == "//4="


def test_an_error_line_is_opened_though_it_could_be_a_record_itself() -> None:
    """As of a model whose input has the name of a line's own field, and takes any text."""
    reader = JsonLines(RecordParser([TensorSpec("input", "BYTES", (-1, 1))], None), URI)
    lines = [b'{"input":"good"}', b'{"input":"a text that is cut o']
    batch, _ = reader.read(lines, 0)
    again, _ = reader.read([error_line(batch.faults[1]).strip()], 0)
    assert (again.echoes, len(again.faults)) == ([], 1)
    assert again.faults[0].record == batch.faults[1].record
    numbers = JsonLines(RecordParser([TensorSpec("input", "FP32", (-1, 2))], None), URI)
    resembling = envelope([1, 2]).encode()  # no error line holds a list: alone, or beside a bad one
    for beside in ([], [b"bad"]):
        batch, _ = numbers.read([resembling, *beside], 0)
        assert 0 not in batch.faults


def test_fields_of_a_pattern_are_taken_by_their_numbers(job: Job) -> None:
    fields = {"f1": 1, "f10": 4, "f2": 2, "f9": 3}
    orders = [list(fields), list(reversed(fields)), sorted(fields)]
    records = [{name: fields[name] for name in order} for order in orders]
    data = "".join(json.dumps(each) + "\n" for each in [*records, {"fa": 1, "fb": 2}])
    result, lines = job.answers(data.encode(), input_fields={"f*": "features"})
    assert result == ShardResult(4, 3, 1)
    expected = linear([[1, 2, 3, 4]] * 3)
    np.testing.assert_allclose([each["output"]["scores"] for each in lines[:3]], expected, 1e-4)
    assert "the fields of 'f*' have no order in JSON" in lines[3]["error"]["reason"]


def test_a_retry_takes_fields_in_the_batchs_order(job: Job) -> None:
    """An error line of JSON has no order either, whoever wrote the record's fields in which."""
    fields = {"f1": 1, "f10": 4, "f2": 2, "f9": "oops"}
    order = {"f*": "features"}
    job.answers(json.dumps(fields).encode(), input_fields=order)
    corrected = job.storage.get(ERRORS).replace(b'"oops"', b"3")
    _, lines = Job(job.storage.root / "again", job.bundle).answers(corrected, input_fields=order)
    expected = linear([[1, 2, 3, 4]])
    np.testing.assert_allclose([each["output"]["scores"] for each in lines], expected, 1e-4)


def test_a_byte_order_mark_is_no_part_of_the_first_record(job: Job) -> None:
    good = record(0, [1, 2, 3, 4])
    result, lines = job.answers(b"\xef\xbb\xbf" + f"{good}\n{{}}\n".encode())
    assert result == ShardResult(2, 1, 1)
    assert lines[1]["error"]["offset"] == 3 + len(good) + 1


def test_a_records_numbers_do_not_depend_on_its_neighbours(job: Job) -> None:
    """A whole number that a double has no place for, on the way to a float."""
    spec = TensorSpec("x", "FP32", (-1, 2))
    parser = RecordParser([spec], None)
    line = b'{"x": [1152921573326323713, 1]}'
    fast, _ = JsonLines(parser, URI).read([line, line], 0)
    slow, _ = JsonLines(parser, URI).read([line, b"bad"], 0)
    np.testing.assert_array_equal(fast.tensors["x"][:1], slow.tensors["x"])


def test_a_text_keeps_a_zero_at_its_end() -> None:
    spec = TensorSpec("x", "BYTES", (-1, 2))
    parsed = RecordParser([spec], None).parse(0, b'{"x": ["a\\u0000", "b"]}')
    assert parsed.tensors["x"].tolist() == ["a\0", "b"]
    for mixed in (b'{"x": ["a", 1.1]}', b'{"x": ["a", true]}', b'{"x": ["a", null]}'):
        assert "does not hold BYTES" in str(RecordParser([spec], None).parse(0, mixed).reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 1, "x": [1.0, NaN]}', None),
        (b'{"id": 1, "x": [1.0, Infinity]}', "not JSON"),
        (b'{"id": 1, "x": [1.0, NaN}', "not JSON"),
    ],
)
def test_nan_in_json_lines_is_a_missing_value(line: bytes, reason: str | None) -> None:
    spec = TensorSpec("x", "FP32", (-1, 2))
    record = RecordParser([spec], None, Missing.NAN).parse(0, line)
    if reason is None:
        assert record.reason is None
        assert np.array_equal(record.tensors["x"], np.array([1, np.nan], np.float32), True)
    else:
        assert reason in str(record.reason)
    assert "not JSON" in str(RecordParser([spec], None).parse(0, line).reason)
