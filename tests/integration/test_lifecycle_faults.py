"""Real tasks killed, cleared, timed out and cut off from their service: one job, none left."""

import itertools
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.killer import (
    DEFERRED_STEPS,
    FAILED,
    WORKER_STEPS,
    Killer,
    Life,
    outside_session,
)
from tests.faults.proxy import Effect, Exchange, page, refusal
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
    with world(home, parallelism=8, skew=SKEW) as made:
        yield made


@dataclass
class Case:
    """One run of those that need no part of the stack but their own task's process."""

    dag: str
    conf: dict[str, Any]
    kills: list[str] = field(default_factory=list)
    trouble: str = ""


MODES = ("worker", "deferred")
TROUBLES = {
    "throttling": Effect(answer=refusal(400, "ThrottlingException")),
    "server errors": Effect(answer=refusal(500, "InternalFailure")),
    "resets": Effect(reset=True),
    "stalls": Effect(seconds=30, reset=True),
    "pages": Effect(answer=page()),
}
TROUBLE_SECONDS = 12.0
# Each kind in a worker and deferred, with and without names.
PAIRS = [("compile_worker", "nameless_deferred"), ("nameless_worker", "compile_deferred")]
TROUBLED = [
    *((kind, dag) for at, kind in enumerate(list(TROUBLES)[:-1]) for dag in PAIRS[at % 2]),
    ("pages", "compile_worker"),
    ("pages", "compile_deferred"),
]
CASES = {
    **{f"{dag} {step}": Case(dag, {"seconds": 6}, [step]) for dag, step in KILLS},
    **{f"{kind} {dag}": Case(dag, {}, trouble=kind) for kind, dag in TROUBLED},
    **{f"first {mode}": Case(f"nameless_{mode}", {"outcome": "FAILED_FIRST"}) for mode in MODES},
    **{f"time {mode}": Case(f"timeout_{mode}", {"seconds": 600}) for mode in MODES},
    "noted": Case("nameless_worker", {"outcome": "FAILED_FIRST"}, [FAILED]),
    "changed": Case("nameless_changing", {}, [WORKER_STEPS[2]]),
}


def model(name: str) -> str:
    return re.sub(r"\W+", "-", name) + "!"


class Rule:
    """Kills each run where its case says so, and spoils the calls of those that have trouble."""

    def __init__(self, faulty: World) -> None:
        triggerer = faulty.stack.processes["triggerer"]
        plans = {model(name)[:-1]: case.kills for name, case in CASES.items()}
        self.killer = Killer(plans, outside_session(lambda: triggerer.pid))
        self._troubles = {model(name)[:-1]: case.trouble for name, case in CASES.items()}
        self._until: dict[str, float] = {}

    def __call__(self, exchange: Exchange) -> Effect | None:
        effect = self.killer(exchange)
        name = self.killer.model_of(exchange)
        kind = self._troubles.get(name or "")
        if effect or not kind or not name or exchange.moment == "after":
            return effect
        until = self._until.setdefault(name, time.monotonic() + TROUBLE_SECONDS)
        return TROUBLES[kind] if time.monotonic() < until else None


@dataclass
class Ended:
    """A run of the batch that is over: its task, the jobs it made, its kills, its log."""

    task: dict[str, Any]
    jobs: list[dict[str, Any]]
    kills: list[str]
    log: str

    @property
    def statuses(self) -> list[str]:
        return [job["status"] for job in self.jobs]


@pytest.fixture(scope="module")
def batch(faulty: World) -> dict[str, Ended]:
    """Every case, all of them at the same time."""
    rule = Rule(faulty)
    faulty.cloud_proxy.rule = faulty.nameless_proxy.rule = rule
    runs = {
        name: faulty.start(case.dag, **case.conf, model=model(name)) for name, case in CASES.items()
    }
    ended = {}
    for name, run in runs.items():
        task = faulty.finish(run, 200)
        kills = rule.killer.lives.get(model(name)[:-1], Life()).kills
        ended[name] = Ended(task, faulty.jobs(run, model(name)), kills, faulty.log(run))
    faulty.cloud_proxy.rule = faulty.nameless_proxy.rule = lambda exchange: None
    return ended


@pytest.mark.parametrize(("dag", "step"), KILLS, ids=[" ".join(case) for case in KILLS])
def test_a_task_killed_at_any_step_makes_one_job_and_gets_its_result(
    batch: dict[str, Ended], dag: str, step: str
) -> None:
    run = batch[f"{dag} {step}"]
    assert run.kills == [step]
    assert run.task["state"] == "success"
    assert [status in ENDED for status in run.statuses] == [True]


