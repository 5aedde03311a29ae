"""Real tasks killed, cleared, timed out and cut off from their service: one job, none left."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.killer import (
    DEFERRED_STEPS,
    FAILED,
    WORKER_STEPS,
    Killer,
    outside_session,
)
from tests.faults.proxy import Effect, Exchange, refusal
from tests.faults.world import World, world

PROJECT = Path(__file__).resolve().parents[2]
Run = tuple[str, str]
# An hour: the service's clock is that far behind Airflow's in all of these tests.
SKEW = -3600.0
KILLS = [
    *((f"{kind}_worker", step) for kind in ("compile", "nameless") for step in WORKER_STEPS),
    *((f"{kind}_deferred", step) for kind in ("compile", "nameless") for step in DEFERRED_STEPS),
]
ENDED = {"SUCCEEDED", "COMPLETED"}


@pytest.fixture(scope="module")
def faulty() -> Iterator[World]:
    home = PROJECT / ".local" / "faults"
    shutil.rmtree(home, ignore_errors=True)
    with world(home, skew=SKEW) as made:
        yield made


@pytest.fixture
def calm(faulty: World) -> Iterator[World]:
    """Return the world with proxies that do nothing, before and after each test."""
    yield faulty
    faulty.cloud_proxy.rule = faulty.nameless_proxy.rule = lambda exchange: None


def model(text: str) -> str:
    return re.sub(r"\W+", "-", text) + "!"


def killer(world: World, plans: dict[str, list[str]]) -> Killer:
    triggerer = world.stack.processes["triggerer"]
    made = Killer(plans, outside_session(lambda: triggerer.pid))
    world.cloud_proxy.rule = world.nameless_proxy.rule = made
    return made


@pytest.fixture(scope="module")
def killed(faulty: World) -> dict[tuple[str, str], tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each kill of a task's process, all in runs at the same time: the task and its jobs."""
    plans = {model(f"{dag} {step}")[:-1]: [step] for dag, step in KILLS}
    made = killer(faulty, plans)
    runs = {
        (dag, step): faulty.start(dag, model=model(f"{dag} {step}"), seconds=3)
        for dag, step in KILLS
    }
    ends = {}
    for case, run in runs.items():
        task = faulty.finish(run)
        ends[case] = (task, faulty.jobs(run, model(" ".join(case))))
    assert {key: life.kills for key, life in made.lives.items()} == plans
    faulty.cloud_proxy.rule = faulty.nameless_proxy.rule = lambda exchange: None
    return ends


@pytest.mark.parametrize(("dag", "step"), KILLS, ids=[" ".join(case) for case in KILLS])
def test_a_task_killed_at_any_step_makes_one_job_and_gets_its_result(
    killed: dict[tuple[str, str], Any], dag: str, step: str
) -> None:
    task, jobs = killed[dag, step]
    assert (task["state"], task["try_number"]) == ("success", 2)
    assert [job["status"] in ENDED for job in jobs] == [True]


def test_a_kill_before_a_failure_is_noted_costs_no_further_try(calm: World) -> None:
    made = killer(calm, {"noted": [FAILED]})
    run = calm.start("nameless_worker", model="noted!", outcome="FAILED_FIRST", seconds=2)
    task = calm.finish(run)
    assert made.lives["noted"].kills == [FAILED]
    assert (task["state"], task["try_number"]) == ("success", 2)
    assert [job["status"] for job in calm.nameless_jobs("noted!")] == ["FAILED", "SUCCEEDED"]


def test_a_failed_job_is_followed_by_one_new_job(calm: World) -> None:
    runs = {
        mode: calm.start(f"nameless_{mode}", model=f"first {mode}", outcome="FAILED_FIRST")
        for mode in ("worker", "deferred")
    }
    for mode, run in runs.items():
        assert calm.finish(run)["state"] == "success"
        statuses = [job["status"] for job in calm.nameless_jobs(f"first {mode}")]
        assert statuses == ["FAILED", "SUCCEEDED"]


