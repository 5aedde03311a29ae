"""The DAG `recommend_batch` over REST: MovieLens-100k, one batch inference job, its report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.bundle import open_bundle
from onnx import load, numpy_helper

from stack.demo import upload_movielens
from stack.object_store import BUCKET

DAG_ID = "recommend_batch"
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recommended(world: Any) -> dict[str, Any]:
    """Run it once; return each task's XCom by its id."""
    facts = upload_movielens(world.stack, world.samples / "movielens")
    assert facts == {"ratings": 100_000, "films": 1682}
    world.rest.wait_for_dag(DAG_ID)
    world.rest.unpause(DAG_ID)
    run_id = world.rest.trigger(DAG_ID, {})
    run = world.rest.wait(DAG_ID, run_id, 300)
    tasks = {task["task_id"]: task for task in world.rest.tasks(DAG_ID, run_id)}
    logs = {name: "\n".join(world.rest.log(task)) for name, task in tasks.items()}
    assert run["state"] == "success", logs
    return {"run_id": run_id, **{name: world.rest.xcom(task) for name, task in tasks.items()}}


def body(world: Any, uri: str) -> bytes:
    key = uri.removeprefix(f"s3://{BUCKET}/")
    data: bytes = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return data


def test_every_user_gets_what_numpy_makes_of_the_models_factors(
    world: Any, recommended: dict[str, Any], tmp_path: Path
) -> None:
    archive = tmp_path / "bundle.tar.gz"
    archive.write_bytes(body(world, recommended["train_recommender"]["bundle_uri"]))
    model = load(open_bundle(archive, tmp_path / "opened").model_path)
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    (facts,) = [each.value for each in model.metadata_props if each.key == "recommender"]
    users, items = json.loads(facts)["users"], json.loads(facts)["items"]
    scores = arrays["users"] @ arrays["items_by_factor"]
    lines = body(world, recommended["recommend"]["output_uri"]).splitlines()
    assert len(lines) == len(users) == 943
    for n, line in enumerate(map(json.loads, lines)):
        assert line["input"] == {"userId": users[n]}
        assert len(line["output"]["recommendedItems"]) == 500
        found = [items.index(item) for item in line["output"]["recommendedItems"][:50]]
        np.testing.assert_allclose(
            scores[n][found], np.sort(scores[n])[::-1][:50], rtol=1e-4, atol=1e-5
        )


def test_the_report_says_that_it_beats_the_most_popular_films(
    world: Any, recommended: dict[str, Any]
) -> None:
    made = recommended["report"]
    assert made["users"] > 900
    assert made["errors"] == 0
    assert made["precision_at_10"] > 1.4 * made["baseline_at_10"] > 0
    assert made["coverage_at_10"] > 0.15
    page = body(world, made["report_uri"]).decode()
    assert page.count("<svg") == 3
    assert f"{made['precision_at_10']:.1%}" in page
    quality = json.loads(body(world, made["quality_uri"]))
    assert quality["precision"]["10"] == made["precision_at_10"]
    out = PROJECT / "build" / "recommend_batch"
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page)
    (out / "quality.json").write_text(json.dumps(quality, indent=2))


def test_the_tasks_link_opens_the_jobs_page(world: Any, recommended: dict[str, Any]) -> None:
    path = f"/dags/{DAG_ID}/dagRuns/{recommended['run_id']}/taskInstances/recommend/links"
    link = world.rest.get(path)["extra_links"]["Job page"]
    assert link.startswith(f"{world.stack.cloud.url}/jobs/batch-inference/")
    assert link.endswith(recommended["recommend"]["job_name"])
