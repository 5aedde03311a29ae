"""Exactly one job for one task instance, wherever the process is killed."""

import json
import logging
import re
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from model_delivery.aws import open_hook
from model_delivery.exceptions import (
    AmbiguousJobError,
    DeliveryError,
    InvalidRequestError,
    JobFailedError,
    JobRefusedError,
    RequestDiffersError,
)
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.hooks.edge import Deployments
from model_delivery.hooks.personalize import BatchInferenceJobs
from model_delivery.jobs import attempt as attempt_module
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.record import Outcome
from model_delivery.jobs.submission import Submission, Submitted

COMPILATION = {
    "RoleArn": "arn:aws:iam::000000000000:role/compile",
    "InputConfig": {"S3Uri": "s3://b/model.tar.gz", "Framework": "ONNX"},
    "OutputConfig": {"S3OutputLocation": "s3://b/compiled/", "TargetDevice": "ml_c5"},
    "StoppingCondition": {"MaxRuntimeInSeconds": 600},
}
RECOMMENDATION = {
    "solutionVersionArn": "arn:aws:personalize:us-east-1:000000000000:solution/films/12345678",
    "roleArn": "arn:aws:iam::000000000000:role/personalize",
    "numResults": 25,
    "jobInput": {"s3DataSource": {"path": "s3://b/users.json"}},
    "jobOutput": {"s3DataDestination": {"path": "s3://b/out/"}},
}
DEPLOYMENT = {
    "targetArn": "arn:aws:iot:us-east-1:000000000000:thing/edge-1",
    "components": {"digits": {"componentVersion": "1.2.3"}},
}


class Case:
    """One service, one state store and as many tries as it takes."""

    def __init__(self, service: Any, conn: Any, request: Any, store: Any, make_ti: Any) -> None:
        hook = SimpleNamespace(conn=conn, aws_conn_id="aws_default")
        self.client = JobClient(service, lambda: hook, outage=0.5)
        self.conn, self.request, self.store, self.make_ti = conn, request, store, make_ti

    def submission(self, **ti: Any) -> Submission:
        """Begin a try in a new process: only the store and the service are left of the last."""
        return Submission(self.client, self.store, self.make_ti(**ti))

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return list(self.conn.jobs.values())


@pytest.fixture(params=["taken names", "taken names and ARNs", "repeating names"])
def case(
    request: pytest.FixtureRequest,
    sagemaker: Any,
    personalize: Any,
    greengrass: Any,
    state_store: Any,
    task_instance: Callable[..., Any],
) -> Case:
    if request.param == "taken names":
        return Case(CompilationJobs(), sagemaker, COMPILATION, state_store, task_instance)
    if request.param == "taken names and ARNs":
        return Case(BatchInferenceJobs(), personalize, RECOMMENDATION, state_store, task_instance)
    return Case(Deployments(), greengrass, DEPLOYMENT, state_store, task_instance)


@pytest.fixture
def compilation(sagemaker: Any, state_store: Any, task_instance: Callable[..., Any]) -> Case:
    return Case(CompilationJobs(), sagemaker, COMPILATION, state_store, task_instance)


@pytest.fixture
def deployment(greengrass: Any, state_store: Any, task_instance: Callable[..., Any]) -> Case:
    return Case(Deployments(), greengrass, DEPLOYMENT, state_store, task_instance)


def die_after_create(case: Case, worker: Any, killed: type[BaseException], **ti: Any) -> None:
    """Submit in a process that dies when the service has made the job, and before that is noted."""
    worker.kill_after_create = True
    with pytest.raises(killed):
        case.submission(**ti).submit_once(case.request)
    worker.kill_after_create = False


def test_the_first_try_makes_the_job_and_the_second_finds_it(case: Case) -> None:
    first, made = case.submission().submit_once(case.request)
    second, made_again = case.submission(try_number=2).submit_once(case.request)
    assert (made, made_again) == (True, False)
    assert first == second
    assert len(case.jobs) == 1


