"""Runs triggers in Airflow's own TriggerRunner and measures its process.

`python -m benchmarks.triggerer.runner plan.json result.json`: the supervisor is Airflow's too; only
its work on the metadata database is left out, so what is measured is the triggerer's event loop.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from airflow.executors import workloads
from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
from airflow.models.trigger import Trigger

WARM_UP_ID, PROBE_ID = 1, 2
TICK_SECONDS = 0.5


class Supervisor(TriggerRunnerSupervisor):
    """Airflow's supervisor with a list of triggers in place of a database."""

    def heartbeat(self) -> None:
        """There is no job to keep alive."""

    def load_triggers(self) -> None:
        """Triggers are put in by hand."""

    def emit_metrics(self) -> None:
        """There is nobody to tell."""

    def clean_unused(self) -> None:
        """Nothing is in a database."""

    def handle_failed_triggers(self) -> None:
        """End the benchmark when a trigger fails."""
        if self.failed_triggers:
            raise RuntimeError(f"a trigger failed: {self.failed_triggers[0]}")


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the plan's triggers to their events and return what it took.

    The plan: `triggers` as [class path, arguments], `lags` the probe's file, `seconds` the limit.
    """
    supervisor = Supervisor.start(capacity=len(plan["triggers"]) + 1)
    try:
        # Airflow imports what it creates triggers with when it creates the first one.
        first = ["benchmarks.triggerer.idle.IdleTrigger", {"job_name": "warm-up", "until": 0}]
        supervisor.creating_triggers.append(_workload(WARM_UP_ID, *first))
        _collect(supervisor, 1, time.time() + plan["seconds"])
        probe = ["benchmarks.triggerer.triggers.LagProbe", {"path": plan["lags"]}]
        supervisor.creating_triggers.append(_workload(PROBE_ID, *probe))
        while not Path(plan["lags"]).exists():
            supervisor._service_subprocess(TICK_SECONDS)
        cpu = _cpu_seconds(supervisor.pid)
        started = time.time()
        for number, (path, arguments) in enumerate(plan["triggers"], start=PROBE_ID + 1):
            supervisor.creating_triggers.append(_workload(number, path, arguments))
        events = _collect(supervisor, len(plan["triggers"]), started + plan["seconds"])
        ended = time.time()
        return {
            "cpu_seconds": _cpu_seconds(supervisor.pid) - cpu,
            "peak_bytes": _peak_bytes(supervisor.pid),
            "started": started,
            "ended": ended,
            "events": events,
        }
    finally:
        supervisor.kill(force=True)


def _collect(supervisor: Supervisor, count: int, deadline: float) -> dict[str, float]:
    events: dict[str, float] = {}
    while len(events) < count and time.time() < deadline:
        supervisor._service_subprocess(TICK_SECONDS)
        supervisor.handle_failed_triggers()
        while supervisor.events:
            payload = supervisor.events.popleft().event.payload
            if isinstance(payload["event"], dict) and "error" in payload["event"]:
                raise RuntimeError(f"a wait failed: {payload['event']}")
            events[payload["job"]] = payload["at"]
    return events


def _workload(number: int, path: str, arguments: dict[str, Any]) -> workloads.RunTrigger:
    return workloads.RunTrigger(
        id=number, classpath=path, encrypted_kwargs=Trigger.encrypt_kwargs(arguments)
    )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no peak of memory")


def main() -> None:
    """Run one plan."""
    # Both need these: their import is paid once a process and is not what is compared.
    import aiobotocore.session  # noqa: F401

    import benchmarks.triggerer.triggers  # noqa: F401

    plan = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(run(plan)))


if __name__ == "__main__":
    main()
