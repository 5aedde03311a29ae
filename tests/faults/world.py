"""A whole stack with a fault proxy before each of two services, and what can be done to it."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from stack.airflow import ADMIN, PROJECT, aws_connection
from stack.credentials import REGION
from stack.object_store import BUCKET, s3_client
from stack.ports import LOOPBACK, free_ports
from stack.processes import Process, StackError, answers, stop_session
from stack.rest import AirflowRest
from stack.stack import Stack
from tests.faults.proxy import FaultProxy

DAGS = Path(__file__).parent / "dags"
FAST = {
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "PYTHONPATH": str(PROJECT),
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "3600",
}


class World:
    """The running stack, its proxies, and the truth: both services asked past the proxies."""

    def __init__(self, stack: Stack, nameless: Process, port: int) -> None:
        self.stack = stack
        self.nameless_process = nameless
        self.nameless_url = f"http://{LOOPBACK}:{port}"
        self.rest: AirflowRest
        self.sagemaker: Any
        self.cloud_proxy: FaultProxy
        self.nameless_proxy: FaultProxy
        self.left: list[int] = []  # sessions whose first process was killed alone

    def start(self, dag_id: str, **conf: Any) -> tuple[str, str]:
        return dag_id, self.rest.trigger(dag_id, conf)

    def task(self, run: tuple[str, str]) -> dict[str, Any]:
        (task,) = self.rest.tasks(*run)
        return task

    def finish(self, run: tuple[str, str], seconds: float = 120) -> dict[str, Any]:
        """Wait for a run and return its task."""
        self.rest.wait(*run, seconds)
        return self.task(run)

    def end(self, run: tuple[str, str], state: str, seconds: float = 120) -> dict[str, Any]:
        """Wait for a run and return its task, which has to be in `state`."""
        task = self.finish(run, seconds)
        assert task["state"] == state, f"{run} {task['state']}\n{self.log(run)}"
        return task

    def until(self, true: Callable[[], Any], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.2)
        return value

    def until_state(self, run: tuple[str, str], *states: str, seconds: float = 60) -> None:
        self.until(lambda: self.task(run)["state"] in states, seconds)

    def taken_up(self, run: tuple[str, str]) -> bool:
        """Tell whether a triggerer runs the trigger of the task's present try."""
        task = self.task(run)
        folder = self.stack.airflow.home / "logs" / f"dag_id={run[0]}" / f"run_id={run[1]}"
        logs = folder.glob(f"*/attempt={task['try_number']}.log.trigger.*")
        started = any(" starting" in log.read_text() for log in logs)
        return task["state"] == "deferred" and started

    def clear(self, run: tuple[str, str]) -> None:
        """Clear a run's task, as a user does in the UI."""
        body = {"dry_run": False, "dag_run_id": run[1], "task_ids": ["task"], "only_failed": False}
        self.rest.post(f"/dags/{run[0]}/clearTaskInstances", body)

    def mark_failed(self, run: tuple[str, str]) -> None:
        """Mark a run's task as failed, as a user does in the UI."""
        path = f"/dags/{run[0]}/dagRuns/{run[1]}/taskInstances/task"
        self.rest.patch(path, {"new_state": "failed"})

    def log(self, run: tuple[str, str], number: int | None = None) -> str:
        """Return what a try logged, the newest where none is said."""
        task = self.task(run)
        return "\n".join(self.rest.log({**task, "try_number": number or task["try_number"]}))

    def nameless_jobs(self, model: str | None = None) -> list[dict[str, Any]]:
        """All jobs the nameless service knows, or those of one model."""
        jobs: list[dict[str, Any]] = []
        start: int | None = 0
        while start is not None:
            page = httpx.get(
                f"{self.nameless_url}/jobs", params={"start": start}, timeout=30
            ).json()
            jobs += page["jobs"]
            start = page["start"]
        return [job for job in jobs if model in (None, job["model"])]

    def compilation_jobs(self, model: str | None = None) -> list[dict[str, Any]]:
        """All compilation jobs, or those of one run's output."""
        pages = self.sagemaker.get_paginator("list_compilation_jobs").paginate()
        names = [job["CompilationJobName"] for page in pages
                 for job in page["CompilationJobSummaries"]]  # fmt: skip
        jobs = [self.sagemaker.describe_compilation_job(CompilationJobName=n) for n in names]
        return [job for job in jobs if model is None or model_of(job) == model]

    def jobs(self, run: tuple[str, str], model: str) -> list[dict[str, Any]]:
        """Return the jobs of one run, of either service, with their status."""
        if run[0].startswith("compile"):
            found = self.compilation_jobs(model)
            return [{**job, "status": job["CompilationJobStatus"]} for job in found]
        return self.nameless_jobs(model)

    def cloud_client(self, service: str) -> Any:
        """Return a boto3 client of the cloud itself, past the proxy."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.stack.cloud.url,
            region_name=REGION,
            aws_access_key_id=self.stack.credentials.aws_access_key_id,
            aws_secret_access_key=self.stack.credentials.aws_secret_access_key,
        )

    def make_component(self, name: str) -> None:
        """Make version 1.0.0 of a component, so that it can be deployed."""
        store = s3_client(self.stack.store_port, self.stack.credentials)
        store.put_object(Bucket=BUCKET, Key=f"components/{name}.tar.gz", Body=b"a bundle")
        client = self.cloud_client("greengrassv2")
        artifact = {"Uri": f"s3://{BUCKET}/components/{name}.tar.gz"}
        recipe = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": "1.0.0",
            "ComponentType": "aws.greengrass.generic",
            "ComponentConfiguration": {"DefaultConfiguration": {"modelName": name}},
            "Manifests": [{"Platform": {"os": "linux"}, "Artifacts": [artifact]}],
        }
        try:
            client.create_component_version(inlineRecipe=json.dumps(recipe).encode())
        except client.exceptions.ConflictException:
            return  # an earlier test made it

    def restart(self, name: str) -> None:
        """SIGKILL one part, as a power cut would, and start it again."""
        process = self.stack.processes[name]
        process.kill()
        process.start()
        process.wait_healthy(90)

    def restart_alone(self, name: str) -> None:
        """SIGKILL one process, as a kernel short of memory does; what it started lives on."""
        process = self.stack.processes[name]
        self.left.append(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        self.until(lambda: not _runs(process))
        process.start()

    def revive(self) -> list[str]:
        """Start each part that ended by itself, as an init system does; return their names."""
        ended = [name for name, process in self.stack.processes.items() if not _runs(process)]
        for name in ended:
            self.stack.processes[name].start()
        return ended

    def restart_localcloud(self, down: float = 0.0) -> None:
        """SIGKILL the cloud's API and worker at once, and start them after a while."""
        parts = [self.stack.processes[name] for name in ("localcloud", "localcloud worker")]
        for part in parts:
            part.kill()
        time.sleep(down)
        for part in parts:
            part.start()