@pytest.mark.parametrize("moment", ["before intent", "before call", "after call", "before handle"])
def test_a_kill_at_any_moment_leaves_one_job_after_the_retry(
    case: Case, worker: Any, moment: str, killed: type[BaseException]
) -> None:
    worker.kill_before_create = moment == "before call"
    worker.kill_after_create = moment == "after call"
    case.store.sets_until_kill = {"before intent": 0, "before handle": 1}.get(moment)
    with pytest.raises(killed):
        case.submission().submit_once(case.request)
    existed = len(case.jobs)
    assert existed == (1 if moment in {"after call", "before handle"} else 0)

    worker.kill_before_create = worker.kill_after_create = False
    case.store.sets_until_kill = None
    handle, made = case.submission(try_number=2).submit_once(case.request)
    assert made is not bool(existed)
    assert len(case.jobs) == 1
    assert handle["name"] in str(case.jobs[0])
    assert case.submission(try_number=3).submit_once(case.request) == (handle, False)
    assert len(case.jobs) == 1


def test_a_kill_after_the_handle_was_persisted_needs_no_call(case: Case, worker: Any) -> None:
    handle, _made = case.submission().submit_once(case.request)
    worker.kill_before_create = True
    assert case.submission(try_number=2).submit_once(case.request) == (handle, False)


def test_repeated_kills_before_the_handle_still_make_one_job(
    case: Case, killed: type[BaseException]
) -> None:
    for attempt in range(1, 4):
        case.store.kill_at_handle = True
        with pytest.raises(killed):
            case.submission(try_number=attempt).submit_once(case.request)
    case.store.kill_at_handle = False
    case.submission(try_number=4).submit_once(case.request)
    assert len(case.jobs) == 1


def test_a_failed_job_is_followed_by_a_new_one(case: Case) -> None:
    first, _made = case.submission().submit_once(case.request)
    case.submission().end(Outcome.FAILED)
    second, made = case.submission(try_number=2).submit_once(case.request)
    assert made
    assert first["name"] != second["name"]
    assert len(case.jobs) == 2
    assert case.submission(try_number=3).submit_once(case.request) == (second, False)


def test_a_kill_while_submitting_the_second_generation_leaves_one_more_job(
    case: Case, worker: Any, killed: type[BaseException]
) -> None:
    case.submission().submit_once(case.request)
    case.submission().end(Outcome.FAILED)
    die_after_create(case, worker, killed, try_number=2)
    _handle, made = case.submission(try_number=3).submit_once(case.request)
    assert not made
    assert len(case.jobs) == 2


def test_a_clear_makes_a_new_job_and_keeps_the_old_handle_apart(case: Case) -> None:
    first, _made = case.submission().submit_once(case.request)
    second, made = case.submission(try_number=2, max_tries=3).submit_once(case.request)
    assert made
    assert first["name"] != second["name"]
    assert case.submission(try_number=3, max_tries=3).submit_once(case.request) == (second, False)
    assert len(case.jobs) == 2


def test_mapped_tasks_each_have_their_job(
    sagemaker: Any, state_store: Any, task_instance: Callable[..., Any]
) -> None:
    for index in range(3):  # Airflow gives each mapped task a store of its own
        store = type(state_store)()
        case = Case(CompilationJobs(), sagemaker, COMPILATION, store, task_instance)
        case.submission(map_index=index).submit_once(COMPILATION)
    assert len(sagemaker.jobs) == 3


@pytest.mark.parametrize("field", ["RoleArn", "InputConfig", "OutputConfig", "StoppingCondition"])
def test_another_request_under_our_name_is_an_error_that_names_the_field(
    compilation: Case, worker: Any, field: str, killed: type[BaseException]
) -> None:
    die_after_create(compilation, worker, killed)
    with pytest.raises(RequestDiffersError, match=field) as caught:
        compilation.submission(try_number=2).submit_once({**COMPILATION, field: "changed"})
    assert "changed" in str(caught.value)
    assert len(compilation.jobs) == 1


