"""Runs killed at random: how many jobs are made twice, left running, or waited for in vain.

Method. One stack of real processes (scheduler with LocalExecutor, triggerer, API server,
localcloud, object store) and a service that takes no name. Each of RUNS DAG runs has one task that
submits one job, to the compilation service or to the nameless one, and waits for it in the worker
or deferred. A seeded generator gives each run one to three steps of its life at which its task
process gets a SIGKILL: before the create call, after the service took it but before the answer
arrives, after the handle was persisted, while waiting, on resume. Fault proxies before both
services do that: they know which process makes each call. A quarter of the runs is evicted
instead: its process gets a SIGTERM there, as from a host that goes down, and the retry finds its
job. Of the nameless jobs a tenth fails first, so that a second one is due. Meanwhile, every half
minute or so, a part of the stack gets a SIGKILL with all its processes (the scheduler with the
tasks it runs, the triggerer, an API server, localcloud, the nameless service; or the scheduler
without what it started) and is started again; and one call in fifty is throttled, answered by a 500
or reset, before or after the service did it. The nameless service's clock is an hour behind. And of
every second run of the compilation service a user clears the task at some moment: its job is to be
stopped, and another one made. Jobs of these runs take so long that one which is not stopped runs
beside the next. (Not of the nameless: a job that an earlier try left, and that is
known by its likeness alone, is not stopped after a clear but named in the log.)

The services themselves are asked for the truth, past the proxies:
- duplicates: jobs beyond those due: one for a run, one for each that failed, and one for each
  clear. (localcloud too fails a job, one that lost its worker three times. A job that a worker
  stopped, because Airflow took its task away, is one too many);
- orphans: jobs that are running when their run has ended, or beside their run's next job;
- lost waits: runs that did not succeed, within RUN_SECONDS, with the result of their own job.

The plan of kills follows from the seed alone; which instruction a SIGKILL meets does not.

`CHAOS_RUNS`, `CHAOS_SEED` change the size and the seed.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.record import Measure, write
from stack.rest import AirflowRefusedError
from tests.faults.killer import (
    CREATES,
    DEFERRED_STEPS,
    WORKER_STEPS,
    Killer,
    outside_session,
)
from tests.faults.proxy import Effect, Exchange, refusal
from tests.faults.world import World, model_of, world

RUNS = int(os.environ.get("CHAOS_RUNS", "200"))
SEED = int(os.environ.get("CHAOS_SEED", "20260101"))
AT_ONCE = 12
# A wait is lost if it never ends, and not if Airflow's database is locked for a minute.
RUN_SECONDS = 900.0
PART_SECONDS = (20.0, 40.0)
TROUBLE_SHARE = 0.02
CLEARED_JOB_SECONDS = 40.0
# A stop takes localcloud's worker a moment.
OVERLAP = timedelta(seconds=8)
SKEW_SECONDS = -3600.0
HOME = Path(__file__).resolve().parent.parent / ".local" / "chaos"
ALONE = "scheduler alone"
PARTS = (
    "triggerer", "scheduler", ALONE, "api-server", "execution-api", "localcloud", "nameless",
)  # fmt: skip
MINIMUM = {"runs": 200, "kills": 200, "calls spoilt": 1}
RUNNING = frozenset({"RUNNING", "STARTING", "INPROGRESS"})
SUCCEEDED = frozenset({"SUCCEEDED", "COMPLETED"})
FAILED = "FAILED"


@dataclass
class Plan:
    """One run: what it does, and where it is killed."""

    model: str
    dag_id: str
    seconds: float
    outcome: str
    steps: list[str]
    signal: signal.Signals
    clear_after: float | None
    """Seconds after which a user clears the task."""


def plans(runs: int, seed: int) -> list[Plan]:
    """Return the plan of each run, the same for the same seed."""
    rng = random.Random(seed)
    return [_plan(rng, number) for number in range(runs)]


def _plan(rng: random.Random, number: int) -> Plan:
    kind = rng.choices(["nameless", "compile"], [2, 1])[0]
    mode = rng.choice(["worker", "deferred"])
    steps = WORKER_STEPS if mode == "worker" else DEFERRED_STEPS
    fails = kind == "nameless" and rng.random() < 0.1
    seconds = round(rng.uniform(1, 12), 1)
    clear_after = rng.uniform(2, 30) if kind == "compile" and rng.random() < 0.5 else None
    return Plan(
        model=f"run-{number:04d}",
        dag_id=f"{kind}_{mode}",
        seconds=seconds if clear_after is None else CLEARED_JOB_SECONDS,
        outcome="FAILED_FIRST" if fails else "SUCCEEDED",
        steps=rng.sample(steps, rng.choices([1, 2, 3], [5, 3, 2])[0]),
        signal=rng.choices([signal.SIGKILL, signal.SIGTERM], [3, 1])[0],
        clear_after=clear_after,
    )


@dataclass
class Verdict:
    """What became of one run, by the services' own word."""

    plan: Plan
    duplicates: int
    orphans: int
    lost: str
    seconds: float
    """How long the run took."""