@pytest.mark.parametrize(("kind", "dag"), TROUBLED, ids=[" ".join(case) for case in TROUBLED])
def test_a_service_in_trouble_is_waited_out(batch: dict[str, Ended], kind: str, dag: str) -> None:
    run = batch[f"{kind} {dag}"]
    assert run.task["state"] == "success"
    assert [status in ENDED for status in run.statuses] == [True]


def test_a_kill_before_a_failure_is_noted_is_followed_by_one_new_job(
    batch: dict[str, Ended],
) -> None:
    run = batch["noted"]
    assert run.kills == [FAILED]
    assert run.task["state"] == "success"
    assert run.statuses == ["FAILED", "SUCCEEDED"]


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_job_is_followed_by_one_new_job(batch: dict[str, Ended], mode: str) -> None:
    run = batch[f"first {mode}"]
    assert run.task["state"] == "success"
    assert run.statuses == ["FAILED", "SUCCEEDED"]


@pytest.mark.parametrize("mode", MODES)
def test_a_task_out_of_time_stops_its_job_once_and_says_so(
    batch: dict[str, Ended], mode: str
) -> None:
    run = batch[f"time {mode}"]
    assert run.task["state"] == "failed"
    (job,) = run.jobs
    assert (job["status"], job["stops"]) == ("STOPPED", 1)
    assert f"Asked to stop nameless job {job['jobId']}" in run.log


def test_a_changed_request_fails_the_retry_and_leaves_no_job(batch: dict[str, Ended]) -> None:
    run = batch["changed"]
    assert run.task["state"] == "failed"
    (job,) = run.jobs
    assert (job["status"], job["stops"]) == ("STOPPED", 1)
    assert re.search(r"seconds: ours 60[2-9]\.0, theirs 601\.0", run.log)


def test_waiting_or_not_is_the_same_in_worker_and_triggerer(faulty: World) -> None:
    modes = ("worker_and_go", "deferred_and_go", "worker", "deferred")
    runs = {
        mode: faulty.start(f"nameless_{mode}", model=f"wait {mode}", seconds=4) for mode in modes
    }
    seen: dict[str, set[str]] = {mode: set() for mode in modes}
    while any(faulty.rest.run(*run)["state"] not in {"success", "failed"} for run in runs.values()):
        for mode, run in runs.items():
            seen[mode].add(faulty.task(run)["state"])
        time.sleep(0.1)
    for mode, run in runs.items():
        waited = not mode.endswith("go")
        assert faulty.rest.xcom(faulty.task(run))["status"] == (
            "SUCCEEDED" if waited else "RUNNING"
        )
        (job,) = faulty.nameless_jobs(f"wait {mode}")
        assert faulty.rest.xcom(faulty.task(run), "job") == {"job_id": job["jobId"]}
        assert ("deferred" in seen[mode]) is (mode == "deferred")
        assert job["stops"] == 0


def nameless_job(world: World, name: str, **facts: Any) -> str:
    body = {"model": name, "sources": [], "seconds": 3, "outcome": "SUCCEEDED", **facts}
    answer = httpx.post(f"{world.nameless_url}/jobs", json=body, timeout=30)
    return str(answer.json()["jobId"])


def test_a_sensor_waits_in_each_of_its_modes_and_stops_nothing(faulty: World) -> None:
    modes = ("poke", "reschedule", "deferred")
    good = {mode: nameless_job(faulty, f"sensed {mode}") for mode in modes}
    bad = {mode: nameless_job(faulty, f"bad {mode}", outcome="REFUSED") for mode in modes}
    runs = [(good[mode], faulty.start(f"sensor_{mode}", job=good[mode])) for mode in modes]
    failing = [(bad[mode], faulty.start(f"sensor_{mode}", job=bad[mode])) for mode in modes]
    for job, run in runs:
        task = faulty.end(run, "success")
        assert faulty.rest.xcom(task) == {"version": 1, "job_id": job, "status": "SUCCEEDED"}
    for job, run in failing:
        faulty.end(run, "failed")
        assert f"nameless job {job} ended REFUSED" in faulty.log(run)
    jobs = [*faulty.nameless_jobs(), *faulty.nameless_jobs()]
    assert {job["stops"] for job in jobs if job["jobId"] in {*good.values(), *bad.values()}} == {0}


def test_a_deferred_sensor_that_a_user_ends_leaves_the_job_of_another_alone(faulty: World) -> None:
    job = nameless_job(faulty, "sensed and failed", seconds=600)
    run = faulty.start("sensor_deferred", job=job)
    faulty.until(lambda: faulty.taken_up(run))
    faulty.mark_failed(run)
    faulty.until(lambda: "on_kill" in faulty.log(run))
    (seen,) = faulty.nameless_jobs("sensed and failed")
    assert (seen["status"], seen["stops"]) == ("RUNNING", 0)