def test_a_run_made_again_under_the_same_identity_has_a_job_of_its_own(case: Case) -> None:
    first = case.submission().submit_once(case.request).handle
    case.store.values.clear()
    second = case.submission().submit_once(case.request)
    assert second.made
    assert second.handle["name"] != first["name"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ValidationException", JobRefusedError),
        ("AccessDeniedException", JobRefusedError),
        ("ResourceNotFound", JobRefusedError),
        ("ThrottlingException", DeliveryError),
        ("InternalFailure", DeliveryError),
    ],
)
def test_a_refusal_names_the_job_and_only_the_callers_fault_ends_the_task(
    compilation: Case, code: str, error: type[Exception]
) -> None:
    compilation.conn.refuse_with = code
    with pytest.raises(error, match=rf"compilation job model-delivery-compile-\w+.*{code}"):
        compilation.submission().submit_once(COMPILATION)
    compilation.conn.refuse_with = None
    assert compilation.submission(try_number=2).submit_once(COMPILATION)[1]


@pytest.mark.parametrize("field", [*COMPILATION, "VpcConfig", "Tags"])
def test_a_retry_with_another_request_is_an_error_that_names_the_field(
    compilation: Case, field: str
) -> None:
    compilation.submission().submit_once(COMPILATION)
    with pytest.raises(RequestDiffersError, match=rf"{field}\b.*'changed'"):
        compilation.submission(try_number=2).submit_once({**COMPILATION, field: "changed"})
    assert len(compilation.jobs) == 1


def test_a_difference_is_shown_leaf_by_leaf(compilation: Case) -> None:
    compilation.submission().submit_once(COMPILATION)
    other = {**COMPILATION["InputConfig"], "S3Uri": "s3://b/other.tar.gz"}
    expected = "InputConfig.S3Uri: ours 's3://b/other.tar.gz', theirs 's3://b/model.tar.gz'"
    with pytest.raises(RequestDiffersError, match=re.escape(expected)):
        compilation.submission().submit_once({**COMPILATION, "InputConfig": other})


def test_what_the_service_fills_in_is_no_difference(
    compilation: Case, worker: Any, killed: type[BaseException]
) -> None:
    die_after_create(compilation, worker, killed)
    (job,) = compilation.jobs
    job["InputConfig"] = {**job["InputConfig"], "FrameworkVersion": "1.8"}
    assert not compilation.submission(try_number=2).submit_once(COMPILATION).made


def test_the_store_of_an_earlier_version_is_understood(compilation: Case) -> None:
    handle = {"name": "old", "arn": "arn:old"}
    record = {"max_tries": 2, "generation": 2, "handle": handle}
    compilation.store.values["model_delivery.submissions"] = [record]
    assert compilation.submission().submit_once(COMPILATION) == (handle, False)
    compilation.submission().end(Outcome.FAILED)
    assert compilation.submission().submit_once(COMPILATION).made


def test_a_changed_request_after_a_kill_before_the_call_is_submitted(
    case: Case, worker: Any, killed: type[BaseException]
) -> None:
    worker.kill_before_create = True
    with pytest.raises(killed):
        case.submission().submit_once(case.request)
    worker.kill_before_create = False
    field = sorted(case.request)[0]
    handle, made = case.submission(try_number=2).submit_once({**case.request, field: "changed"})
    assert made
    assert len(case.jobs) == 1
    assert case.jobs[0][field] == "changed"
    assert handle["name"] in str(case.jobs[0])


def test_several_deployments_of_our_name_are_named_not_guessed_at(
    greengrass: Any, state_store: Any, task_instance: Callable[..., Any]
) -> None:
    case = Case(Deployments(), greengrass, DEPLOYMENT, state_store, task_instance)
    case.submission().submit_once(DEPLOYMENT)
    greengrass.jobs["deployment-9"] = {**case.jobs[0], "deploymentId": "deployment-9"}
    ((record,),) = state_store.values.values()
    record["handle"] = None
    with pytest.raises(AmbiguousJobError, match="deployment-0, deployment-9"):
        case.submission().submit_once(DEPLOYMENT)
    assert len(case.jobs) == 2


def test_only_submissions_before_a_clear_that_are_open_are_superseded(case: Case) -> None:
    submitted = case.submission().submit_once(case.request)
    assert list(case.submission(try_number=2).superseded()) == []
    (earlier,) = case.submission(try_number=2, max_tries=3).superseded()
    assert earlier.handle == submitted.handle
    earlier.end(Outcome.DONE)
    assert list(case.submission(try_number=2, max_tries=3).superseded()) == []


