"""A connection that is edited while a create call goes unanswered: one job, in one place."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from model_delivery.exceptions import DeliveryError
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.jobs import rate
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.submission import Submission

from tests.unit.provider.conftest import SageMaker, StateStore, Worker, make_task_instance, refusal

REQUEST = {"RoleArn": "arn:x", "OutputConfig": {"S3OutputLocation": "s3://b/o"}}
LOST, CLOSED = "its answer is lost", "no connection"


class Region:
    """A client of one region, whose create calls go wrong so often."""

    def __init__(self, service: SageMaker, region: str, fault: str = "", times: int = 0) -> None:
        self.meta = SimpleNamespace(endpoint_url=f"http://{region}", region_name=region)
        self._service, self._fault, self._left = service, fault, times

    def __getattr__(self, operation: str) -> Any:
        call = getattr(self._service, operation)

        def run(**given: Any) -> Any:
            if operation != "create_compilation_job" or not self._left:
                return call(**given)
            self._left -= 1
            url = str(self.meta.endpoint_url)
            if self._fault == CLOSED:
                raise EndpointConnectionError(endpoint_url=url)
            if not self._service.jobs:
                call(**given)
            raise ReadTimeoutError(endpoint_url=url)

        return run


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)


@pytest.fixture
def east() -> SageMaker:
    return SageMaker(Worker())


@pytest.fixture
def west() -> SageMaker:
    return SageMaker(Worker())


def attempt(store: StateStore, regions: Iterator[Region], outage: float = 60.0) -> Attempt:
    def open_hook() -> Any:
        return SimpleNamespace(conn=next(regions), aws_conn_id="aws")

    client = JobClient(CompilationJobs(), open_hook, outage)
    submission = Submission(client, store, make_task_instance())
    log: Any = logging.getLogger("task")
    return Attempt(client, submission, log, lambda _error: False)


def submit(made: Attempt) -> None:
    with made.running():
        made.submit(REQUEST)


def test_a_job_that_may_be_made_is_not_made_again_elsewhere(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    regions = iter([Region(east, "east", LOST, 99), Region(west, "west")])
    with pytest.raises(DeliveryError, match=r"submitted at http://east .* http://west"):
        submit(attempt(state_store, regions))
    assert (len(east.jobs), len(west.jobs)) == (1, 0)
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, iter([Region(west, "west")])))
    submit(attempt(state_store, iter([Region(east, "east")])))
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


def test_what_was_never_sent_goes_where_the_connection_leads_now(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    submit(attempt(state_store, iter([Region(east, "east", CLOSED, 99), Region(west, "west")])))
    assert (len(east.jobs), len(west.jobs)) == (0, 1)
    submit(attempt(state_store, iter([Region(west, "west")])))
    assert (len(east.jobs), len(west.jobs)) == (0, 1)


def test_a_try_that_was_never_heard_leaves_no_intent(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    closed = iter(lambda: Region(east, "east", CLOSED, 99), None)
    with pytest.raises(DeliveryError, match="was not taken"):
        submit(attempt(state_store, closed, outage=0.1))
    submit(attempt(state_store, iter([Region(west, "west")])))
    assert (len(east.jobs), len(west.jobs)) == (0, 1)


def test_a_try_after_one_that_was_cut_off_does_not_forget_its_job(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    lost = iter(lambda: Region(east, "east", LOST, 99), None)
    with pytest.raises(DeliveryError, match="was not taken"):
        submit(attempt(state_store, lost, outage=0.1))
    closed = iter(lambda: Region(east, "east", CLOSED, 99), None)
    with pytest.raises(DeliveryError):
        submit(attempt(state_store, closed, outage=0.1))
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, iter([Region(west, "west")])))
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


def test_a_service_that_is_busy_costs_no_new_client(
    east: SageMaker, state_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, left = SageMaker.create_compilation_job, [None] * 9

    def busy(service: SageMaker, **request: Any) -> Any:
        if left:
            left.pop()
            raise refusal("ThrottlingException", "CreateCompilationJob")
        return create(service, **request)

    monkeypatch.setattr(SageMaker, "create_compilation_job", busy)
    submit(attempt(state_store, iter([Region(east, "east")])))
    assert len(east.jobs) == 1