def test_waiting_or_not_is_the_same_in_worker_and_triggerer(calm: World) -> None:
    modes = ("worker_and_go", "deferred_and_go", "worker", "deferred")
    runs = {mode: calm.start(f"nameless_{mode}", model=f"wait {mode}", seconds=4) for mode in modes}
    seen: dict[str, set[str]] = {mode: set() for mode in modes}
    while any(calm.rest.run(*run)["state"] not in {"success", "failed"} for run in runs.values()):
        for mode, run in runs.items():
            seen[mode].add(calm.task(run)["state"])
        time.sleep(0.1)
    for mode, run in runs.items():
        waited = not mode.endswith("go")
        assert calm.rest.xcom(calm.task(run))["status"] == ("SUCCEEDED" if waited else "RUNNING")
        (job,) = calm.nameless_jobs(f"wait {mode}")
        assert calm.rest.xcom(calm.task(run), "job") == {"job_id": job["jobId"]}
        assert ("deferred" in seen[mode]) is (mode == "deferred")
        assert job["stops"] == 0


def nameless_job(world: World, name: str, **facts: Any) -> str:
    body = {"model": name, "sources": [], "seconds": 3, "outcome": "SUCCEEDED", **facts}
    return str(httpx.post(f"{world.nameless_url}/jobs", json=body).json()["jobId"])


def test_a_sensor_waits_in_each_of_its_modes_and_stops_nothing(calm: World) -> None:
    modes = ("poke", "reschedule", "deferred")
    good = {mode: nameless_job(calm, f"sensed {mode}") for mode in modes}
    bad = {mode: nameless_job(calm, f"bad {mode}", outcome="REFUSED") for mode in modes}
    runs = [(good[mode], calm.start(f"sensor_{mode}", job=good[mode])) for mode in modes]
    failing = [(bad[mode], calm.start(f"sensor_{mode}", job=bad[mode])) for mode in modes]
    for job, run in runs:
        task = calm.finish(run)
        assert task["state"] == "success"
        assert calm.rest.xcom(task) == {"version": 1, "job_id": job, "status": "SUCCEEDED"}
    for job, run in failing:
        assert calm.finish(run)["state"] == "failed"
        assert f"nameless job {job} ended REFUSED" in calm.log(run)
    jobs = [*calm.nameless_jobs(), *calm.nameless_jobs()]
    assert {job["stops"] for job in jobs if job["jobId"] in {*good.values(), *bad.values()}} == {0}


def set_state(world: World, run: Run, action: str) -> None:
    """Do what a user does with a task in the UI."""
    dag, run_id = run
    if action == "clear":
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["task"],
                "only_failed": False}  # fmt: skip
        world.rest.post(f"/dags/{dag}/clearTaskInstances", body)
    else:
        path = f"/dags/{dag}/dagRuns/{run_id}/taskInstances/task"
        world.rest.patch(path, {"new_state": "failed"})


@pytest.mark.parametrize("kind", ["nameless", "compile"])
def test_what_a_user_ends_or_clears_stops_its_job_once(calm: World, kind: str) -> None:
    if kind == "compile":
        # A job that waits for a worker can be stopped for as long as the test needs.
        calm.stack.processes["localcloud worker"].stop()
    cases = {
        (mode, action): calm.start(
            f"{kind}_{mode}", model=f"user {kind} {mode} {action}", seconds=600
        )
        for mode in ("worker", "deferred")
        for action in ("fail", "clear")
    }
    for (mode, action), run in cases.items():
        calm.until(lambda run=run: calm.rest.xcom(calm.task(run), "job"))
        calm.until_state(run, "running" if mode == "worker" else "deferred")
        set_state(calm, run, action)
    for (mode, action), run in cases.items():
        name = f"user {kind} {mode} {action}"
        count = 2 if action == "clear" else 1
        calm.until(lambda run=run, name=name, count=count: len(calm.jobs(run, name)) == count)
        calm.until(lambda run=run, name=name: calm.jobs(run, name)[0]["status"] == "STOPPED")
        first = calm.jobs(run, name)[0]
        assert first.get("stops", 1) == 1, (mode, action)
    for (mode, action), run in cases.items():
        if action == "clear":
            if mode == "deferred":
                calm.until(lambda run=run: calm.task(run)["state"] == "deferred")
                calm.until(lambda run=run: "starting" in calm.log(run))
            set_state(calm, run, "fail")
    for (mode, action), run in cases.items():
        name = f"user {kind} {mode} {action}"
        calm.until(lambda run=run, name=name: calm.jobs(run, name)[-1]["status"] == "STOPPED")
    assert "Asked to stop" in calm.log(cases["worker", "fail"])
    assert "Asked to stop" in calm.log(cases["deferred", "fail"])
    if kind == "compile":
        calm.stack.processes["localcloud worker"].start()


