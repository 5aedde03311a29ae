import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.batch.evaluate import evaluate, wilson_interval
from model_delivery_engine.batch.lines import read_lines
from model_delivery_engine.batch.manifest import merge_results
from model_delivery_engine.batch.pipeline import ShardResult, run_shard
from model_delivery_engine.batch.shards import Shard, plan_shards
from model_delivery_engine.bundle import Bundle, Manifest, open_bundle
from model_delivery_engine.errors import BatchError
from model_delivery_engine.runtime import Model
from onnx import TensorProto, helper

from tests.unit.engine.conftest import linear, save_graph, save_linear

URI = "s3://bucket/input.jsonl"
Compiled = Callable[..., tuple[Manifest, Path]]


def run(data: bytes, model: Model, **options: Any) -> tuple[ShardResult, list[dict[str, Any]]]:
    out: list[bytes] = []
    result = run_shard(read_lines([data]), model, out.append, uri=URI, **options)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in out)
    return result, [json.loads(line) for line in out]


def record(number: int, features: Any) -> str:
    return json.dumps({"id": number, "features": features, "label": number % 3})


@pytest.fixture
def model(linear_bundle: Bundle) -> Model:
    return Model.load(linear_bundle, threads=1)


# Lines and shards


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


# One shard through a model


def test_half_a_surrogate_pair_is_kept_as_it_was_written(model: Model) -> None:
    line = '{"note":"cut \\ud83d","features":[1,2,3,4]}'
    result, lines = run(f"{line}\n".encode() * 3, model)
    assert result == ShardResult(3, 3, 0)
    assert {each["input"]["note"] for each in lines} == {"cut \ud83d"}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_come_in_order_and_equal_numpy(model: Model, batch_size: int) -> None:
    features = np.random.default_rng(0).normal(size=(10, 4)).round(3)
    data = "\n".join(record(n, row.tolist()) for n, row in enumerate(features))
    result, lines = run(data.encode(), model, batch_size=batch_size)
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
        ('{"features": [[1, 2, 3, 4]]}', "shape [1, 4]"),
        ('{"features": [1, 2, [3], 4]}', "not a regular array"),
        ('{"features": ["1", "2", "3", "4"]}', "does not hold FP32"),
        ('{"features": [true, false, true, true]}', "does not hold FP32"),
        ('{"features": null}', "does not hold FP32"),
        ('{"features": [1, 2, NaN, 4]}', "NaN is no JSON number"),
        ('{"features": [1, 2, 3, 4], "w": 1e999}', "1e999 is larger than any"),
        ('{"features": [1, 2, 1e39, 4]}', "outside the range of FP32"),
        ('{"features": [1, 2, 1e99, 4]}', "outside the range of FP32"),
        ('{"features": [1, 2, ' + "9" * 400 + ", 4]}", "does not hold FP32"),
    ],
)
def test_a_bad_record_becomes_one_error_record(model: Model, line: str, why: str) -> None:
    good = record(0, [1, 2, 3, 4])
    result, lines = run(f"{good}\n{line}\n{good}\n".encode(), model)
    assert result == ShardResult(3, 2, 1)
    assert [each["output"] is None for each in lines] == [False, True, False]
    error = lines[1]["error"]
    assert why in error["reason"]
    assert (error["uri"], error["offset"]) == (URI, len(good) + 1)


def test_a_bad_record_keeps_its_other_fields(model: Model) -> None:
    _, lines = run(b'{"id": "a7", "features": [1], "label": 2}', model)
    assert lines[0]["input"] == {"id": "a7", "label": 2}


def test_bytes_that_are_no_text_are_one_error(model: Model) -> None:
    result, lines = run(b'{"id": "\xff\xfe"}\n', model)
    assert result == ShardResult(1, 0, 1)
    assert lines[0]["input"] is None


def test_blank_lines_are_no_records(model: Model) -> None:
    result, _ = run(f"\n  \r\n{record(0, [1, 2, 3, 4])}\r\n\n".encode(), model)
    assert result == ShardResult(1, 1, 0)


def test_no_lines_give_no_output(model: Model) -> None:
    assert run(b"", model) == (ShardResult(0, 0, 0), [])