@pytest.fixture
def idle(faulty: World) -> Iterator[World]:
    """Without localcloud's worker: a job that waits for it can be stopped for as long as needed."""
    worker = faulty.stack.processes["localcloud worker"]
    worker.stop()
    yield faulty
    worker.start()


@pytest.mark.parametrize("kind", ["nameless", "compile"])
def test_what_a_user_ends_or_clears_stops_its_job_once(idle: World, kind: str) -> None:
    faulty = idle
    cases = {
        (mode, action): faulty.start(
            f"{kind}_{mode}", model=f"user {kind} {mode} {action}", seconds=600
        )
        for mode in ("worker", "deferred")
        for action in ("fail", "clear")
    }
    for (mode, action), run in cases.items():
        faulty.until(lambda run=run: faulty.rest.xcom(faulty.task(run), "job"))
        # Before a triggerer took a deferred task up, Airflow tells nobody of its end.
        if mode == "deferred":
            faulty.until(lambda run=run: faulty.taken_up(run))
        (faulty.clear if action == "clear" else faulty.mark_failed)(run)
    for (mode, action), run in cases.items():
        name = f"user {kind} {mode} {action}"
        count = 2 if action == "clear" else 1
        faulty.until(lambda run=run, name=name, count=count: len(faulty.jobs(run, name)) == count)
        faulty.until(lambda run=run, name=name: faulty.jobs(run, name)[0]["status"] == "STOPPED")
        first = faulty.jobs(run, name)[0]
        # After a clear the triggerer and the next try may both ask, at the same moment.
        most = 2 if (mode, action) == ("deferred", "clear") else 1
        assert 1 <= first.get("stops", 1) <= most, (mode, action)
    for (mode, action), run in cases.items():
        if action == "clear":
            if mode == "deferred":
                faulty.until(lambda run=run: faulty.taken_up(run))
            faulty.mark_failed(run)
    for (mode, action), run in cases.items():
        name = f"user {kind} {mode} {action}"
        faulty.until(lambda run=run, name=name: faulty.jobs(run, name)[-1]["status"] == "STOPPED")
    assert "Asked to stop" in faulty.log(cases["worker", "fail"])
    assert "Asked to stop" in faulty.log(cases["deferred", "fail"])


def test_a_clear_stops_the_job_though_the_next_try_cannot_even_start(idle: World) -> None:
    faulty = idle
    # Several at once: the next tries run when the triggerer asks what becomes of them.
    names = [f"cleared wrongly {number}" for number in range(6)]
    runs = {name: faulty.start("nameless_first_only", model=name) for name in names}
    for run in runs.values():
        faulty.until(lambda run=run: faulty.rest.xcom(faulty.task(run), "job"))
        faulty.until(lambda run=run: faulty.taken_up(run))
    with ThreadPoolExecutor(len(names)) as users:
        list(users.map(faulty.clear, runs.values()))
    for name, run in runs.items():
        faulty.until_state(run, "failed")
        faulty.until(lambda run=run, name=name: faulty.jobs(run, name)[0]["status"] == "STOPPED")
        assert [job["stops"] for job in faulty.jobs(run, name)] == [1]


def asking(world: World, operation: str, since: int) -> list[int]:
    """Return the processes that made calls of a kind, the last one's last."""
    calls = world.cloud_proxy.calls[since:]
    return [each.pid for each in calls if re.search(operation, f"{each.operation} {each.path}")]


@pytest.fixture
def deployable(idle: World) -> Iterator[World]:
    """With a component, and a device that is away: its deployments wait for as long as needed."""
    device = idle.stack.processes["device edge-1"]
    device.stop()
    idle.make_component("faults")
    yield idle
    device.start()


EVICTED = {
    "compile_worker": r"DescribeCompilationJob",
    "deploy_worker": r"GET .*/deployments/",
}


@pytest.mark.parametrize(("dag", "operation"), EVICTED.items(), ids=EVICTED)
def test_an_evicted_worker_costs_a_try_and_not_its_job(
    deployable: World, dag: str, operation: str
) -> None:
    """SIGTERM, as when the host of a worker is drained."""
    faulty, since = deployable, len(deployable.cloud_proxy.calls)
    run = faulty.start(dag, model="evicted", seconds=600)
    first = faulty.until(lambda: faulty.rest.xcom(faulty.task(run), "job"))
    faulty.until(lambda: len(asking(faulty, operation, since)) > 2)
    os.kill(asking(faulty, operation, since)[-1], signal.SIGTERM)
    faulty.until(lambda: faulty.task(run)["try_number"] == 2)
    assert "goes on: it is waited for elsewhere" in faulty.log(run, 1)
    again = faulty.until(lambda: faulty.rest.xcom(faulty.task(run), "job"))
    assert again["job_name"] == first["job_name"]
    faulty.until_state(run, "running")
    faulty.mark_failed(run)
    faulty.until(lambda: faulty.task(run)["state"] == "failed")


