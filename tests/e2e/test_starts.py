"""The two starts that need no one: an archive that lands in the bucket, and the clock."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from stack.demo import DAG_ID
from stack.object_store import BUCKET

LANDING_SECONDS = 90
DELIVERY_SECONDS = 90


def _wait_for_runs(
    world: Any, prefix: str, until: datetime, count: int = 1
) -> list[dict[str, Any]]:
    while True:
        runs = world.rest.get(f"/dags/{DAG_ID}/dagRuns", limit=100)["dag_runs"]
        found = [run for run in runs if run["dag_run_id"].startswith(prefix)]
        if len(found) >= count:
            return found
        assert datetime.now(UTC) < until, f"{len(found)} {prefix} runs were started"
        time.sleep(1)


def test_archives_that_land_together_are_delivered_in_turn(world: Any, delivered: Any) -> None:
    names = ["digits-a", "digits b"]
    for name in names:
        key = f"incoming/{name}.tar.gz"
        world.s3.upload_file(str(world.samples / "digits.tar.gz"), BUCKET, key)
    until = datetime.now(UTC) + timedelta(seconds=LANDING_SECONDS + DELIVERY_SECONDS)
    runs = _wait_for_runs(world, "incoming__", until, len(names))
    staged = ""
    times = []
    for run in runs:
        state, tasks = world.finish(run["dag_run_id"])
        assert state == "success"
        staged += world.log(tasks["stage_inputs:-1"])
        ended = world.rest.get(f"/dags/{DAG_ID}/dagRuns/{run['dag_run_id']}")
        times.append((ended["start_date"], ended["end_date"]))
    (_, first_ended), (second_started, _) = sorted(times)
    assert first_ended <= second_started
    for name in names:
        assert staged.count(f"Copied s3://{BUCKET}/incoming/{name}.tar.gz to ") == 1
    assert len(runs) == len(names)


def test_a_component_version_made_before_is_found_again(world: Any, delivered: Any) -> None:
    run_id, tasks = delivered
    before = world.rest.xcom(tasks["component_version:-1"])
    world.rest.post(
        f"/dags/{DAG_ID}/clearTaskInstances",
        {"dag_run_id": run_id, "task_ids": ["component_version"], "dry_run": False,
         "only_failed": False, "reset_dag_runs": True},
    )  # fmt: skip
    state, tasks = world.finish(run_id)
    assert state == "success"
    assert tasks["component_version:-1"]["try_number"] == 2
    assert world.rest.xcom(tasks["component_version:-1"]) == before


def test_the_clock_starts_a_run(world: Any) -> None:
    (run,) = _wait_for_runs(world, "scheduled__", world.cron_at + timedelta(minutes=2))
    state, _tasks = world.finish(run["dag_run_id"])
    assert state == "success"