@pytest.mark.parametrize("mode", ["worker", "deferred"])
def test_a_task_out_of_time_stops_its_job_once_and_says_so(calm: World, mode: str) -> None:
    run = calm.start(f"timeout_{mode}", model=f"time {mode}", seconds=600)
    assert calm.finish(run)["state"] == "failed"
    (job,) = calm.nameless_jobs(f"time {mode}")
    assert (job["status"], job["stops"]) == ("STOPPED", 1)
    assert f"Asked to stop nameless job {job['jobId']}" in calm.log(run)


def test_a_changed_request_fails_the_retry_and_leaves_no_job(calm: World) -> None:
    made = killer(calm, {"changed": [WORKER_STEPS[2]]})
    run = calm.start("nameless_worker", model="changed!", seconds="{{ 600 + ti.try_number }}")
    assert calm.finish(run)["state"] == "failed"
    assert made.lives["changed"].kills
    (job,) = calm.nameless_jobs("changed!")
    assert (job["status"], job["stops"]) == ("STOPPED", 1)
    assert "seconds: ours 602.0, theirs 601.0" in calm.log(run)


def trouble(kind: str) -> Any:
    """Return a rule by which the service answers a minute's calls badly: all, or the first."""
    answers = {
        "throttling": Effect(answer=refusal(400, "ThrottlingException")),
        "server errors": Effect(answer=refusal(500, "InternalFailure")),
        "resets": Effect(reset=True),
        "stalls": Effect(seconds=30, reset=True),
    }
    until = time.monotonic() + 12

    def rule(exchange: Exchange) -> Effect | None:
        return answers[kind] if time.monotonic() < until and exchange.moment == "before" else None

    return rule


@pytest.mark.parametrize("kind", ["throttling", "server errors", "resets", "stalls"])
def test_a_service_in_trouble_is_waited_out(calm: World, kind: str) -> None:
    dags = ("compile_worker", "compile_deferred", "nameless_worker", "nameless_deferred")
    calm.cloud_proxy.rule = calm.nameless_proxy.rule = trouble(kind)
    runs = {dag: calm.start(dag, model=f"{kind} {dag}") for dag in dags}
    for dag, run in runs.items():
        assert calm.finish(run)["state"] == "success", calm.log(run)
        assert [job["status"] in ENDED for job in calm.jobs(run, f"{kind} {dag}")] == [True]


def test_a_job_deleted_behind_our_back_is_made_again(calm: World) -> None:
    runs = {
        mode: calm.start(f"nameless_{mode}", model=f"gone {mode}", seconds=8)
        for mode in ("worker", "deferred")
    }
    for mode, run in runs.items():
        job = calm.until(lambda run=run: calm.rest.xcom(calm.task(run), "job"))["job_id"]
        calm.until_state(run, "running" if mode == "worker" else "deferred")
        httpx.delete(f"{calm.nameless_url}/jobs/{job}?purge")
    for mode, run in runs.items():
        assert calm.finish(run)["state"] == "success"
        assert calm.task(run)["try_number"] == 2
        assert [job["status"] for job in calm.nameless_jobs(f"gone {mode}")] == ["SUCCEEDED"]


@pytest.mark.parametrize("part", ["triggerer", "scheduler", "localcloud"])
def test_a_part_of_the_stack_killed_while_jobs_run_loses_no_wait(calm: World, part: str) -> None:
    dags = ("compile_worker", "compile_deferred", "nameless_worker", "nameless_deferred")
    runs = {dag: calm.start(dag, model=f"{part} {dag}", seconds=8) for dag in dags}
    for run in runs.values():
        calm.until(lambda run=run: calm.rest.xcom(calm.task(run), "job"))
    if part == "localcloud":
        calm.restart_localcloud(down=3)
    else:
        calm.restart(part)
    for dag, run in runs.items():
        assert calm.finish(run)["state"] == "success", calm.log(run)
        assert [job["status"] in ENDED for job in calm.jobs(run, f"{part} {dag}")] == [True]
