"""Recommenders: every recipe against plain numpy."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult
from model_delivery_engine.batch.recipes import Recipe, is_recommender, recipe_of
from model_delivery_engine.batch.recommend import Recommendations, _plain_lines
from model_delivery_engine.batch.recommender_bundle import write_recommender_bundle
from model_delivery_engine.batch.recommender_model import write_recommender
from model_delivery_engine.errors import BatchError

from tests.unit.engine.batch_job import ERRORS, Job

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
    manifest = SimpleNamespace(name="films", model_digest="sha256:0", inputs=())
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
    assert empty["error"]["reason"] == "the filter leaves no item of itemList"
    assert long["error"]["reason"] == "itemList has 750 items; a ranking takes 500"


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
