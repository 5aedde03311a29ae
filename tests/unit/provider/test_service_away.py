"""Services that are away, busy or behind: no job of before runs on, none that ended is stopped."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowTaskTimeout
from botocore.exceptions import ReadTimeoutError
from model_delivery.exceptions import DeliveryError, InvalidRequestError, JobFailedError
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.hooks.edge import Deployments
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.retries import Failures, Pause
from model_delivery.jobs.submission import STORE_KEY, Submission

from tests.unit.provider.conftest import (
    Greengrass,
    SageMaker,
    StateStore,
    Worker,
    make_task_instance,
    refusal,
)
from tests.unit.provider.regions import (
    DEPLOYMENT,
    REQUEST,
    Region,
    attempt,
    closed,
    forever,
    stalled,
    statuses,
    submit,
    unknown,
)

pytestmark = pytest.mark.usefixtures("quick")


def test_a_service_that_is_away_does_not_keep_the_users_own_error_for_long(
    east: SageMaker, state_store: StateStore, clock: list[float]
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))
    away = forever(east, "east", describe_compilation_job=stalled, stop_compilation_job=stalled)
    with (
        pytest.raises(InvalidRequestError),
        attempt(state_store, away, outage=900.0, try_number=2, max_tries=3).running(),
    ):
        raise InvalidRequestError("the user's bad request")
    assert clock[0] <= 60.0
    submit(attempt(state_store, [Region(east, "east")], try_number=3, max_tries=4))
    assert statuses(east)[0] == "STOPPING"


def test_a_time_out_without_any_connection_looks_for_nothing_and_leaves_no_intent(
    east: SageMaker, west: SageMaker, state_store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(_pause: Pause, seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            raise AirflowTaskTimeout("over")

    monkeypatch.setattr(Pause, "sleep", sleep)
    regions = forever(east, "east", create_compilation_job=closed, describe_compilation_job=closed)
    made = attempt(state_store, regions)
    with pytest.raises(AirflowTaskTimeout):
        submit(made)
    made.kill()
    assert len(slept) == 5
    # Nothing was made at the place that was mistyped: the corrected one is gone to.
    submit(attempt(state_store, [Region(west, "west")], try_number=2))
    assert statuses(west) == ["INPROGRESS"]


class Succeeded(Greengrass):
    """Deployments that each device has reached, and a service that cancels all the same."""

    def list_effective_deployments(self, **_filters: Any) -> dict[str, Any]:
        reached = {"coreDeviceExecutionStatus": "SUCCEEDED"}
        return {"effectiveDeployments": [{"deploymentId": each, **reached} for each in self.jobs]}

    def cancel_deployment(self, deploymentId: str) -> None:
        raise AssertionError(f"{deploymentId} had ended well")


def test_a_retry_that_is_refused_cancels_no_deployment_that_ended_well(
    state_store: StateStore,
) -> None:
    service = Succeeded(Worker())
    killed = attempt(state_store, [Region(service, "east")], Deployments())
    killed._client.open()
    killed.submission.submit_once(DEPLOYMENT)
    retry = attempt(state_store, [Region(service, "east")], Deployments(), last=True, try_number=2)
    with pytest.raises(InvalidRequestError), retry.running():
        raise InvalidRequestError("an edited Variable")


@pytest.mark.parametrize("away_seconds", [60.0, 300.0])
@pytest.mark.parametrize("step", ["submit", "resume"])
def test_the_job_of_before_is_stopped_as_soon_as_the_service_is_back(
    east: SageMaker, state_store: StateStore, clock: list[float], away_seconds: float, step: str
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))
    if step == "resume":
        denied = forever(east, "east", stop_compilation_job=denying)
        submit(attempt(state_store, denied, try_number=2, max_tries=3))
    began = clock[0]

    def until_back(call: Callable[..., Any], given: dict[str, Any]) -> Any:
        return stalled(call, given) if clock[0] < began + away_seconds else call(**given)

    regions = forever(
        east, "east", create_compilation_job=until_back, describe_compilation_job=until_back,
        stop_compilation_job=until_back,
    )  # fmt: skip
    made = attempt(state_store, regions, outage=900.0, try_number=2, max_tries=3)
    with made.running():
        if step == "submit":
            made.submit(REQUEST)
        else:
            made.resume(None)
        assert statuses(east) == ["STOPPING", "INPROGRESS"]


def denying(_call: Callable[..., Any], _given: dict[str, Any]) -> Any:
    raise refusal("AccessDeniedException", "StopCompilationJob")


def test_a_service_that_is_busy_is_there(clock: list[float]) -> None:
    failures = Failures(outage=900.0, absence=30.0)

    def is_enough(error: Exception, seconds: float) -> bool:
        clock[0] += seconds
        failures.ask_for_a_new_client(error)
        return failures.are_enough(None)

    busy, away = refusal("ThrottlingException", "Stop"), ReadTimeoutError(endpoint_url="http://a")
    assert not any(is_enough(busy, 10.0) for _ in range(20))
    assert [is_enough(away, 10.0) for _ in range(4)] == [False, False, False, True]
    assert not is_enough(busy, 100.0)
    gateway = refusal("", "Stop", status=503)
    assert [is_enough(gateway, 20.0) for _ in range(3)] == [False, False, True]
    assert is_enough(busy, 600.0)


class Ending(Succeeded):
    """Deployments that end well while nobody is answered."""

    def __init__(self) -> None:
        super().__init__(Worker())
        self.ended = False

    def list_effective_deployments(self, **filters: Any) -> dict[str, Any]:
        if self.ended:
            return super().list_effective_deployments(**filters)
        return {"effectiveDeployments": []}


@pytest.mark.parametrize("step", ["submit", "wait", "resume"])
def test_a_try_that_gives_up_on_a_long_absence_cancels_no_deployment_that_ended_well(
    state_store: StateStore, clock: list[float], step: str
) -> None:
    service = Ending()
    began = clock[0]

    def until_back(call: Callable[..., Any], given: dict[str, Any]) -> Any:
        away = service.ended and clock[0] < began + 908.0
        return stalled(call, given) if away else call(**given)

    regions = forever(service, "east", get_deployment=until_back)
    made = attempt(state_store, regions, Deployments(), outage=900.0, last=True)
    if step == "submit":
        service.ended = True
    else:
        description = made.submit(DEPLOYMENT)
        service.ended = True
    if step == "resume":
        made = attempt(state_store, regions, Deployments(), outage=900.0, last=True)

    def go_on() -> None:
        with made.running():
            if step == "submit":
                made.submit(DEPLOYMENT)
            elif step == "resume":
                made.resume(None)
            else:
                made.wait(description, 5.0, None)

    with pytest.raises(DeliveryError, match="no answer"):
        go_on()
    assert clock[0] >= began + 900.0


def test_a_job_that_was_made_just_now_is_stopped_though_no_host_of_the_service_knows_it(
    east: SageMaker, state_store: StateStore
) -> None:
    def killing(call: Callable[..., Any], given: dict[str, Any]) -> Any:
        answer = call(**given)
        made.kill()
        return answer

    faults: dict[str, Any] = {
        "create_compilation_job": [killing], "describe_compilation_job": [unknown] * 3
    }  # fmt: skip
    made = attempt(state_store, [Region(east, "east", **faults)], last=True)
    with pytest.raises(JobFailedError, match="was stopped"):
        submit(made)
    assert statuses(east) == ["STOPPING"]


def test_an_error_of_the_users_is_told_though_the_connection_is_gone(
    east: SageMaker, state_store: StateStore
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))

    def gone() -> Any:
        raise AirflowNotFoundException("The conn_id `aws` isn't defined")

    client = JobClient(CompilationJobs(), gone, 60.0)
    submission = Submission(client, state_store, make_task_instance(try_number=2))
    retry = Attempt(client, submission, logging.getLogger("task"), lambda _: True)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="an edited Variable"), retry.running():
        raise InvalidRequestError("an edited Variable")


def test_a_time_out_after_a_job_is_done_makes_no_second_one(
    east: SageMaker, state_store: StateStore, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))
    (old,) = east.jobs

    def unknown_old(call: Callable[..., Any], given: dict[str, Any]) -> Any:
        return stalled(call, given) if given["CompilationJobName"] == old else call(**given)

    def over(_pause: Pause, _seconds: float) -> None:
        raise AirflowTaskTimeout("over")

    regions = forever(east, "east", describe_compilation_job=unknown_old)
    made = attempt(state_store, regions, try_number=2, max_tries=3)

    def run() -> None:
        with made.running():
            description = made.submit(REQUEST)
            east.jobs[description.handle["name"]]["CompilationJobStatus"] = "COMPLETED"
            made.settle(made.wait(description, 1.0, None))
            monkeypatch.setattr(Pause, "sleep", over)

    with pytest.raises(AirflowTaskTimeout):
        run()
    made.kill()
    assert state_store.values[STORE_KEY][-1]["outcome"] == "done"


def throttled(_call: Callable[..., Any], _given: dict[str, Any]) -> Any:
    raise refusal("ThrottlingException", "StopCompilationJob")


def test_a_second_chance_of_a_busy_service_is_short(
    east: SageMaker, state_store: StateStore, clock: list[float]
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))
    regions = forever(east, "east", stop_compilation_job=throttled)
    made = attempt(state_store, regions, outage=900.0, try_number=2, max_tries=3)
    with made.running():
        began = clock[0]
        made.submit(REQUEST)
        assert clock[0] - began <= 60.0


def test_a_kill_while_the_job_of_before_cannot_be_stopped_stops_the_new_one_at_once(
    east: SageMaker, state_store: StateStore, clock: list[float]
) -> None:
    submit(attempt(state_store, [Region(east, "east")]))
    (old,) = east.jobs

    def killing(call: Callable[..., Any], given: dict[str, Any]) -> Any:
        if given["CompilationJobName"] != old:
            return call(**given)
        if len(east.jobs) == 2:
            made._client.pause.cut = True  # the handler, where Airflow has not answered yet
        return stalled(call, given)

    regions = forever(east, "east", stop_compilation_job=killing)
    made = attempt(state_store, regions, outage=900.0, last=True, try_number=2, max_tries=3)
    with pytest.raises(JobFailedError, match="was stopped"):
        submit(made)
    assert statuses(east) == ["INPROGRESS", "STOPPING"]
