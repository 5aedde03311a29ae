"""What waiting costs a triggerer: ours beside a waiter trigger, in a real TriggerRunner.

Both wait over their own clients for jobs of one real localcloud, which end evenly over some time.
The peer is `AwsBaseWaiterTrigger` with a custom waiter, as the amazon provider's own triggers are.
The limit is a trigger that only sleeps: what Airflow itself takes for as many triggers.
Excluded: start of the process up to Airflow's first trigger, the imports that both triggers need,
and the supervisor's work on the metadata database. Opening the clients is included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from benchmarks.record import Measure, median_and_spread, write
from benchmarks.triggerer.service import EndingJobs
from benchmarks.waiting_tasks import measured as tasks_measured
from stack.airflow import PROJECT

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
MANY, MOST = 1_000, 10_000
INTERVAL_SECONDS = 5
# Time for a thousand clients of the peer to open, before the first job ends.
LEAD_SECONDS = {MANY: 30.0, MOST: 60.0}
# Jobs take half a minute to two and a half: those of the services take longer.
ENDING_SECONDS = {MANY: 120.0, MOST: 60.0}
TRIGGERS = "benchmarks.triggerer.triggers"
PEER = "AwsBaseWaiterTrigger with a custom waiter"
LIMIT = "a trigger that only sleeps"
MIB = 1024 * 1024

MakeTrigger = Callable[[str, float], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """What one run took; delays and lags in seconds."""

    requests: float
    cpu: float
    lag: float
    own_lag: float
    memory: float
    delay_median: float
    delay_p99: float


def _ours(name: str, _until: float) -> tuple[str, dict[str, Any]]:
    connection = {
        "aws_conn_id": "aws_default", "region_name": None, "verify": None, "botocore_config": None,
    }  # fmt: skip
    service = "model_delivery.hooks.compilation.CompilationJobs"
    handle = {"name": name}
    interval = {"poll_interval": INTERVAL_SECONDS, "max_poll_interval": INTERVAL_SECONDS}
    return f"{TRIGGERS}.OurTrigger", {
        "service": service, "handle": handle, **interval, **connection,
    }  # fmt: skip


def _peer(name: str, _until: float) -> tuple[str, dict[str, Any]]:
    return f"{TRIGGERS}.WaiterTrigger", {"job_name": name, "waiter_delay": INTERVAL_SECONDS}


def _idle(name: str, until: float) -> tuple[str, dict[str, Any]]:
    return "benchmarks.triggerer.idle.IdleTrigger", {"job_name": name, "until": until}


class Bench:
    """Runs in one localcloud."""

    def __init__(self, home: Path, service: EndingJobs) -> None:
        self._home = home
        self._service = service
        self._runs = 0
        self._env = {
            **os.environ,
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(service.connection),
            "PYTHONPATH": str(PROJECT),
        }

    def run(self, make: MakeTrigger, count: int) -> Run:
        """Let `count` triggers of one kind wait, and end their jobs evenly."""
        self._runs += 1
        names = [f"run-{self._runs}-{number}" for number in range(count)]
        self._service.make(names)
        first = time.time() + LEAD_SECONDS[count]
        ending = ENDING_SECONDS[count]
        step = ending / count
        at = {name: first + number * step for number, name in enumerate(names)}
        lags = self._home / f"lags-{self._runs}.jsonl"
        seconds = LEAD_SECONDS[count] + ending + 120
        plan = {
            "triggers": [make(name, at[name]) for name in names],
            "lags": str(lags),
            "seconds": seconds,
        }
        before = self._service.requests()
        with self._runner(plan) as (process, result_file):
            ended = self._service.end(at, first + ending + 30)
            if process.wait(seconds):
                raise RuntimeError(f"the TriggerRunner failed: see {result_file}.log")
        if make is _idle:
            ended = at
        result = json.loads(result_file.read_text())
        return _read(result, ended, lags, self._service.requests() - before)

    def _runner(self, plan: dict[str, Any]) -> "_Runner":
        plan_file = self._home / f"plan-{self._runs}.json"
        plan_file.write_text(json.dumps(plan))
        return _Runner(plan_file, self._home / f"result-{self._runs}.json", self._env)


class _Runner:
    """The process of the supervisor, in a session of its own."""

    def __init__(self, plan: Path, result: Path, env: dict[str, str]) -> None:
        self._argv = [sys.executable, "-m", "benchmarks.triggerer.runner", str(plan), str(result)]
        self._result = result
        self._env = env

    def __enter__(self) -> tuple["subprocess.Popen[bytes]", Path]:
        self._log = Path(f"{self._result}.log").open("wb")
        self._process = subprocess.Popen(
            self._argv, env=self._env, stdout=self._log, stderr=self._log, cwd=PROJECT,
            start_new_session=True,
        )  # fmt: skip
        return self._process, self._result

    def __exit__(self, *_exc: object) -> None:
        from stack.processes import stop_session

        stop_session(self._process.pid)
        self._process.wait()
        self._log.close()


def _read(result: dict[str, Any], ended: dict[str, float], lags: Path, requests: int) -> Run:
    events = result["events"]
    if missing := ended.keys() - events.keys():
        raise RuntimeError(f"{len(missing)} waits were lost, for example {min(missing)}")
    delays = sorted(events[name] - ended[name] for name in ended)
    seen = [json.loads(line) for line in lags.read_text().splitlines()]
    during = [each for each in seen if result["started"] <= each[0] <= result["ended"]]
    return Run(
        requests=requests,
        cpu=result["cpu_seconds"],
        lag=max((lag for _at, lag, _gc in during), default=0.0),
        own_lag=max((lag - collected for _at, lag, collected in during), default=0.0),
        memory=result["peak_bytes"],
        delay_median=delays[len(delays) // 2],
        delay_p99=delays[int(len(delays) * 0.99)],
    )


@dataclass(frozen=True)
class Goal:
    """What a figure has to reach, from the medians of ours and the peer."""

    text: str
    holds: Callable[[float, float | None], bool]


def _part(part: int) -> Goal:
    return Goal(
        f"<= 1/{part} of the peer's", lambda ours, peer: peer is not None and ours <= peer / part
    )


def _most(most: float, unit: str) -> Goal:
    return Goal(f"<= {most:g} {unit}", lambda ours, _peer: ours <= most)


FIGURES: list[tuple[str, str, str, float]] = [
    ("requests", "requests", "requests to the service", 1),
    ("cpu", "s", "CPU time of the TriggerRunner", 1),
    ("lag", "ms", "worst delay of the event loop", 1000),
    ("own_lag", "ms", "worst delay of the event loop less Python's garbage collection", 1000),
    ("memory", "MiB", "peak resident memory of the TriggerRunner", 1 / MIB),
    ("delay_median", "s", "from a job's end to the event, median", 1),
    ("delay_p99", "s", "from a job's end to the event, 99th percentile", 1),
]
NONE = Goal("none set", lambda _ours, _peer: True)
GOALS: dict[tuple[int, str], Goal] = {
    (MANY, "requests"): _part(100),
    (MANY, "cpu"): _part(8),
    (MANY, "lag"): _most(50, "ms"),
    (MANY, "delay_p99"): _most(INTERVAL_SECONDS + 1, "s"),
    (MOST, "lag"): _most(200, "ms"),
    (MOST, "memory"): _most(1024, "MiB"),
}


def _measures(
    count: int, ours: Sequence[Run], peer: Sequence[Run], idle: Sequence[Run], note: str
) -> list[Measure]:
    made = []
    for field, unit, what, factor in FIGURES:

        def figures(runs: Sequence[Run], field: str = field, factor: float = factor) -> list[float]:
            return [getattr(run, field) * factor for run in runs]

        median, spread = median_and_spread(figures(ours))
        theirs = median_and_spread(figures(peer))[0] if peer else None
        limit = None if field == "requests" else median_and_spread(figures(idle))[0]
        goal = GOALS.get((count, field), NONE)
        made.append(
            Measure(
                what=f"{count:,} triggers, {INTERVAL_SECONDS} s interval: {what}",
                unit=unit, better="lower", ours=median, peer=theirs,
                peer_name=PEER if peer else None, limit=limit, limit_name=LIMIT,
                goal=goal.text, rounds=len(ours), spread=spread, note=note,
                passed=None if goal is NONE else goal.holds(median, theirs),
            )
        )  # fmt: skip
    return made


def main() -> Path:
    """Measure 1,000 triggers in interleaved rounds, then 10,000 of ours, then 200 whole tasks."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EndingJobs(home).running() as service:
            bench = Bench(home, service)
            kinds = (_ours, _peer, _idle)
            rounds = [[bench.run(kind, MANY) for kind in kinds] for _ in range(ROUNDS)]
            ours, peer, idle = zip(*rounds, strict=True)
            measures = _measures(MANY, ours, peer, idle, "")
            most, most_idle = bench.run(_ours, MOST), bench.run(_idle, MOST)
    alone = (
        "one round, without the peer: it opens a client for each trigger and asks for each at "
        "each interval, 2,000 requests a second, which neither it nor the service can do here"
    )
    measures += _measures(MOST, [most], [], [most_idle], alone)
    measures.append(tasks_measured())
    return write(
        "waiting", measures,
        ["apache-airflow", "apache-airflow-providers-amazon", "aiobotocore", "botocore"],
    )  # fmt: skip