def test_a_clear_is_remembered_when_somebody_edits_the_retries(case: Case) -> None:
    before = case.submission().submit_once(case.request)
    cleared = case.submission(try_number=2, max_tries=3).submit_once(case.request)
    edited = SimpleNamespace(retries=3)
    again = case.submission(try_number=3, max_tries=3, task=edited).submit_once(case.request)
    assert again == Submitted(cleared.handle, made=False)
    assert cleared.handle != before.handle


def test_a_submission_that_was_cut_off_still_finds_its_job(
    case: Case, worker: Any, killed: type[BaseException]
) -> None:
    assert case.submission().abandoned() is None
    worker.kill_after_create = True
    with pytest.raises(killed):
        case.submission().submit_once(case.request)
    found = case.submission(try_number=2).abandoned()
    assert found is not None
    assert found["name"] in str(case.jobs[0])


def attempt(case: Case, **ti: Any) -> Attempt:
    return Attempt(case.client, case.submission(**ti), logging.getLogger(), lambda _error: False)


@pytest.mark.parametrize(("status", "deployments"), [("CANCELED", 2), ("INACTIVE", 1)])
def test_only_a_deployment_that_our_own_kill_may_have_ended_is_made_again(
    deployment: Case, status: str, deployments: int
) -> None:
    """The kill was heard, and the worker was gone before it could note so."""
    handle = attempt(deployment).submit(DEPLOYMENT).handle
    deployment.conn.jobs[handle["id"]]["deploymentStatus"] = status
    attempt(deployment, try_number=2).submit(DEPLOYMENT)
    assert len(deployment.conn.jobs) == deployments


def test_a_deployment_that_this_try_stopped_is_no_refusal(
    deployment: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(deploymentId: str) -> dict[str, Any]:
        deployment.conn.jobs[deploymentId]["deploymentStatus"] = "CANCELED"
        return {}

    monkeypatch.setattr(deployment.conn, "cancel_deployment", cancel, raising=False)
    killed = attempt(deployment)
    killed.submit(DEPLOYMENT)
    killed.kill()
    with pytest.raises(JobFailedError, match="ended CANCELED"):
        killed.settle(killed.describe())


def test_a_job_under_our_name_with_another_request_is_stopped_when_the_task_fails_for_good(
    compilation: Case, worker: Any, killed: type[BaseException]
) -> None:
    die_after_create(compilation, worker, killed)
    retry = attempt(compilation, try_number=2)
    with pytest.raises(RequestDiffersError, match="RoleArn"), retry.running():
        retry.submit({**COMPILATION, "RoleArn": "arn:aws:iam::000000000000:role/other"})
    (job,) = compilation.jobs
    assert compilation.conn.stops == [job["CompilationJobName"]]


def test_a_job_that_is_stopping_is_not_stopped_again_after_a_clear(compilation: Case) -> None:
    job = attempt(compilation).submit(COMPILATION).handle["name"]
    compilation.conn.stop_compilation_job(job)
    attempt(compilation, try_number=2, max_tries=3).submit(COMPILATION)
    assert compilation.conn.stops == [job]


def test_a_job_that_an_earlier_try_was_stopping_is_followed_by_another_in_the_same_try(
    compilation: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "STOPPING_SECONDS", 0.01)
    job = attempt(compilation).submit(COMPILATION).handle["name"]
    compilation.conn.stop_compilation_job(job)
    description = attempt(compilation, try_number=2).submit(COMPILATION)
    assert description.handle["name"] != job
    assert [each["CompilationJobStatus"] for each in compilation.jobs] == ["STOPPED", "INPROGRESS"]


def test_a_worker_sends_each_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    received = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = {
            "conn_type": "aws", "login": "key", "password": "secret",
            "extra": {"region_name": "us-east-1",
                      "endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}"},
        }  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_AWS_CUT", json.dumps(connection))

        def cut_off() -> None:
            while True:
                caller, _ = server.accept()
                with caller:
                    received.append(caller.recv(65536))
                if b"end" in received[-1]:
                    return

        thread = threading.Thread(target=cut_off)
        thread.start()
        settings = {
            "aws_conn_id": "aws_cut", "region_name": None, "verify": None, "botocore_config": None,
        }  # fmt: skip
        service = CompilationJobs()
        client = JobClient(service, lambda: open_hook(service.hook_path, settings))
        with pytest.raises(ConnectionClosedError):
            client.run(service.submit_call({**COMPILATION, "CompilationJobName": "job"}))
        with socket.create_connection(server.getsockname()) as last:
            last.sendall(b"end")
        thread.join()
    assert len(received) == 2


def connected(monkeypatch: pytest.MonkeyPatch, **extra: str) -> JobClient:
    """Return a client whose service cannot be reached: what is wrong here is never sent."""
    connection = {
        "conn_type": "aws", "login": "AKIANOWHERE000000000", "password": "s" * 40,
        "extra": {"endpoint_url": "http://127.0.0.1:1", **extra},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps(connection))
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "aws_conn_id": "nowhere", "region_name": None, "verify": None, "botocore_config": None,
    }  # fmt: skip
    path = "model_delivery.hooks.compilation.CompilationJobHook"
    return JobClient(CompilationJobs(), lambda: open_hook(path, settings))


