"""The two starts that need no one: an archive that lands in the bucket, and the clock."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from stack.demo import DAG_ID
from stack.object_store import BUCKET

LANDING_SECONDS = 90


def _runs(world: Any, kind: str) -> list[dict[str, Any]]:
    runs = world.rest.get(f"/dags/{DAG_ID}/dagRuns", limit=100)["dag_runs"]
    return [run for run in runs if run["run_type"] == kind]


def _wait_for_run(world: Any, kind: str, until: datetime) -> dict[str, Any]:
    while not (runs := _runs(world, kind)):
        assert datetime.now(UTC) < until, f"no {kind} run was started"
        time.sleep(1)
    return runs[0]


def test_an_archive_that_lands_starts_a_run_with_it(world: Any, delivered: Any) -> None:
    uri = f"s3://{BUCKET}/incoming/new-digits.tar.gz"
    world.s3.upload_file(str(world.samples / "digits.tar.gz"), BUCKET, "incoming/new-digits.tar.gz")
    until = datetime.now(UTC) + timedelta(seconds=LANDING_SECONDS)
    run = _wait_for_run(world, "asset_triggered", until)
    state, tasks = world.finish(run["dag_run_id"])
    assert state == "success"
    staged = tasks["stage_inputs:-1"]
    assert f"Copied {uri} to " in world.log(staged)
    assert len(_runs(world, "asset_triggered")) == 1


def test_the_clock_starts_a_run(world: Any) -> None:
    run = _wait_for_run(world, "scheduled", world.cron_at + timedelta(minutes=2))
    state, _tasks = world.finish(run["dag_run_id"])
    assert state == "success"
