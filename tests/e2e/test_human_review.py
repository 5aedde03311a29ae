"""The DAG human_review: a real model reads documents, two reviewers correct what it doubts."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest

from stack.object_store import BUCKET
from stack.rest import AirflowRefusedError

DAG_ID = "human_review"
RUN_SECONDS = 240.0
# Nobody reads and answers within this time. An answer that is there before the scheduler heard from
# the worker that the task paused is taken for the task's failure: Airflow then asks again.
READING_SECONDS = 4.0


@pytest.fixture(scope="module")
def reviewed(world: Any) -> dict[str, Any]:
    """One run that succeeded: what each of its tasks left in XCom."""
    world.rest.wait_for_dag(DAG_ID)
    world.rest.unpause(DAG_ID)
    run_id = world.rest.trigger(DAG_ID, {})
    run = world.rest.wait(DAG_ID, run_id, RUN_SECONDS)
    tasks = {task["task_id"]: task for task in world.rest.tasks(DAG_ID, run_id)}
    assert run["state"] == "success", {name: task["state"] for name, task in tasks.items()}
    return {name: world.rest.xcom(task) for name, task in tasks.items()}


def lines(world: Any, uri: str) -> list[dict[str, Any]]:
    key = uri.removeprefix(f"s3://{BUCKET}/")
    body = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return [json.loads(line) for line in body.splitlines()]


def test_every_reviewed_value_is_what_stands_in_the_document(world: Any, reviewed: Any) -> None:
    written = lines(world, reviewed["write_forms"]["output_uri"])
    forms = {each["document"]["id"]: each for each in written}
    assert set(forms) == set(world.forms)
    assert any(form["reviewed"] for form in forms.values())
    for name, form in forms.items():
        for key, text in world.forms[name].items():
            if form["reviewed"] and key in form["fields"]:
                assert form["fields"][key] == text, (name, key)
        assert form["undecided"] == []


def test_two_reviewers_answered_each_document_that_was_chosen(reviewed: Any) -> None:
    review = reviewed["human_review"]
    assert review["loops"] > 0
    assert review["results"] == review["loops"] + review["unreviewed"]
    assert review["agreement"] == 1.0


def test_the_gate_may_ask_somebody_in_airflow_first(world: Any) -> None:
    run_id = world.start(approval=True)
    detail = _waiting(world, run_id)
    assert "reviewed by people" in detail["body"]
    assert detail["subject"] == "Deploy digits to edge-1?"
    path = f"/dags/model_delivery/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    answer = world.rest.patch(path, {"chosen_options": ["Reject"], "params_input": {}})
    assert answer["chosen_options"] == ["Reject"]
    state, tasks = world.finish(run_id)
    assert state == "success"
    assert {tasks[f"{name}:-1"]["state"] for name in ("component_version", "deploy", "report")} == {
        "skipped"
    }


def _waiting(world: Any, run_id: str) -> dict[str, Any]:
    """Wait until the run asks, and return what it asks."""
    deadline = time.monotonic() + RUN_SECONDS
    path = f"/dags/model_delivery/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    while time.monotonic() < deadline:
        with suppress(AirflowRefusedError):
            asked = dict(world.rest.get(path))
            time.sleep(READING_SECONDS)
            return asked
        time.sleep(1)
    pytest.fail(f"{run_id} asked nobody within {RUN_SECONDS:.0f} s")
