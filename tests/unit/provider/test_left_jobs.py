"""A try that ends before it has its job in hand: what of earlier tries it stops, what it leaves."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from botocore.exceptions import EndpointConnectionError
from model_delivery.exceptions import (
    DeliveryError,
    InvalidRequestError,
    JobFailedError,
    JobRefusedError,
)
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.jobs import rate
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.submission import Submission

from tests.nameless.provider import Client
from tests.unit.provider.conftest import (
    KilledError,
    SageMaker,
    StateStore,
    make_task_instance,
    refusal,
)
from tests.unit.provider.nameless_service import REQUEST, Nameless, nameless_service

COMPILATION = {"RoleArn": "arn:x", "OutputConfig": {"S3OutputLocation": "s3://b/o"}}
NOT_FOUND, BUSY = "ResourceNotFoundException", "ThrottlingException"


@pytest.fixture
def nameless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameless]:
    with nameless_service(tmp_path, monkeypatch, 0.0) as served:
        yield served


def task(state: str, **ti: Any) -> Any:
    """Return a task instance of which Airflow says that state."""
    made = make_task_instance(**ti)
    made.get_task_states = lambda **_: {made.run_id: {made.task_id: state}}
    return made


def attempt(service: SageMaker, store: StateStore, ti: Any, *, last: bool = False) -> Attempt:
    client = JobClient(
        CompilationJobs(), lambda: SimpleNamespace(conn=service, aws_conn_id="aws"), 2.0
    )
    log: Any = logging.getLogger("task")
    return Attempt(client, Submission(client, store, ti), log, lambda _error: last)


def answers(monkeypatch: pytest.MonkeyPatch, operation: str, codes: list[str]) -> None:
    """Let a call of the nameless service meet some errors first."""
    call, left = Client.__getattr__, list(codes)

    def asked(client: Client, name: str) -> Any:
        if name == operation and left:
            raise refusal(left.pop(0), name)
        return call(client, name)

    monkeypatch.setattr(Client, "__getattr__", asked)


@pytest.fixture
def lost(sagemaker: SageMaker, state_store: StateStore) -> SageMaker:
    """Make a job whose create call was answered to nobody: that try was killed."""
    sagemaker.worker.kill_after_create = True
    with pytest.raises(KilledError):
        attempt(sagemaker, state_store, make_task_instance()).submit(COMPILATION)
    sagemaker.worker.kill_after_create = False
    return sagemaker


@pytest.mark.parametrize(("state", "stops"), [("failed", 1), ("running", 0)])
def test_a_job_of_ours_by_its_name_is_stopped_with_the_task_of_a_user_who_ended_it(
    lost: SageMaker, state_store: StateStore, state: str, stops: int
) -> None:
    second = attempt(lost, state_store, task(state, try_number=2))
    second.kill()  # before it has looked for anything
    with pytest.raises(JobFailedError, match="nothing was submitted"), second.running():
        second.submit(COMPILATION)
    assert len(lost.stops) == stops


def test_a_try_that_fails_for_good_looks_for_what_an_earlier_one_made(
    lost: SageMaker, state_store: StateStore
) -> None:
    second = attempt(lost, state_store, task("running", try_number=2))
    with pytest.raises(InvalidRequestError), second.running():
        raise InvalidRequestError("the request cannot be built")
    assert len(lost.stops) == 1


@pytest.mark.parametrize("ended_by", ["an error", "a user"])
def test_a_try_after_a_clear_that_ends_early_stops_what_the_one_before_left(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    nameless.submission().submit_once(REQUEST)  # that try got a SIGKILL
    cleared = nameless.operator()

    def cut_short() -> Any:
        if ended_by == "a user":
            cleared.on_kill()
            raise DeliveryError("what was asked while the request is built was cut off")
        raise InvalidRequestError("the request cannot be built")

    monkeypatch.setattr(cleared, "build_request", cut_short)
    state = "failed" if ended_by == "a user" else "running"
    context = {**nameless.context(), "ti": task(state, try_number=2, max_tries=3)}
    with pytest.raises((DeliveryError, InvalidRequestError)):
        cleared.execute(context)
    assert [job["status"] for job in nameless.all] == ["STOPPED"]


class Away:
    """A client whose endpoint is a closed port."""

    def __getattr__(self, _operation: str) -> Any:
        raise EndpointConnectionError(endpoint_url="http://closed")


@pytest.mark.parametrize("airflow", ["tells", "is away"])
def test_a_worker_looks_a_connection_up_again_whose_endpoint_was_corrected(
    lost: SageMaker, monkeypatch: pytest.MonkeyPatch, airflow: str
) -> None:
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    told: list[Any] = [Away(), lost] if airflow == "tells" else [Away(), None, lost]
    left = iter(told)

    def open_hook() -> Any:
        if (client := next(left)) is None:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={}))
        return SimpleNamespace(conn=client, aws_conn_id="aws")

    (name,) = lost.jobs
    client = JobClient(CompilationJobs(), open_hook, 60.0)
    assert client.describe({"name": name}).status == "INPROGRESS"
    assert not list(left)


def test_the_end_of_a_job_that_this_task_stopped_says_who_asked(nameless: Nameless) -> None:
    waiting = nameless.attempt()
    description = waiting.submit(REQUEST)
    waiting.stop("a test")
    description = waiting.wait(description, 0.05, None)
    with pytest.raises(JobFailedError, match="STOPPED: this task asked for that"):
        waiting.settle(description)


def test_a_plain_refusal_says_nothing_of_a_job_that_may_be_there(
    nameless: Nameless, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, "create_job", ["ValidationException"])
    first = nameless.attempt()
    with pytest.raises(JobRefusedError), first.running():
        first.submit(REQUEST)
    assert "may have been made" not in caplog.text
    assert nameless.all == []


@pytest.mark.parametrize(("state", "status"), [("failed", "STOPPED"), ("running", "RUNNING")])
def test_an_error_beside_a_kill_leaves_the_job_only_to_another_try(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, state: str, status: str
) -> None:
    nameless.submission().submit_once(REQUEST)
    operator = nameless.operator()

    def cut_short() -> Any:
        operator.on_kill()
        raise DeliveryError("what was asked while the request is built was throttled once")

    monkeypatch.setattr(operator, "build_request", cut_short)
    context = {**nameless.context(), "ti": task(state, try_number=2)}
    with pytest.raises(DeliveryError, match="throttled once"):
        operator.execute(context)
    assert [job["status"] for job in nameless.all] == [status]


def test_a_run_that_is_deleted_while_its_task_submits_leaves_no_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = nameless.store.set

    def gone(key: str, value: Any, **options: Any) -> None:
        if value[-1]["handle"]:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={}))
        keep(key, value, **options)

    monkeypatch.setattr(nameless.store, "set", gone)
    with pytest.raises(AirflowRuntimeError):
        nameless.operator().execute(nameless.context())
    assert [job["status"] for job in nameless.all] == ["STOPPED"]


@pytest.mark.parametrize(
    "codes",
    [
        [BUSY, BUSY, NOT_FOUND],
        [NOT_FOUND, BUSY, NOT_FOUND],
        ["InternalFailure"] * 5 + ["AccessDeniedException"],
    ],
    ids=["missing once", "missing twice", "denied once"],
)
def test_failures_of_other_kinds_make_no_refusal_believed_sooner(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, codes: list[str]
) -> None:
    waiting = nameless.attempt(last=True)
    with waiting.running():
        waiting.submit(REQUEST)
        answers(monkeypatch, "describe_job", codes)
        assert waiting.describe().status == "RUNNING"
    assert [(job["status"], job["stops"]) for job in nameless.all] == [("RUNNING", 0)]


def test_a_job_that_ends_while_its_time_is_over_counts(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = JobClient.stop

    def late(client: JobClient, *given: Any, **options: Any) -> Any:
        time.sleep(0.8)  # for as long as the service is busy
        return stop(client, *given, **options)

    monkeypatch.setattr(JobClient, "stop", late)
    waiting = nameless.attempt()
    with waiting.running():
        description = waiting.submit({**REQUEST, "seconds": 0.6})
        waiting.settle(waiting.wait(description, 0.05, 0.1))
    assert [job["status"] for job in nameless.all] == ["SUCCEEDED"]
    following = nameless.attempt(try_number=2).submission
    assert not following.submit_once({**REQUEST, "seconds": 0.6}).made
