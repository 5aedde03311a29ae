"""Small services that keep their jobs in memory, spoken to through the provider's own clients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from botocore.exceptions import ClientError
from model_delivery.hooks.edge import Deployments
from model_delivery.jobs import rate, retries
from model_delivery.jobs.retries import Pause

ACCOUNT_ARN = "arn:aws:sagemaker:us-east-1:000000000000:compilation-job"


class KilledError(BaseException):
    """The process ends here: no handler may see it."""


@dataclass
class Worker:
    """A process that submits; it can be killed right before or right after a service's create."""

    kill_before_create: bool = False
    kill_after_create: bool = False

    def creating(self, create: Callable[[], None]) -> None:
        if self.kill_before_create:
            raise KilledError
        create()
        if self.kill_after_create:
            raise KilledError


def refusal(code: str, operation: str, status: int = 0) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": f"{code} by the test"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)


@dataclass
class SageMaker:
    """Compilation jobs: a name is taken for ever."""

    worker: Worker
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuse_with: str | None = None
    stops: list[str] = field(default_factory=list)

    def create_compilation_job(self, **request: Any) -> dict[str, Any]:
        name = request["CompilationJobName"]
        if self.refuse_with:
            raise refusal(self.refuse_with, "CreateCompilationJob")
        if name in self.jobs:
            raise refusal("ResourceInUse", "CreateCompilationJob")
        answer = {"CompilationJobArn": f"{ACCOUNT_ARN}/{name}"}
        job = {**request, **answer, "CompilationJobStatus": "INPROGRESS"}
        self.worker.creating(lambda: self.jobs.update({name: job}))
        return answer

    def describe_compilation_job(self, CompilationJobName: str) -> dict[str, Any]:
        if CompilationJobName not in self.jobs:
            raise refusal("ResourceNotFound", "DescribeCompilationJob")
        job = self.jobs[CompilationJobName]
        described = dict(job)
        if job["CompilationJobStatus"] == "STOPPING":
            job["CompilationJobStatus"] = "STOPPED"
        return described

    def stop_compilation_job(self, CompilationJobName: str) -> None:
        self.stops.append(CompilationJobName)
        self.jobs[CompilationJobName]["CompilationJobStatus"] = "STOPPING"


@dataclass
class Personalize:
    """Batch inference jobs: a name is taken for ever, and jobs are known by their ARN."""

    worker: Worker
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def create_batch_inference_job(self, **request: Any) -> dict[str, Any]:
        prefix = request["solutionVersionArn"].rsplit(":", 1)[0]
        arn = f"{prefix}:batch-inference-job/{request['jobName']}"
        if arn in self.jobs:
            raise refusal("ResourceAlreadyExistsException", "CreateBatchInferenceJob")
        job = {"batchInferenceJobMode": "BATCH_INFERENCE", **request, "numResults": 1000,
               "batchInferenceJobArn": arn, "status": "IN PROGRESS"}  # fmt: skip
        self.worker.creating(lambda: self.jobs.update({arn: job}))
        return {"batchInferenceJobArn": arn}

    def describe_batch_inference_job(self, batchInferenceJobArn: str) -> dict[str, Any]:
        if batchInferenceJobArn not in self.jobs:
            raise refusal("ResourceNotFoundException", "DescribeBatchInferenceJob")
        return {"batchInferenceJob": self.jobs[batchInferenceJobArn]}


@dataclass
class Greengrass:
    """Deployments: names repeat, ids do not."""

    worker: Worker
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def create_deployment(self, **request: Any) -> dict[str, Any]:
        deployment_id = f"deployment-{len(self.jobs)}"
        job = {**request, "deploymentId": deployment_id, "deploymentStatus": "ACTIVE"}
        self.worker.creating(lambda: self.jobs.update({deployment_id: job}))
        return {"deploymentId": deployment_id}

    def list_deployments(
        self, targetArn: str, historyFilter: str, nextToken: str = "0"
    ) -> dict[str, Any]:
        """One deployment a page: what is looked for may stand on any of them."""
        assert historyFilter == "ALL"
        found = [job for job in self.jobs.values() if job["targetArn"] == targetArn]
        start = int(nextToken)
        following = {"nextToken": str(start + 1)} if start + 1 < len(found) else {}
        return {"deployments": found[start : start + 1], **following}

    def get_deployment(self, deploymentId: str) -> dict[str, Any]:
        return self.jobs[deploymentId]

    def list_effective_deployments(self, **_filters: Any) -> dict[str, Any]:
        return {"effectiveDeployments": []}


class StateStore:
    """Airflow's task state store, as it is found again by the next try."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sets_until_kill: int | None = None
        self.kill_at_handle = False

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        assert retention is NEVER_EXPIRE
        if self.sets_until_kill == 0 or (self.kill_at_handle and value[-1]["handle"]):
            raise KilledError
        if self.sets_until_kill is not None:
            self.sets_until_kill -= 1
        self.values[key] = value


def make_task_instance(**changes: Any) -> Any:
    """Return what names depend on of a task instance: two retries, first try.

    Airflow knows no state of it: a kill is of a run that was deleted.
    """
    facts = {
        "dag_id": "model_delivery", "task_id": "compile", "run_id": "manual__2026-01-01",
        "map_index": -1, "try_number": 1, "max_tries": 2, "task": SimpleNamespace(retries=2),
        "get_task_states": lambda **_: {},
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **changes})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once: the services of these tests are quick to forgive."""
    for module in ("retries", "submission"):
        monkeypatch.setattr(f"model_delivery.jobs.{module}.backoff", lambda failures: 0.0)
    # No scheduler waits for a worker's word here.
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")


@pytest.fixture
def task_instance() -> Callable[..., Any]:
    return make_task_instance


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def sagemaker(worker: Worker) -> SageMaker:
    return SageMaker(worker)


@pytest.fixture
def east() -> SageMaker:
    return SageMaker(Worker())


@pytest.fixture
def west() -> SageMaker:
    return SageMaker(Worker())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be patient for milliseconds."""
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(Deployments, "settle_seconds", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let only sleeping move the clock."""
    now = [0.0]

    def sleep(_pause: Pause, seconds: float) -> None:
        now[0] += max(seconds, 5.0)

    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Pause, "sleep", sleep)
    return now


@pytest.fixture
def greengrass(worker: Worker) -> Greengrass:
    return Greengrass(worker)


@pytest.fixture
def personalize(worker: Worker) -> Personalize:
    return Personalize(worker)


@pytest.fixture
def state_store() -> StateStore:
    return StateStore()


@pytest.fixture
def killed() -> type[BaseException]:
    return KilledError