class Trouble:
    """Adds trouble to a killer's rule: one call in so many goes wrong."""

    def __init__(self, killer: Killer, rng: random.Random) -> None:
        self._killer, self._rng, self._lock = killer, rng, threading.Lock()
        self.seen: Counter[str] = Counter()

    def __call__(self, exchange: Exchange) -> Effect | None:
        """Kill first; then, now and then, spoil the answer."""
        effect = self._killer(exchange)
        with self._lock:
            unlucky = self._rng.random() < TROUBLE_SHARE
            kind = self._rng.choice(["throttling", "server error", "reset"])
        if effect is not None or not unlucky or not exchange.pid:
            return effect
        late = exchange.moment == "after"
        if late and kind == "throttling" and exchange.operation in CREATES:
            return None  # a service that throttles a call did not do it
        self.seen[f"{kind} {exchange.moment}"] += 1
        return {
            "throttling": Effect(answer=refusal(400, "ThrottlingException")),
            "server error": Effect(answer=refusal(500, "InternalFailure")),
            "reset": Effect(reset=True),
        }[kind]


class Chaos:
    """All runs of one seed on one stack."""

    def __init__(self, world: World, planned: list[Plan], seed: int) -> None:
        self.world = world
        self.verdicts: list[Verdict] = []
        self.parts: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.clears: Counter[str] = Counter()
        self._waiting = list(reversed(planned))
        self._running: dict[tuple[str, str], tuple[Plan, float]] = {}
        self._rng = random.Random(seed + 1)
        triggerer = world.stack.processes["triggerer"]
        steps = {plan.model: plan.steps for plan in planned}
        signals = {plan.model: plan.signal for plan in planned}
        self.killer = Killer(steps, outside_session(lambda: triggerer.pid), signals)
        self.trouble = Trouble(self.killer, random.Random(seed + 2))
        world.cloud_proxy.rule = world.nameless_proxy.rule = self.trouble

    def run(self) -> None:
        """Keep AT_ONCE runs going, and kill a part now and then, until all runs have ended."""
        next_part = time.monotonic() + self._rng.uniform(*PART_SECONDS)
        while self._waiting or self._running:
            while self._waiting and len(self._running) < AT_ONCE:
                self._start(self._waiting.pop())
            if time.monotonic() > next_part and (self._waiting or len(self._running) > 3):
                self._kill_part()
                next_part = time.monotonic() + self._rng.uniform(*PART_SECONDS)
            self.ended.update(f"{part} ended by itself" for part in self.world.revive())
            for run in list(self._running):
                self._look(run)
            time.sleep(0.5)

    def _start(self, plan: Plan) -> None:
        conf = {"model": f"{plan.model}!", "seconds": plan.seconds, "outcome": plan.outcome}
        body = {"logical_date": None, "dag_run_id": plan.model, "conf": conf}
        rest = self.world.rest

        def start() -> None:
            try:
                rest.post(f"/dags/{plan.dag_id}/dagRuns", body)
            except AirflowRefusedError as error:
                if " 409 " not in str(error):  # the answer to the first go was an error
                    raise

        _patiently(start)
        self._running[plan.dag_id, plan.model] = (plan, time.monotonic())

    def _kill_part(self) -> None:
        part = self._rng.choice(PARTS)
        self.parts[part] += 1
        if part == "localcloud":
            self.world.restart_localcloud(down=self._rng.uniform(0, 5))
        elif part == "nameless":
            self.world.nameless_process.kill()
            time.sleep(self._rng.uniform(0, 5))
            self.world.nameless_process.start()
        elif part == ALONE:
            self.world.restart_alone("scheduler")
        else:
            self.world.restart(part)

    def _look(self, run: tuple[str, str]) -> None:
        plan, started = self._running[run]
        state = _patiently(lambda: self.world.rest.run(*run)["state"])
        age = time.monotonic() - started
        over = state in {"success", "failed"} or age > RUN_SECONDS
        due = plan.clear_after is not None and age > plan.clear_after
        if due and not over and not self.clears[plan.model]:
            _patiently(lambda: self._clear(run))
        elif over:
            del self._running[run]
            self.verdicts.append(self._judge(run, plan, state, age))
            done = len(self.verdicts)
            sys.stderr.write(f"{done}: {plan} {state} {self.verdicts[-1].lost}\n")

    def _clear(self, run: tuple[str, str]) -> None:
        self.clears[run[1]] += 1  # whatever comes of it: a call without an answer may be heard
        self.world.clear(run)

    def _judge(self, run: tuple[str, str], plan: Plan, state: str, age: float) -> Verdict:
        jobs = _patiently(lambda: self.world.jobs(run, f"{plan.model}!"))
        task = _patiently(lambda: self.world.task(run))
        result = _patiently(lambda: self.world.rest.xcom(task)) or {}
        named = [job for job in jobs if result.get("job_id") == job.get("jobId")
                 and result.get("job_name") == job.get("CompilationJobName")]  # fmt: skip
        good = state == "success" and [job["status"] in SUCCEEDED for job in named] == [True]
        lost = "" if good else f"{state}, {result}, try {task['try_number']}"
        running = [job for job in jobs if job["status"] in RUNNING]
        beside = len(overlapping(jobs)) if plan.clear_after is not None else 0
        failed = [job for job in jobs if job["status"] == FAILED]
        beyond = self._beyond_due(plan, len(jobs), len(failed))
        return Verdict(plan, beyond, len(running) + beside, lost, age)

    def _beyond_due(self, plan: Plan, made: int, failed: int) -> int:
        return max(0, made - failed - self.clears[plan.model] - 1)

    def recounted(self) -> list[Verdict]:
        """Return the verdicts with the jobs counted once more: a create may have come late."""
        jobs = [(job["model"], job["status"]) for job in self.world.nameless_jobs()]
        jobs += [
            (model_of(job), job["CompilationJobStatus"]) for job in self.world.compilation_jobs()
        ]
        made = Counter(model for model, _ in jobs)
        running = Counter(model for model, status in jobs if status in RUNNING)
        failed = Counter(model for model, status in jobs if status == FAILED)
        return [
            replace(
                each,
                duplicates=self._beyond_due(each.plan, made[model], failed[model]),
                orphans=max(each.orphans, running[model]),
            )
            for each in self.verdicts
            for model in [f"{each.plan.model}!"]
        ]

    @property
    def process_kills(self) -> Counter[str]:
        """SIGKILLs and evictions of task processes, by step."""
        return Counter(
            f"{step} ({self.killer.signals[model].name})"
            for model, life in self.killer.lives.items()
            for step in life.kills
        )


