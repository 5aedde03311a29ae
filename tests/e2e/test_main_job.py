"""The main job over REST: every stage did its work, and said what it made."""

import json
from typing import Any

from stack.demo import DAG_ID
from stack.object_store import BUCKET
from stack.stack import THING


def _result(world: Any, tasks: dict[str, Any], name: str, index: int = -1) -> Any:
    return world.rest.xcom(tasks[f"{name}:{index}"])


def test_the_device_runs_the_compiled_digest(world: Any, delivered: Any) -> None:
    _run_id, tasks = delivered
    component = _result(world, tasks, "component_version")
    assert world.device["digest"] == component["digest"]
    assert world.device["versions"] == [component["component_version"]]


def test_every_held_out_image_was_answered_once(world: Any, delivered: Any) -> None:
    _, tasks = delivered
    merged = _result(world, tasks, "merge_results")
    key = merged["output_uri"].removeprefix(f"s3://{BUCKET}/")
    lines = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().splitlines()
    held_out = (world.samples / "held_out.jsonl").read_text().splitlines()
    ids = [json.loads(line)["input"]["id"] for line in lines]
    assert ids == [json.loads(line)["id"] for line in held_out]
    assert merged["records"] == merged["ok"] == len(held_out)


def test_the_gate_saw_the_accuracy_of_training(world: Any, delivered: Any) -> None:
    from include.samples.digits import write_samples

    _run_id, tasks = delivered
    verdict = _result(world, tasks, "quality_gate")
    facts = write_samples(world.samples / "again")
    # Reviewers here know the labels, so what they decide is what the data says.
    assert abs(verdict["accuracy"] - facts.accuracy) < 1e-9
    assert verdict["interval_low"] < verdict["accuracy"] < verdict["interval_high"]


def test_two_reviewers_answered_what_the_model_was_unsure_of(world: Any, delivered: Any) -> None:
    _run_id, tasks = delivered
    review = _result(world, tasks, "human_review")
    assert review["loops"] > 0
    assert review["answers"] == 2 * review["loops"]
    assert review["confirmed"] + review["corrected"] + review["undecided"] == review["loops"]
    assert review["loops"] + review["unreviewed"] == review["results"]
    low, high = review["model_accuracy_interval"]
    facts = _result(world, tasks, "quality_gate")
    assert low <= facts["accuracy"] <= high


def test_xcom_has_arns_names_and_uris_right_after_submission(world: Any, delivered: Any) -> None:
    _run_id, tasks = delivered
    job = world.rest.xcom(tasks["compile:-1"], key="job")
    assert job["job_arn"].endswith(f":compilation-job/{job['job_name']}")
    deployment = world.rest.xcom(tasks["deploy:-1"], key="job")
    assert deployment["thing_name"] == THING


def test_assets_tell_of_the_compile_and_of_the_deployment(world: Any, delivered: Any) -> None:
    run_id, _tasks = delivered
    events = world.rest.get("/assets/events", limit=100)["asset_events"]
    names = {event["name"] for event in events if event["source_run_id"] == run_id}
    assert names == {"compiled_models", "deployed_models"}


def test_the_job_link_opens_the_job(world: Any, delivered: Any) -> None:
    run_id, _tasks = delivered
    path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/compile/links"
    link = world.rest.get(path)
    (address,) = [value for value in link["extra_links"].values() if value]
    assert address.startswith(f"{world.stack.cloud.url}/jobs/compilation/")
