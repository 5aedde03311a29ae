"""Recommenders: every recipe against plain numpy."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import pytest
from model_delivery_engine.batch.formats import Compression, InputFormat, OutputFormat
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.parts import Part, PartData
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult, shard_folder
from model_delivery_engine.batch.pool import Processes
from model_delivery_engine.batch.recipes import Recipe, is_recommender, recipe_of
from model_delivery_engine.batch.recommend import Recommendations, _plain_lines
from model_delivery_engine.batch.recommender_bundle import write_recommender_bundle
from model_delivery_engine.batch.recommender_model import write_recommender
from model_delivery_engine.batch.runner import Work
from model_delivery_engine.batch.sinks import FILE_BYTES, PartFile
from model_delivery_engine.errors import BatchError

from tests.unit.engine.batch_job import ERRORS, FOLDER, RESULTS, URI, Job

USERS = [f"u{n}" for n in range(1000)]
ITEMS = [f'i"{n},[' for n in range(300)]  # ids with what JSON has to escape
RANDOM = np.random.default_rng(0)
USER_FACTORS = RANDOM.normal(size=(1000, 16)).astype(np.float32)
ITEM_FACTORS = RANDOM.normal(size=(300, 16)).astype(np.float32)


def job_of(tmp_path: Path, recipe: Recipe, **asked: Any) -> Job:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"{recipe}.onnx"
    write_recommender(path, recipe=recipe, users=USERS, items=ITEMS, user_factors=USER_FACTORS,
                      item_factors=ITEM_FACTORS)  # fmt: skip
    source = SimpleNamespace(framework="ONNX")
    manifest = SimpleNamespace(name="films", model_digest="sha256:0", inputs=(), source=source)
    job = Job(tmp_path / "job", SimpleNamespace(model_path=path, manifest=manifest))  # type: ignore[arg-type]
    job.options = BatchOptions(batch_size=32, recommendations=Recommendations(**asked))
    return job


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\r\n" for record in records)


def top(scores: Any, count: int) -> tuple[list[str], Any]:
    order = np.argsort(-scores, kind="stable")[:count]
    return [ITEMS[n] for n in order], scores[order]


@pytest.mark.parametrize("count", [1, 25, 300])
def test_a_thousand_users_as_numpy_says(tmp_path: Path, count: int) -> None:
    job = job_of(tmp_path, Recipe.USER_PERSONALIZATION, results=count)
    assert job.run(lines([{"userId": name} for name in USERS])) == ShardResult(1000, 1000, 0)
    job.publish()
    scores = USER_FACTORS @ ITEM_FACTORS.T
    for n, line in enumerate(job.lines()):
        items, expected = top(scores[n], count)
        assert line["input"] == {"userId": USERS[n]}
        assert line["error"] is None
        np.testing.assert_allclose(line["output"]["scores"], expected, rtol=1e-4, atol=1e-5)
        if np.diff(expected).max(initial=-1) < -1e-5:  # no two scores alike
            assert line["output"]["recommendedItems"] == items


@pytest.mark.parametrize("recipe", Recipe)
def test_a_bundle_shows_that_it_recommends(tmp_path: Path, job: Job, recipe: Recipe) -> None:
    factors = np.ones((3, 4))
    manifest = write_recommender_bundle(
        tmp_path / "bundle.tar.gz", name="films", recipe=recipe, users=list("abc"),
        items=list("xyz"), user_factors=factors, item_factors=factors, source_uri="file:///none",
    )  # fmt: skip
    assert recipe_of(manifest) == recipe
    assert is_recommender(manifest)
    assert not is_recommender(job.bundle.manifest)


def test_the_lines_of_many_users_are_small_in_memory() -> None:
    users = {f"u{n}": n for n in range(20_000)}
    before = resident()
    lines = _plain_lines("userId", users)
    assert (resident() - before) / len(users) < 1000  # with orjson's own buffers: 4 KiB
    assert len(lines) == 40_000


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_related_items_leave_the_item_itself_out(tmp_path: Path) -> None:
    job = job_of(tmp_path, Recipe.RELATED_ITEMS, results=10)
    job.run(lines([{"itemId": name} for name in ITEMS]))
    job.publish()
    unit = ITEM_FACTORS / np.linalg.norm(ITEM_FACTORS, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    for n, line in enumerate(job.lines()):
        assert line["output"]["recommendedItems"] == top(cosines[n], 10)[0]


def test_a_list_is_ranked(tmp_path: Path) -> None:
    job = job_of(tmp_path, Recipe.PERSONALIZED_RANKING, results=25)
    records = [
        {"userId": USERS[n], "itemList": [ITEMS[i] for i in range(n, n + 2 + n % 3)]}
        for n in range(100)
    ]
    assert job.run(lines(records)).ok == 100
    job.publish()
    for n, line in enumerate(job.lines()):
        scores = (USER_FACTORS @ ITEM_FACTORS.T)[n, n : n + 2 + n % 3]
        expected = [ITEMS[n + i] for i in np.argsort(-scores)]
        assert line["output"]["recommendedItems"] == expected
        np.testing.assert_allclose(line["output"]["scores"], np.sort(scores)[::-1], rtol=1e-3)


def test_a_ranking_drops_what_the_filter_leaves_out_and_keeps_the_rest(tmp_path: Path) -> None:
    job = job_of(tmp_path, Recipe.PERSONALIZED_RANKING, excluded=tuple(ITEMS[:20]))
    data = lines([
        {"userId": "u7", "itemList": ITEMS[:60]},
        {"userId": "u7", "itemList": ITEMS[:20]},
        {"userId": "u7", "itemList": ITEMS[:250] * 3},
    ])  # fmt: skip
    assert job.run(data) == ShardResult(3, 1, 2)
    job.publish()
    ranked, empty, long = job.lines()
    scores = (USER_FACTORS @ ITEM_FACTORS.T)[7, 20:60]
    expected = [ITEMS[20 + n] for n in np.argsort(-scores)]
    assert ranked["output"]["recommendedItems"] == expected  # all 40, not 25
    assert "User error: the filter leaves no item of itemList (" in empty["error"]
    assert "itemList has 750 items; a ranking takes 500 (" in long["error"]
    assert empty["output"] == long["output"] == {"recommendedItems": []}


def test_what_a_filter_leaves_out_is_never_recommended(tmp_path: Path) -> None:
    job = job_of(tmp_path, Recipe.USER_PERSONALIZATION, results=25, excluded=tuple(ITEMS[:290]))
    job.run(lines([{"userId": "u5"}]))
    job.publish()
    scores = np.where(np.arange(300) < 290, -np.inf, (USER_FACTORS @ ITEM_FACTORS.T)[5])
    assert job.lines()[0]["output"]["recommendedItems"] == top(scores, 10)[0]


def test_bad_lines_are_error_lines_that_can_be_put_right(tmp_path: Path) -> None:
    job = job_of(tmp_path, Recipe.USER_PERSONALIZATION)
    data = b'{"userId":"u1"}\r\n{"userId":"nobody"}\n{"userId":3}\n\nnonsense\n{"itemId":"x"}\n[]'
    assert job.run(data) == ShardResult(6, 1, 5, 1)
    job.publish()
    offsets = [line["error"]["offset"] for line in job.lines(ERRORS)]
    assert [data[at:].split()[0] for at in offsets] == data.split()[1:]
    reasons = [line["error"]["reason"] for line in job.lines(ERRORS)]
    assert reasons[0] == "userId 'nobody' is unknown to the recommender"
    assert reasons[1] == reasons[3] == "field 'userId' is missing or no text"
    assert job.lines()[1] == {  # as the service has it
        "input": {"userId": "nobody"},
        "output": {"recommendedItems": []},
        "error": f"User error: {reasons[0]} ({job.uri}, byte {offsets[0]})",
    }
    again = job_of(tmp_path / "again", Recipe.USER_PERSONALIZATION)
    assert again.run(job.storage.get(ERRORS).replace(b"nobody", b"u9")) == ShardResult(5, 1, 4)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"results": 501}, "501 results asked for; ask for 1 to 500"),
        ({"excluded": tuple(ITEMS)}, "the filter leaves no item"),
    ],
)
def test_what_cannot_be_recommended_is_said(
    tmp_path: Path, asked: dict[str, Any], why: str
) -> None:
    job = job_of(tmp_path, Recipe.USER_PERSONALIZATION, **asked)
    with pytest.raises(BatchError, match=why):
        job.run(lines([{"userId": "u1"}]))


def test_a_model_without_ids_is_no_recommender(job: Job) -> None:
    job.options = BatchOptions(recommendations=Recommendations())
    with pytest.raises(BatchError, match="is no recommender"):
        job.run(b'{"userId":"u1"}\n')


# What is answered may be a thousand times as long as what is asked.


@pytest.mark.parametrize("form", OutputFormat)
def test_many_answers_are_several_files(
    tmp_path: Path, form: OutputFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lines([{"userId": name} for name in [*USERS, "nobody"]] * 4)

    def run(folder: Path) -> tuple[Job, list[int]]:
        job = job_of(folder, Recipe.USER_PERSONALIZATION, results=300)
        job.options = replace(job.options, output_format=form)
        sizes, take = [], job.storage.take

        def measuring_take(path: Path, uri: str) -> None:
            sizes.append(sum(each.stat().st_size for each in path.parent.iterdir()))
            take(path, uri)

        job.storage.take = measuring_take  # type: ignore[method-assign]
        assert job.run(data) == ShardResult(4004, 4000, 4)
        job.publish()
        return job, sizes

    whole, _ = run(tmp_path / "whole")
    monkeypatch.setattr("model_delivery_engine.batch.sinks.FILE_BYTES", 500_000)
    job, sizes = run(tmp_path / "cut")
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    assert max(len(part.answers) for part in journal.parts.values()) > 10
    assert max(each.size for part in journal.parts.values() for each in part.answers) < 1_000_000
    assert max(sizes) < 1_500_000
    assert job.storage.get(ERRORS) == whole.storage.get(ERRORS)
    if form == OutputFormat.JSONL:
        assert job.storage.get(RESULTS) == whole.storage.get(RESULTS)
    else:
        tables = [pyarrow.parquet.read_table(each.storage.path(RESULTS)) for each in (job, whole)]
        assert tables[0].equals(tables[1])


def test_a_process_hands_over_while_it_goes_on(tmp_path: Path) -> None:
    job = job_of(tmp_path, Recipe.USER_PERSONALIZATION, results=300)
    data = lines([{"userId": name} for name in USERS]) * 16
    path = job.storage.path(job.storage.put(URI, data))
    work = Work(
        tmp_path / "user-personalization.onnx", "films", URI, InputFormat.JSONL,
        OutputFormat.JSONL, Compression.NONE, tmp_path, recommendations=Recommendations(300),
    )  # fmt: skip
    part = PartData(Part(0, 0, len(data)), path, 0, len(data), spooled=False)
    pool, found = Processes(work, 1), []

    def keep(file: PartFile) -> None:
        assert file.path.stat().st_size == file.size
        found.append(file)
        file.path.unlink()

    def fail(_file: PartFile) -> None:
        raise ConnectionResetError("the store hung up")

    try:
        with pytest.raises(ConnectionResetError):
            pool.run(part, 256, fail, print)
        outcome = pool.run(
            part, 256, keep, print
        )  # by a new process: the first was in the middle of it
    finally:
        pool.close()
    assert outcome.ok == 16_000
    files = [*found, *outcome.files]
    assert [file.number for file in files] == list(range(len(files)))
    assert len(files) > 1
    assert all(FILE_BYTES <= file.size < 1.1 * FILE_BYTES for file in found)


def test_a_model_that_onnx_cannot_hold_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery_engine.batch.recommender_model._MOST_BYTES", 80_000)
    with pytest.raises(BatchError, match="1000 users and 300 items make a model of"):
        job_of(tmp_path, Recipe.USER_PERSONALIZATION)


def test_users_beyond_number_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_delivery_engine.batch.recommend._MOST_KNOWN", 10)
    job = job_of(tmp_path, Recipe.USER_PERSONALIZATION)
    assert job.run(lines([{"userId": name} for name in USERS])) == ShardResult(1000, 1000, 0)