def overlapping(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the compilation jobs of one run that ran on beside the next, and were not stopped."""
    in_order = sorted(jobs, key=lambda job: job["CreationTime"])
    return [
        job
        for job, following in itertools.pairwise(in_order)
        if job["status"] in SUCCEEDED
        and job["CompilationEndTime"] > following["CreationTime"] + OVERLAP
    ]


def _passed(what: str, count: int) -> bool:
    return count >= MINIMUM[what] if what in MINIMUM else count == 0


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer: what is asked may just have been killed, or be busy."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def main() -> Path:
    """Run the chaos and write what came of it."""
    shutil.rmtree(HOME, ignore_errors=True)
    started = time.monotonic()
    with world(HOME, parallelism=6, skew=SKEW_SECONDS) as made:
        chaos = Chaos(made, plans(RUNS, SEED), SEED)
        chaos.run()
        truth = chaos.recounted()
    return write("chaos", _measures(chaos, truth, time.monotonic() - started), ["apache-airflow"])


def _measures(chaos: Chaos, truth: list[Verdict], seconds: float) -> list[Measure]:
    kills = chaos.process_kills
    detail = {**kills, **{f"{part} killed": n for part, n in chaos.parts.items()}, **chaos.ended}
    detail["cleared by a user"] = chaos.clears.total()
    lost = [f"{each.plan.model}: {each.lost}" for each in truth if each.lost]
    longest = max(each.seconds for each in truth)
    counts = {
        "runs": (
            len(truth), "higher", "at least 200",
            f"seed {SEED}, {seconds:.0f} s, the longest {longest:.0f} s",
        ),
        "kills": (
            kills.total() + chaos.parts.total(), "higher", "at least one a run",
            "; ".join(f"{what}: {count}" for what, count in sorted(detail.items())),
        ),
        "calls spoilt": (
            chaos.trouble.seen.total(), "higher", "some",
            "; ".join(f"{what}: {count}" for what, count in sorted(chaos.trouble.seen.items())),
        ),
        "duplicate jobs": (
            sum(each.duplicates for each in truth), "lower", "0",
            ", ".join(each.plan.model for each in truth if each.duplicates),
        ),
        "orphaned jobs": (
            sum(each.orphans for each in truth), "lower", "0",
            ", ".join(each.plan.model for each in truth if each.orphans),
        ),
        "lost waits": (len(lost), "lower", "0", "; ".join(lost)),
    }  # fmt: skip
    return [
        Measure(
            what=what, unit="count", better=better, ours=count, peer=None, peer_name=None,
            limit=None, limit_name=None, goal=goal, rounds=1, spread=(count, count),
            note=f"no peer: a count of what must not happen. {note}".strip(),
            passed=_passed(what, count),
        )
        for what, (count, better, goal, note) in counts.items()
    ]  # fmt: skip