def test_what_botocore_itself_refuses_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, state_store: Any, task_instance: Callable[..., Any]
) -> None:
    client = connected(monkeypatch, region_name="us-east-1")
    monkeypatch.setattr(client.pause, "sleep", lambda _: pytest.fail("nobody was asked"))
    tagged = {**COMPILATION, "Tags": [{"Key": "run", "Value": 5}]}
    with pytest.raises(InvalidRequestError, match=r"Tags\[0\].Value.*Correct the parameter"):
        Submission(client, state_store, task_instance()).submit_once(tagged)
    for name in ("", 5, None):
        with pytest.raises(InvalidRequestError, match="CompilationJobName"):
            client.describe({"name": name})  # type: ignore[dict-item]  # as a DAG may give it


def test_a_connection_without_a_region_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = connected(monkeypatch)
    monkeypatch.setattr(client.pause, "sleep", lambda _: pytest.fail("nobody was asked"))
    with pytest.raises(InvalidRequestError, match=r"region.*or the connection"):
        client.describe({"name": "job"})


def test_fewer_retries_make_a_retry_no_clear_and_hide_none(case: Case) -> None:
    before = case.submission(max_tries=5).submit_once(case.request)
    edited = SimpleNamespace(retries=1)
    retried = case.submission(try_number=2, max_tries=5, task=edited).submit_once(case.request)
    assert retried == Submitted(before.handle, made=False)
    cleared = case.submission(try_number=3, max_tries=3, task=edited).submit_once(case.request)
    assert cleared.made
    assert len(case.jobs) == 2


def test_a_clear_that_fewer_retries_hide_is_told_by_the_run(case: Case) -> None:
    before = case.submission(max_tries=1)
    before.submit_once(case.request)
    before.end(Outcome.DONE)
    edited = SimpleNamespace(retries=1)
    task_instance = case.make_ti(try_number=2, max_tries=1, task=edited)
    cleared = Submission(case.client, case.store, task_instance, 1)
    assert cleared.submit_once(case.request).made
    assert len(case.jobs) == 2


def test_a_retry_after_a_job_that_was_done_is_no_clear_though_another_task_was_cleared(
    case: Case,
) -> None:
    before = case.submission()
    handle = before.submit_once(case.request).handle
    before.end(Outcome.DONE)  # and killed before Airflow heard of it
    retried = Submission(case.client, case.store, case.make_ti(try_number=2), 1)
    assert retried.submit_once(case.request) == Submitted(handle, made=False)
    assert len(case.jobs) == 1


def test_a_job_is_young_from_the_call_that_made_it(case: Case) -> None:
    submission = case.submission()
    submission.submit_once(case.request)
    ((record,),) = case.store.values.values()
    record["at"] = "2026-01-01T00:00:00+00:00"  # the service was busy for long
    assert case.submission(try_number=2).is_settling
