"""One model for several devices through the DAG `compile_model`, and the pages that show it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from stack.demo import SAMPLES
from stack.localcloud import PORTAL_USER
from stack.object_store import BUCKET

DAG_ID = "compile_model"
SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
RUN_SECONDS = 300.0


@pytest.fixture(scope="module")
def compared(world: Any) -> tuple[str, dict[str, Any]]:
    """One run for two CPUs and one accelerator; returns its id and its tasks."""
    lines = (world.samples / "held_out.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    samples = io.BytesIO()
    np.savez(
        samples,
        image=np.array([each["image"] for each in records], np.float32),
        labels=np.array([each["label"] for each in records]),
    )
    world.s3.put_object(Bucket=BUCKET, Key="samples/labelled.npz", Body=samples.getvalue())
    world.rest.wait_for_dag(DAG_ID)
    world.rest.unpause(DAG_ID)
    run_id = world.rest.trigger(
        DAG_ID,
        {
            "model_uri": f"{SAMPLES}/digits.tar.gz",
            "target_devices": ["ml_c5", "rasp4b", "ml_inf1"],
            "compiler_options": {
                "precision": "int8",
                "samples": f"{SAMPLES}/labelled.npz",
                "max_accuracy_drop": 0.01,
            },
        },
    )
    run = world.rest.wait(DAG_ID, run_id, RUN_SECONDS)
    tasks = world.rest.tasks(DAG_ID, run_id)
    assert run["state"] == "success", {t["task_id"]: t["state"] for t in tasks}
    return run_id, {f"{task['task_id']}:{task['map_index']}": task for task in tasks}


def test_each_target_has_its_row_and_a_refused_one_its_reason(world: Any, compared: Any) -> None:
    _run_id, tasks = compared
    report = world.rest.xcom(tasks["report:-1"])
    assert (report["compiled"], report["failed"]) == (2, 1)
    key = report["table_uri"].removeprefix(f"s3://{BUCKET}/")
    rows = json.loads(world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    cloud, board, accelerator = rows
    assert [row["target"] for row in rows] == ["ml_c5", "rasp4b", "ml_inf1"]
    # This machine is neither a c5 nor a Raspberry Pi.
    assert (cloud["kind"], board["kind"]) == ("proxy", "proxy")
    assert cloud["machine"] == board["machine"] != ""
    assert cloud["speedup"] >= 1 / 1.05
    # Times of this machine say nothing of the board's layouts.
    chosen = next(each for each in board["candidates"] if each["status"] == "chosen")
    assert "chosen by size and accuracy" in chosen["reason"]
    for row in (cloud, board):
        assert row["drop"] <= 0.01
        assert {each["name"] for each in row["candidates"]} >= {"source", "fp32", "int8-static"}
    assert accelerator["status"] == "REFUSED"
    assert "Neuron" in accelerator["reason"]
    assert tasks["each_target.compile:2"]["state"] == "failed"
    assert "Neuron" in "\n".join(world.rest.log(tasks["each_target.compile:2"]))
    assert tasks["each_target.bundle:2"]["state"] == "upstream_failed"


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 1400, "height": 1000})


def test_the_comparison_and_the_job_are_shown(world: Any, compared: Any, page: Page) -> None:
    run_id, tasks = compared
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    world.sign_in(page)
    links = world.rest.get(f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/report/links")
    (address,) = [value for value in links["extra_links"].values() if value]
    errors.clear()
    page.goto(f"{world.stack.airflow.url}{address}" if address.startswith("/") else address)
    expect(page.get_by_role("heading", name="Compilations compared")).to_be_visible()
    assert page.locator("svg").count() == 2
    assert "Neuron" in page.inner_text("table >> nth=0")
    page.screenshot(path=SCREENS / "compile-comparison.png", full_page=True)

    job = world.rest.xcom(tasks["each_target.compile:0"], key="job")
    region, account = job["job_arn"].split(":")[3:5]
    # Not signed in, one is sent to do so, and from there to the page that was asked for.
    page.goto(f"{world.stack.cloud.url}/jobs/compilation/{account}/{region}/{job['job_name']}")
    page.fill("input[name=name]", PORTAL_USER)
    page.fill("input[name=password]", world.stack.credentials.localcloud_user_password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Candidates")).to_be_visible()
    assert page.locator("svg.chart").count() == 5
    assert page.locator("svg.chart .bar").first.evaluate("e => getComputedStyle(e).fill") != (
        "rgb(0, 0, 0)"
    )
    page.screenshot(path=SCREENS / "compile-job.png", full_page=True)
    assert errors == []