def test_a_model_of_fixed_batch_gets_its_last_batch_filled_up(
    tmp_path: Path, compiled: Compiled
) -> None:
    path = save_linear(tmp_path / "fixed" / "model.onnx")
    _, archive = compiled(path, '{"features": [4, 4]}')
    fixed = Model.load(open_bundle(archive, tmp_path / "fixed-bundle"))
    features = np.random.default_rng(0).normal(size=(6, 4)).round(3)
    data = "\n".join(record(n, row.tolist()) for n, row in enumerate(features))
    result, lines = run(data.encode(), fixed, batch_size=64)
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
    gather = Model.load(open_bundle(archive, tmp_path / "gather-bundle"))
    data = b'{"id": 2}\n{"id": 99}\n{"id": 0}\n{"id": 1.5}\n'
    result, lines = run(data, gather)
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
    root = Model.load(open_bundle(archive, tmp_path / "log-bundle"))
    result, lines = run(b'{"x": [4]}\n{"x": [-1]}\n', root)
    assert result == ShardResult(2, 1, 1)
    assert lines[0]["output"] == {"y": [2.0]}
    assert lines[1]["error"]["reason"] == "output 'y' is NaN or infinite"


def test_fields_can_be_named_otherwise_than_inputs(model: Model) -> None:
    data = b'{"features": "kept", "pixels": [1, 2, 3, 4]}'
    _, lines = run(data, model, input_fields={"pixels": "features"})
    assert lines[0]["input"] == {"features": "kept"}
    assert lines[0]["error"] is None
    with pytest.raises(BatchError, match="input 'features' has no field"):
        run(data, model, input_fields={"pixels": "image"})


def test_a_batch_size_below_one_is_refused(model: Model) -> None:
    with pytest.raises(BatchError, match="batch_size is 0"):
        run(b"", model, batch_size=0)


# The results' manifest


def shard(index: int, start: int, end: int, uri: str = URI) -> Shard:
    return Shard(index=index, uri=uri, start=start, end=end)


def merge(*parts: tuple[Shard, ShardResult]) -> Any:
    return merge_results(parts, input_uri=URI, input_bytes=100, model_digest="sha256:0")


def test_shards_add_up_in_any_order() -> None:
    manifest = merge(
        (shard(1, 40, 100), ShardResult(6, 6, 0)), (shard(0, 0, 40), ShardResult(4, 3, 1))
    )
    assert (manifest.records, manifest.ok, manifest.errors) == (10, 9, 1)
    assert [each.index for each in manifest.shards] == [0, 1]
    assert json.loads(manifest.to_json())["records"] == 10


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([(shard(0, 0, 40), ShardResult(1, 1, 0))], "end at byte 40 of 100"),
        ([], "end at byte 0 of 100"),
        (
            [(shard(0, 0, 50), ShardResult(1, 1, 0)), (shard(1, 40, 100), ShardResult(1, 1, 0))],
            "shard 1 of .* begins at byte 40, expected 50",
        ),
        ([(shard(0, 0, 100, "s3://other"), ShardResult(1, 1, 0))], "shard 0 of s3://other"),
        ([(shard(0, 0, 100), ShardResult(3, 1, 1))], "read 3 records and wrote 1 answers"),
    ],
)
def test_lost_doubled_or_foreign_shards_are_noticed(
    parts: list[tuple[Shard, ShardResult]], why: str
) -> None:
    with pytest.raises(BatchError, match=why):
        merge(*parts)


# Evaluation


def answer(label: Any, output: Any) -> dict[str, Any]:
    return {"input": {"id": "r1", "label": label}, "output": {"y": output}, "error": None}


def test_accuracy_counts_labels_scores_and_errors() -> None:
    records = [
        answer(1, [0.1, 0.8, 0.1]),
        answer(2, [0.9, 0.0, 0.1]),
        answer(3, 3),
        answer(0, [[0]]),
        {"input": None, "output": None, "error": {"reason": "x"}},
    ]
    result = evaluate(records, output="y", label_field="label")
    assert (result.n, result.correct, result.errors) == (4, 3, 1)
    assert result.accuracy == 0.75
    assert result.confusion == {"1": {"1": 1}, "2": {"0": 1}, "3": {"3": 1}, "0": {"0": 1}}


def test_wilsons_interval() -> None:
    # 81 of 263: the worked example of Newcombe (1998), table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "no record was answered"),
        ([{"input": None, "output": None, "error": {}}], r"\(1 errors\)"),
        ([{"input": {"id": "r9"}, "output": {"y": 1}, "error": None}], "'r9' has no label field"),
        ([answer(1, [[0.1, 0.9], [0.2, 0.8]])], "neither one value nor one list of scores"),
        ([answer("1", [0.1, 0.9])], "'r1' has label '1', and the model answers 1: labels must be"),
        ([answer(1, [])], "neither one value nor one list of scores"),
        ([{"input": {"label": 1}, "output": {"z": 1}, "error": None}], "no output 'y'.* are z"),
    ],
)
def test_what_cannot_be_evaluated_is_said(records: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(BatchError, match=why):
        evaluate(records, output="y", label_field="label")
