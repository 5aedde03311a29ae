"""Connections edited, refused or cut off while a job is submitted: one job, in one place."""

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowTaskTimeout, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from botocore.exceptions import (
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from model_delivery.exceptions import (
    DeliveryError,
    InvalidRequestError,
    JobRefusedError,
)
from model_delivery.hooks.edge import Deployments
from model_delivery.jobs.retries import Pause
from model_delivery.jobs.submission import STORE_KEY

from tests.unit.provider.conftest import (
    Greengrass,
    KilledError,
    SageMaker,
    StateStore,
    Worker,
    refusal,
)
from tests.unit.provider.regions import (
    DEPLOYMENT,
    REQUEST,
    Fault,
    Region,
    attempt,
    closed,
    cut_by_proxy,
    forever,
    lost,
    stalled,
    statuses,
    submit,
    unknown,
)

pytestmark = pytest.mark.usefixtures("quick")


def once(east: SageMaker) -> Fault:
    """Return a create call that makes the job at first, and never answers."""
    return lambda call, given: stalled(call, given) if east.jobs else lost(call, given)


@pytest.mark.parametrize("fault", [lost, cut_by_proxy])
def test_a_job_that_may_be_made_is_not_made_again_elsewhere(
    east: SageMaker, west: SageMaker, state_store: StateStore, fault: Fault
) -> None:
    faults = [fault, stalled, stalled]
    regions = [Region(east, "east", create_compilation_job=faults), Region(west, "west")]
    with pytest.raises(DeliveryError, match=r"submitted at http://east .* http://west"):
        submit(attempt(state_store, regions))
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, [Region(west, "west")]))
    submit(attempt(state_store, [Region(east, "east")]))
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


def test_nor_where_a_look_for_it_found_the_connection_moved(state_store: StateStore) -> None:
    east, west = Greengrass(Worker()), Greengrass(Worker())
    first = Region(east, "east", create_deployment=[lost], list_deployments=[stalled] * 3)
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, [first, Region(west, "west")], Deployments()), DEPLOYMENT)
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


def test_nor_where_a_retrys_first_look_did(state_store: StateStore) -> None:
    east, west = Greengrass(Worker(kill_after_create=True)), Greengrass(Worker())
    with pytest.raises(KilledError):
        submit(attempt(state_store, [Region(east, "east")], Deployments()), DEPLOYMENT)
    regions = [Region(east, "east", list_deployments=[stalled] * 3), Region(west, "west")]
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, regions, Deployments(), try_number=2), DEPLOYMENT)
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


def test_nor_where_the_name_is_taken_and_the_look_did(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    first = Region(
        east, "east", create_compilation_job=[lost], describe_compilation_job=[stalled] * 3
    )
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, [first, Region(west, "west")]))
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


def test_what_was_never_sent_goes_where_the_connection_leads_now(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    first = Region(east, "east", create_compilation_job=[closed] * 3)
    submit(attempt(state_store, [first, Region(west, "west")]))
    submit(attempt(state_store, [Region(west, "west")]))
    assert (len(east.jobs), len(west.jobs)) == (0, 1)


@pytest.mark.parametrize("error", [EndpointConnectionError(endpoint_url="a"), NoCredentialsError()])
def test_a_try_that_was_never_heard_leaves_no_intent(
    east: SageMaker, west: SageMaker, state_store: StateStore, error: Exception
) -> None:
    def fail(_call: Any, _given: Any) -> Any:
        raise error

    with pytest.raises(DeliveryError, match="was not taken"):
        submit(attempt(state_store, forever(east, "east", create_compilation_job=fail), outage=0.1))
    submit(attempt(state_store, [Region(west, "west")], try_number=2))
    assert (len(east.jobs), len(west.jobs)) == (0, 1)


def test_a_request_that_botocore_refuses_is_looked_for_nowhere(
    east: SageMaker, state_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(Pause, "sleep", lambda _pause, seconds: slept.append(seconds))
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    real = boto3.client("sagemaker", region_name="us-east-1", **keys)
    client = SimpleNamespace(
        meta=real.meta, create_compilation_job=real.create_compilation_job,
        describe_compilation_job=east.describe_compilation_job,
    )  # fmt: skip
    stopping = {"StoppingCondition": {"MaxRuntimeInSeconds": 60}}
    with pytest.raises(InvalidRequestError, match="RoleArn"):
        submit(attempt(state_store, [client], last=True), {**REQUEST, **stopping, "RoleArn": "r"})
    assert slept == []
    assert state_store.values[STORE_KEY][-1]["at"] is None


def test_a_refusal_is_told_though_airflow_takes_no_intent_back(
    east: SageMaker, state_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_call: Any, _given: Any) -> Any:
        error = refusal("ValidationException", "CreateCompilationJob")
        error.response["ResponseMetadata"] = {"HTTPStatusCode": 400}
        raise error

    keep = state_store.set

    def set_some(key: str, value: Any, **options: Any) -> None:
        if value[-1]["at"] is None:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={}))
        keep(key, value, **options)

    monkeypatch.setattr(state_store, "set", set_some)
    with pytest.raises(JobRefusedError):
        submit(attempt(state_store, [Region(east, "east", create_compilation_job=[refused])]))


