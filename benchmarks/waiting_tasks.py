"""What a deferred task costs end to end under Airflow, beside one that does nothing but defer.

LocalExecutor with four slots, SQLite; each task waits some seconds in the triggerer. Counted is a
run from its start to its end, less the one wait that cannot overlap, for each task. The goal asks
what ours adds: an operator that submits a job, defers, resumes and asks for its result. The limit
is of its shape, with templated fields and a link; one without them, so the least there is, is told
of in the note.
"""

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.record import Measure, median_and_spread
from benchmarks.triggerer.service import EndingJobs
from stack.airflow import ADMIN, PROJECT, Airflow
from stack.credentials import load_or_create
from stack.ports import free_ports
from stack.processes import Process
from stack.rest import AirflowRest

COUNT = int(os.environ.get("BENCH_TASKS", "200"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
# Airflow fails a task that resumes before the worker's supervisor has reported that it deferred,
# which can take it over 5 s: the wait must be longer.
WAIT_SECONDS = 15.0
START_SECONDS = 180.0
RUN_SECONDS = 1800.0
GOAL = 1.3
DAGS = Path(__file__).parent / "triggerer" / "dags"
LEAST = "deferred_idle"
IDLE = "deferred_shaped"
OURS = "deferred_operator"


@contextmanager
def _airflow(home: Path, service: EndingJobs) -> Iterator[AirflowRest]:
    credentials = load_or_create(home / "secrets.json")
    settings = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(service.connection),
        "BENCH_TASKS": str(COUNT),
        "BENCH_WAIT_SECONDS": str(WAIT_SECONDS),
        "PYTHONPATH": str(PROJECT),
    }
    airflow = Airflow(home / "airflow", credentials, free_ports(1)[0], {}, settings)
    with ExitStack() as stack:

        def launch(process: Process) -> Process:
            stack.callback(process.stop)
            return process.start()

        launch(airflow.migrate()).wait_done(START_SECONDS)
        for component in [launch(each) for each in airflow.components()]:
            component.wait_healthy(START_SECONDS)
        rest = AirflowRest(airflow.url, ADMIN, airflow.password)
        for dag in (LEAST, IDLE, OURS):
            rest.wait_for_dag(dag)
            rest.unpause(dag)
        yield rest


@contextmanager
def _ending(service: EndingJobs) -> Iterator[None]:
    """End each job WAIT_SECONDS after it was made, as long as the block runs."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.1):
            service.end_older_than(WAIT_SECONDS)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _milliseconds_a_task(rest: AirflowRest, service: EndingJobs, dag: str) -> float:
    with _ending(service):
        run_id = rest.trigger(dag, {})
        run = rest.wait(dag, run_id, RUN_SECONDS)
    if run["state"] != "success":
        failed = [each for each in rest.tasks(dag, run_id) if each["state"] == "failed"]
        said = "\n".join(rest.log(failed[0])) if failed else "no task failed"
        raise RuntimeError(f"{dag} ended {run['state']}: {said}")
    started, ended = (datetime.fromisoformat(run[each]) for each in ("start_date", "end_date"))
    service.forget()
    return ((ended - started).total_seconds() - WAIT_SECONDS) / COUNT * 1000


def measured() -> Measure:
    """Run both in turn, in interleaved rounds."""
    figures: dict[str, list[float]] = {dag: [] for dag in (LEAST, IDLE, OURS)}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EndingJobs(home).running() as service, _airflow(home, service) as rest:
            for _ in range(ROUNDS):
                for dag in figures:
                    figures[dag].append(_milliseconds_a_task(rest, service, dag))
    limit, _ = median_and_spread(figures[IDLE])
    least, _ = median_and_spread(figures[LEAST])
    ours, spread = median_and_spread(figures[OURS])
    note = f"ratio {ours / limit:.2f}; to one without templated fields and link, {least:.0f} ms: "
    return Measure(
        what=f"{COUNT} deferred CreateCompilationJobOperator tasks end to end, for each",
        unit="ms", better="lower", ours=ours, peer=None, peer_name=None,
        limit=limit, limit_name="a task of its shape that does nothing but defer",
        goal=f"<= {GOAL} x the limit", rounds=ROUNDS, spread=spread,
        note=f"{note}{ours / least:.2f}",
        passed=ours <= GOAL * limit,
    )  # fmt: skip
