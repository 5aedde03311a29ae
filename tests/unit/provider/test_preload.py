"""Preloading before a LocalExecutor forks: who does it, and that clients then read nothing."""

import json
import os
import subprocess
import sys

import pytest

CLIENT = """
import sys
from airflow.jobs.job import Job
from airflow.sdk.execution_time.task_runner import TaskRunnerMarker
from model_delivery import preload
*sys.argv, component = json.loads(sys.argv[1])
preload.on_starting(Job() if component == "Job" else TaskRunnerMarker())
preloaded = "boto3" in sys.modules
from model_delivery.aws import service_client
from model_delivery.hooks.aws import ModelLoader
from model_delivery.hooks.compilation import CompilationJobHook
read = []
load = ModelLoader.load_file
ModelLoader.load_file = lambda self, path: read.append(path) or load(self, path)
service_client(CompilationJobHook(aws_conn_id=None, region_name="eu-west-1"))
print("\\n" + json.dumps([preloaded, [path for path in read if "sagemaker" in path]]))
"""


def run(argv: list[str], component: str = "Job", **env: str) -> tuple[bool, list[str]]:
    """Start a component, then open a client; return what was imported, and read for the client."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json{CLIENT}", json.dumps([*argv, component])],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", **env},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    preloaded, read = json.loads(done.stdout.splitlines()[-1])
    return preloaded, read


def test_what_a_scheduler_preloads_no_task_reads() -> None:
    assert run(["airflow", "scheduler"]) == (True, [])


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["airflow", "triggerer"], {}),
        (["airflow", "scheduler"], {"component": "task"}),
        (["airflow", "scheduler"], {"AIRFLOW__MODEL_DELIVERY__PRELOAD": "False"}),
        (["airflow", "scheduler"], {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}),
    ],
    ids=["another component", "a forked task", "switched off", "another executor"],
)
def test_nobody_else_preloads(argv: list[str], env: dict[str, str]) -> None:
    preloaded, read = run(argv, **env)
    assert not preloaded
    assert len(read) > 1