def test_a_stop_in_the_triggerer_outlasts_a_call_that_stalls(idle: World) -> None:
    run = idle.start("compile_deferred", model="stalled stop", seconds=600)
    idle.until(lambda: idle.taken_up(run))
    stalled: list[int] = []

    def stall(exchange: Exchange) -> Effect | None:
        if exchange.operation != "StopCompilationJob" or exchange.moment == "after" or stalled:
            return None
        stalled.append(exchange.pid)
        return Effect(seconds=60, reset=True)

    idle.cloud_proxy.rule = stall
    try:
        idle.mark_failed(run)
        idle.until(lambda: idle.jobs(run, "stalled stop")[0]["status"] == "STOPPED")
    finally:
        idle.cloud_proxy.rule = lambda _exchange: None
    assert stalled


def test_a_job_deleted_behind_our_back_is_made_again(faulty: World) -> None:
    runs = {
        mode: faulty.start(f"nameless_{mode}", model=f"gone {mode}", seconds=8)
        for mode in ("worker", "deferred")
    }
    for mode, run in runs.items():
        job = faulty.until(lambda run=run: faulty.rest.xcom(faulty.task(run), "job"))["job_id"]
        faulty.until_state(run, "running" if mode == "worker" else "deferred")
        httpx.delete(f"{faulty.nameless_url}/jobs/{job}?purge", timeout=30)
    for mode, run in runs.items():
        faulty.end(run, "success")
        assert [job["status"] for job in faulty.nameless_jobs(f"gone {mode}")] == ["SUCCEEDED"]


def test_trouble_while_jobs_run_loses_no_wait(faulty: World) -> None:
    """Whoever asks, for whatever: the triggerer for its lists too."""
    dags = ("compile_worker", "compile_deferred", "nameless_worker", "nameless_deferred")
    runs = {dag: faulty.start(dag, model=f"trouble {dag}", seconds=15) for dag in dags}
    for run in runs.values():
        faulty.until(lambda run=run: faulty.rest.xcom(faulty.task(run), "job"))
    left = itertools.cycle(TROUBLES.values())
    spoilt: Counter[str] = Counter()

    def rule(exchange: Exchange) -> Effect | None:
        if exchange.moment == "after":
            return None
        spoilt[exchange.operation] += 1
        return next(left)

    faulty.cloud_proxy.rule = faulty.nameless_proxy.rule = rule
    time.sleep(60)
    faulty.cloud_proxy.rule = faulty.nameless_proxy.rule = lambda exchange: None
    assert spoilt.total() > 2 * len(TROUBLES), spoilt
    for dag, run in runs.items():
        task = faulty.finish(run, 240)
        assert (task["state"], task["try_number"]) == ("success", 1), faulty.log(run)
        assert [job["status"] in ENDED for job in faulty.jobs(run, f"trouble {dag}")] == [True]


@pytest.mark.parametrize(
    "part", ["triggerer", "scheduler", "api-server", "execution-api", "localcloud"]
)
def test_a_part_of_the_stack_killed_while_jobs_run_loses_no_wait(faulty: World, part: str) -> None:
    dags = ("compile_worker", "compile_deferred", "nameless_worker", "nameless_deferred")
    runs = {dag: faulty.start(dag, model=f"{part} {dag}", seconds=8) for dag in dags}
    for run in runs.values():
        faulty.until(lambda run=run: faulty.rest.xcom(faulty.task(run), "job"))
    if part == "localcloud":
        faulty.restart_localcloud(down=3)
    else:
        faulty.restart(part)
    for dag, run in runs.items():
        faulty.end(run, "success")
        assert [job["status"] in ENDED for job in faulty.jobs(run, f"{part} {dag}")] == [True]


def test_a_scheduler_killed_without_its_workers_costs_no_job(faulty: World) -> None:
    """Airflow gives their tasks to other tries, and ends those that still run."""
    models = ("alone 1", "alone 2")
    runs = [faulty.start("nameless_worker", model=model, seconds=60) for model in models]
    for run in runs:
        faulty.until(lambda run=run: faulty.rest.xcom(faulty.task(run), "job"))
    faulty.restart_alone("scheduler")
    for model, run in zip(models, runs, strict=True):
        faulty.end(run, "success", 240)
        assert faulty.task(run)["try_number"] > 1
        assert [(job["status"], job["stops"]) for job in faulty.nameless_jobs(model)] == [
            ("SUCCEEDED", 0)
        ]