def _runs(process: Process) -> bool:
    try:
        process.require_running()
    except StackError:
        return False
    return True


def model_of(job: dict[str, Any]) -> str:
    """Return the model that a compilation job's run was started with."""
    return str(job["OutputConfig"]["S3OutputLocation"]).rpartition("/")[2]


@contextmanager
def world(home: Path, parallelism: int = 4, skew: float = 0.0) -> Iterator[World]:
    """Start everything with short heartbeats; stop it all at the end."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "tests.nameless.server", str(port), str(home / "jobs.db")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    nameless = Process(
        "nameless", [*argv, str(skew)], environment, home / "nameless.log",
        lambda: answers(f"http://{LOOPBACK}:{port}/jobs"),
    )  # fmt: skip
    settings = {**FAST, "AIRFLOW__CORE__PARALLELISM": str(parallelism)}
    stack = Stack(home, settings=settings)
    made = World(stack, nameless, port)
    cloud = int(stack.cloud.url.rpartition(":")[2])
    with FaultProxy(cloud) as made.cloud_proxy, FaultProxy(port) as made.nameless_proxy:
        _connect(made)
        nameless.start()
        try:
            nameless.wait_healthy(30)
            with stack, AirflowRest(stack.airflow.url, ADMIN, stack.airflow.password) as made.rest:
                _prepare(made)
                yield made
        finally:
            nameless.stop()
            for session in made.left:
                stop_session(session)


def _connect(made: World) -> None:
    stack = made.stack
    url = f"http://{LOOPBACK}:{made.cloud_proxy.port}"
    connection = aws_connection(stack.credentials, url, stack.store_url)
    nameless = {"conn_type": "generic", "host": LOOPBACK, "port": made.nameless_proxy.port}
    stack.airflow.env["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(connection)
    stack.airflow.env["AIRFLOW_CONN_NAMELESS"] = json.dumps(nameless)


def _prepare(made: World) -> None:
    from include.samples.digits import write_samples

    stack = made.stack
    write_samples(stack.home / "samples")
    store = s3_client(stack.store_port, stack.credentials)
    store.upload_file(
        str(stack.home / "samples" / "digits.tar.gz"), BUCKET, "samples/digits.tar.gz"
    )
    made.sagemaker = made.cloud_client("sagemaker")
    made.rest.wait_for_dag("timeout_deferred")