def test_a_try_after_one_that_was_cut_off_does_not_forget_its_job(
    east: SageMaker, west: SageMaker, state_store: StateStore
) -> None:
    for fault in (once(east), closed):
        regions = forever(east, "east", create_compilation_job=fault)
        with pytest.raises(DeliveryError):
            submit(attempt(state_store, regions, outage=0.1))
    with pytest.raises(DeliveryError, match="set region and connection back"):
        submit(attempt(state_store, [Region(west, "west")]))
    assert (len(east.jobs), len(west.jobs)) == (1, 0)


@pytest.mark.parametrize("fault", [lost, cut_by_proxy])
def test_a_kill_in_a_call_that_a_proxy_cuts_off_stops_the_job(
    east: SageMaker, state_store: StateStore, fault: Fault
) -> None:
    def killed(call: Any, given: Any) -> Any:
        killing.kill()
        return fault(call, given)

    regions = [Region(east, "east", create_compilation_job=[killed]), Region(east, "east")]
    killing = attempt(state_store, regions, last=True)
    with pytest.raises(DeliveryError):
        submit(killing)
    assert statuses(east) == ["STOPPING"]


def test_a_service_that_is_busy_costs_no_new_client(
    east: SageMaker, state_store: StateStore
) -> None:
    def busy(_call: Any, _given: Any) -> Any:
        raise refusal("ThrottlingException", "CreateCompilationJob")

    submit(attempt(state_store, [Region(east, "east", create_compilation_job=[busy] * 9)]))
    assert len(east.jobs) == 1


@pytest.mark.parametrize("how", ["time-out", "kill", "last try"])
def test_what_ends_a_try_that_makes_a_second_job_stops_that(
    east: SageMaker, state_store: StateStore, how: str
) -> None:
    east.worker.kill_after_create = True
    with pytest.raises(KilledError):
        submit(attempt(state_store, [Region(east, "east")]))
    east.worker.kill_after_create = False
    (first,) = east.jobs
    east.jobs[first]["CompilationJobStatus"] = "STOPPED"

    def second(call: Any, given: Any) -> Any:
        if given["CompilationJobName"] == first:
            return call(**given)
        if len(east.jobs) == 1:
            call(**given)
        if how == "time-out":
            raise AirflowTaskTimeout("over")
        if how == "kill":
            made.kill()
        raise ReadTimeoutError(endpoint_url="http://a")

    regions = forever(east, "east", create_compilation_job=second)
    made = attempt(state_store, regions, outage=0.2, last=how == "last try", try_number=2)
    with pytest.raises((DeliveryError, AirflowTaskTimeout)):
        submit(made)
    if how == "time-out":
        made.kill()  # as Airflow does
    assert [each for each in statuses(east) if each != "STOPPED"] == ["STOPPING"]


def test_a_job_of_before_a_clear_that_was_made_elsewhere_is_not_forgotten(
    east: SageMaker, west: SageMaker, state_store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    east.worker.kill_after_create = True
    with pytest.raises(KilledError):
        submit(attempt(state_store, [Region(east, "east")]))
    east.worker.kill_after_create = False
    submit(attempt(state_store, [Region(west, "west")], try_number=2, max_tries=3))
    assert "of before the clear may still be running" in caplog.text
    assert "submitted at http://east" in caplog.text
    submit(attempt(state_store, [Region(east, "east")], try_number=3, max_tries=4))
    assert statuses(east) == ["STOPPING", "INPROGRESS"]


def test_nor_one_that_is_so_young_that_it_is_not_found(
    east: SageMaker, state_store: StateStore
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))
    young = Region(east, "east", describe_compilation_job=[unknown] * 3)
    submit(attempt(state_store, [young], try_number=2, max_tries=3))
    assert statuses(east) == ["STOPPING", "INPROGRESS"]
