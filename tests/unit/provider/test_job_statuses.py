"""Status tables against the enumerations that AWS itself publishes in botocore's models."""

from typing import Any

import botocore.session
import pytest
from model_delivery.exceptions import UnknownStatusError
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.hooks.edge import Deployments
from model_delivery.jobs.service import JobService
from model_delivery.jobs.status import JobState

ENUMERATIONS = [
    (CompilationJobs(), "sagemaker", "CompilationJobStatus"),
    (Deployments(), "greengrassv2", "EffectiveDeploymentExecutionStatus"),
    (Deployments(), "greengrassv2", "DeploymentStatus"),
]
CASES = [
    (service, status)
    for service, name, shape in ENUMERATIONS
    for status in botocore.session.get_session().get_service_model(name).shape_for(shape).enum
]


@pytest.mark.parametrize(
    ("service", "status"), CASES, ids=[f"{case[0].noun} {case[1]}" for case in CASES]
)
def test_every_status_of_the_api_is_in_exactly_one_row(service: JobService, status: str) -> None:
    table = service.statuses
    rows = [table.running, table.succeeded, table.failed, table.stopped]
    assert sum(status in row for row in rows) == 1


@pytest.mark.parametrize("service", [CompilationJobs(), Deployments()], ids=lambda s: s.noun)
def test_an_unknown_status_is_an_error_that_names_it_and_the_job(service: JobService) -> None:
    with pytest.raises(UnknownStatusError, match=r"'MELTED' for job-7"):
        service.statuses.state("MELTED", "job-7")


def test_only_running_is_not_terminal() -> None:
    assert [state for state in JobState if not state.terminal] == [JobState.RUNNING]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("STOPPING", JobState.RUNNING), ("COMPLETED", JobState.SUCCEEDED),
        ("FAILED", JobState.FAILED), ("STOPPED", JobState.STOPPED),
    ],
)  # fmt: skip
def test_what_a_compilation_status_means(status: str, state: JobState) -> None:
    assert CompilationJobs().statuses.state(status, "job") is state


def deployment_state(deployment: str, device: str | None, **more: Any) -> JobState:
    """Read the answers for a deployment, among others of the same device."""
    effective = [{"deploymentId": "older", "coreDeviceExecutionStatus": "FAILED"}]
    if device:
        effective.append({"deploymentId": "ours", "coreDeviceExecutionStatus": device})
    answers = [{"deploymentStatus": deployment, **more}, {"effectiveDeployments": effective}]
    handle = {"id": "ours", "name": "ours", "thing": "edge-1"}
    return Deployments().description(handle, answers).state


@pytest.mark.parametrize(
    ("deployment", "device", "state"),
    [
        ("ACTIVE", None, JobState.RUNNING),
        ("ACTIVE", "IN_PROGRESS", JobState.RUNNING),
        ("ACTIVE", "SUCCEEDED", JobState.SUCCEEDED),
        ("ACTIVE", "FAILED", JobState.FAILED),
        ("COMPLETED", "FAILED", JobState.FAILED),
        ("COMPLETED", "QUEUED", JobState.RUNNING),
        ("CANCELED", "SUCCEEDED", JobState.STOPPED),
        ("INACTIVE", None, JobState.STOPPED),
    ],
)
def test_the_devices_own_word_counts_unless_the_deployment_was_ended(
    deployment: str, device: str | None, state: JobState
) -> None:
    assert deployment_state(deployment, device) is state


def test_a_deployment_is_done_when_its_device_says_so() -> None:
    assert deployment_state("COMPLETED", "SUCCEEDED") is JobState.SUCCEEDED
    assert deployment_state("COMPLETED", None, isLatestForTarget=True) is JobState.RUNNING
    assert deployment_state("COMPLETED", None, isLatestForTarget=False) is JobState.STOPPED
