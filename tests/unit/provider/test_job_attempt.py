"""One try of a task: what it waits for, what it stops, and what it makes of odd input."""

import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.exceptions import (
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from model_delivery.exceptions import (
    DeliveryError,
    JobEndedError,
    JobFailedError,
    JobMissingError,
    JobRefusedError,
    RequestDiffersError,
    UnknownStatusError,
)
from model_delivery.jobs import eviction, rate, submission
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.record import Outcome

from tests.nameless.provider import Client, NamelessJobs, NamelessJobSensor
from tests.unit.provider.conftest import refusal
from tests.unit.provider.nameless_service import REQUEST, Nameless, nameless_service


@pytest.fixture
def nameless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameless]:
    with nameless_service(tmp_path, monkeypatch, 0.0) as served:
        yield served


def stops(nameless: Nameless) -> list[tuple[str, int]]:
    """Return each job's status, and how often it was asked to stop."""
    return [(job["status"], job["stops"]) for job in nameless.all]


def cut_off(*_args: Any, **_options: Any) -> Any:
    """Stand in for a call that Airflow's time-out cuts off."""
    raise AirflowTaskTimeout


def request(**changes: Any) -> dict[str, Any]:
    return {**REQUEST, **changes}


EVENTS = {
    "none": None,
    "not a mapping": "done",
    "of the amazon provider": {"status": "success", "value": "x"},
    "without a version": {"status": "COMPLETED"},
    "of a newer version": {"version": 99, "outcome": {"state": 1}},
    "with another's handle": {"version": 1, "handle": {"name": "other", "id": "other"}},
    "with an error": {"version": 1, "error": "JobError: the triggerer lost its way"},
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_whatever_the_event_says_the_service_decides(nameless: Nameless, event: Any) -> None:
    handle, _made = nameless.submission().submit_once(request(seconds=0.5))
    result = nameless.operator(seconds=0.5).execute_complete(nameless.context(), event)
    assert result == {"version": 1, "job_id": handle["id"], "status": "SUCCEEDED"}
    assert len(nameless.all) == 1


def test_an_event_stands_in_for_a_store_that_lost_the_handle(nameless: Nameless) -> None:
    job = nameless.jobs.create(request(seconds=0))["jobId"]
    event = {"version": 1, "handle": {"name": job, "id": job}}
    assert nameless.operator().execute_complete(nameless.context(), event)["job_id"] == job


def test_without_a_handle_the_error_says_so_and_nothing_is_submitted(nameless: Nameless) -> None:
    with pytest.raises(DeliveryError, match="which job this task submitted: clear the task"):
        nameless.operator().execute_complete(nameless.context(), {"version": 1})
    assert nameless.all == []


def test_an_unknown_status_is_an_error_that_names_it_and_stops_nothing(nameless: Nameless) -> None:
    attempt = nameless.attempt(last=True)
    with (
        pytest.raises(UnknownStatusError, match=r"'MELTED' for nameless job \w{32}"),
        attempt.running(),
    ):
        attempt.submit(request(seconds=0, outcome="MELTED"))
    assert nameless.all[0]["stops"] == 0


@pytest.mark.parametrize(("outcome", "error"), [("FAILED", JobFailedError),
                                                ("REFUSED", JobRefusedError)])  # fmt: skip
def test_a_bad_end_is_an_error_and_the_next_try_makes_a_new_job(
    nameless: Nameless, outcome: str, error: type[Exception]
) -> None:
    attempt = nameless.attempt()
    description = attempt.submit(request(seconds=0, outcome=outcome))
    with pytest.raises(error, match=f"ended {outcome}"):
        attempt.settle(description)
    nameless.attempt(try_number=2).submit(request(seconds=0))
    assert [job["status"] for job in nameless.all] == [outcome, "SUCCEEDED"]


def test_a_failure_that_nobody_noted_is_followed_by_a_new_job_in_the_same_try(
    nameless: Nameless,
) -> None:
    nameless.submission().submit_once(request(seconds=0, outcome="FAILED_FIRST"))
    again = request(seconds=0, outcome="FAILED_FIRST")
    description = nameless.attempt(try_number=2).submit(again)
    assert description.status == "SUCCEEDED"
    assert [job["status"] for job in nameless.all] == ["FAILED", "SUCCEEDED"]


def test_a_job_that_is_gone_is_an_error_and_the_next_try_makes_a_new_one(
    nameless: Nameless,
) -> None:
    job = nameless.submission().submit_once(REQUEST).handle["id"]
    nameless.jobs.delete(job)
    with pytest.raises(JobMissingError, match=f"{job} is not known to the service"):
        nameless.attempt(try_number=2).submit(REQUEST)
    nameless.attempt(try_number=3).submit(REQUEST)
    assert len(nameless.all) == 1


def test_a_kill_in_a_signal_handler_stops_the_job_once(nameless: Nameless) -> None:
    attempt = nameless.attempt()

    def handler(_number: int, _frame: Any) -> None:
        attempt.kill()
        attempt.kill()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with attempt.running():
            description = attempt.submit(REQUEST)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            description = attempt.wait(description, 60.0, None)
        with pytest.raises(JobFailedError, match="ended STOPPED"):
            attempt.settle(description)
    finally:
        signal.signal(signal.SIGALRM, before)
    (job,) = nameless.all
    assert (job["status"], job["stops"]) == ("STOPPED", 1)
    nameless.attempt(try_number=2).submit(REQUEST)
    assert [job["status"] for job in nameless.all] == ["STOPPED", "RUNNING"]


def test_a_kill_during_the_call_stops_the_job_that_it_makes(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = nameless.attempt()
    create = nameless.jobs.create

    def created(body: dict[str, Any]) -> dict[str, Any]:
        attempt.kill()
        return create(body)

    monkeypatch.setattr(nameless.jobs, "create", created)
    with pytest.raises(JobFailedError, match="the task was killed"), attempt.running():
        attempt.submit(REQUEST)
    assert [(job["status"], job["stops"]) for job in nameless.all] == [("STOPPED", 1)]


def test_a_kill_after_a_timeout_cut_the_call_off_finds_the_job_and_stops_it(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = nameless.attempt()

    with monkeypatch.context() as patched:
        patched.setattr("tests.nameless.provider.NamelessJobs.submitted", cut_off)
        with pytest.raises(AirflowTaskTimeout), attempt.running():
            attempt.submit(REQUEST)
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


def test_a_kill_after_a_timeout_waits_for_a_job_that_is_still_being_made(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NamelessJobs, "settle_seconds", 20.0)
    monkeypatch.setattr(submission, "LOOK_SECONDS", 0.2)
    create = nameless.jobs.create

    def slowly(body: Any) -> Any:
        time.sleep(1.5)
        return create(body)

    def alarm(_number: int, _frame: Any) -> None:
        raise AirflowTaskTimeout

    monkeypatch.setattr(nameless.jobs, "create", slowly)
    attempt = nameless.attempt(last=True)
    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(AirflowTaskTimeout), attempt.running():
            attempt.submit(REQUEST)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


def test_a_timeout_that_cuts_a_stop_off_is_followed_by_a_stop(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = nameless.attempt()

    with monkeypatch.context() as patched:
        patched.setattr(JobClient, "stop", cut_off)
        with pytest.raises(AirflowTaskTimeout), attempt.running():
            attempt.wait(attempt.submit(REQUEST), 0.05, 0.1)
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


def test_an_error_of_airflow_leaves_no_job_of_the_last_try(nameless: Nameless) -> None:
    context = nameless.context(try_number=3)

    def refuse(**_kwargs: Any) -> None:
        raise RuntimeError("API_SERVER_ERROR")

    context["ti"].xcom_push = refuse
    with pytest.raises(RuntimeError):
        nameless.operator().execute(context)
    assert stops(nameless) == [("STOPPED", 1)]


def test_an_error_of_airflow_is_left_to_the_next_try(nameless: Nameless) -> None:
    attempt = nameless.attempt(last=False)
    attempt.submit(REQUEST)
    with pytest.raises(RuntimeError), attempt.running():
        raise RuntimeError("API_SERVER_ERROR")
    assert stops(nameless) == [("RUNNING", 0)]


def test_a_key_that_is_replaced_while_the_job_runs_costs_nothing(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    refused = iter([True] * 3)
    real = Client.__getattr__

    def refusing(client: Client, operation: str) -> Any:
        if next(refused, False):
            raise refusal("ExpiredTokenException", operation)
        return real(client, operation)

    attempt = nameless.attempt(last=True)
    with attempt.running():
        description = attempt.submit(request(seconds=0.5))
        monkeypatch.setattr(Client, "__getattr__", refusing)
        attempt.settle(attempt.wait(description, 0.1, None))
    assert stops(nameless) == [("SUCCEEDED", 0)]


def test_a_key_that_stays_refused_is_left_to_the_next_try(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    attempt = nameless.attempt(last=False)
    description = attempt.submit(REQUEST)

    def refuse(_client: Client, operation: str) -> Any:
        raise refusal("ExpiredTokenException", operation)

    working = Client.__getattr__
    monkeypatch.setattr(Client, "__getattr__", refuse)
    with pytest.raises(DeliveryError, match="check the key of connection"), attempt.running():
        attempt.wait(description, 0.1, None)
    monkeypatch.setattr(Client, "__getattr__", working)
    assert stops(nameless) == [("RUNNING", 0)]
    assert nameless.attempt(try_number=2).submit(REQUEST).handle == description.handle


def test_a_kill_after_the_end_changes_nothing(nameless: Nameless) -> None:
    attempt = nameless.attempt()
    with attempt.running():
        attempt.settle(attempt.wait(attempt.submit(request(seconds=0.1)), 0.05, None))
    attempt.kill()
    nameless.attempt(try_number=2).submit(request(seconds=0.1))
    assert stops(nameless) == [("SUCCEEDED", 0)]


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("silent", ["soft_fail", "never_fail"])
def test_a_sensor_skips_in_either_mode_where_it_is_told_to(
    nameless: Nameless, deferrable: bool, silent: str
) -> None:
    job = nameless.jobs.create(request(seconds=0, outcome="REFUSED"))["jobId"]
    sensor = NamelessJobSensor(
        task_id="s", job=job, aws_conn_id="nameless", deferrable=deferrable, **{silent: True}
    )
    with pytest.raises(AirflowSkipException):
        sensor.execute(nameless.context())


def test_a_job_that_takes_too_long_is_stopped_once(nameless: Nameless) -> None:
    attempt = nameless.attempt(last=True)
    with pytest.raises(JobFailedError, match="it took over 0 s"), attempt.running():
        attempt.wait(attempt.submit(REQUEST), 0.05, 0.1)
    assert [(job["status"], job["stops"]) for job in nameless.all] == [("STOPPED", 1)]


@pytest.mark.parametrize(("last", "stops"), [(True, 1), (False, 0)])
def test_only_a_try_without_a_retry_stops_the_job_it_leaves(
    nameless: Nameless, last: bool, stops: int
) -> None:
    attempt = nameless.attempt(last=last)
    attempt.submit(REQUEST)
    with pytest.raises(DeliveryError, match="by the test"), attempt.running():
        raise DeliveryError("by the test")
    assert nameless.all[0]["stops"] == stops


def test_a_changed_request_stops_the_job_of_the_earlier_try(nameless: Nameless) -> None:
    nameless.submission().submit_once(REQUEST)
    attempt = nameless.attempt(try_number=2)
    with pytest.raises(RequestDiffersError, match="seconds"), attempt.running():
        attempt.submit(request(seconds=5.0))
    assert [job["status"] for job in nameless.all] == ["STOPPED"]


def submit_after_clear(attempt: Attempt) -> None:
    with attempt.running():
        attempt.submit(REQUEST)


def test_a_clear_stops_what_the_cleared_try_left_running(nameless: Nameless) -> None:
    nameless.submission().submit_once(REQUEST)
    submit_after_clear(nameless.attempt(try_number=2, max_tries=3))
    assert [job["status"] for job in nameless.all] == ["STOPPED", "RUNNING"]


def test_a_clear_leaves_alone_what_was_not_to_be_waited_for(nameless: Nameless) -> None:
    submission = nameless.submission()
    submission.submit_once(REQUEST)
    submission.end(Outcome.DONE)
    submit_after_clear(nameless.attempt(try_number=2, max_tries=3))
    assert [job["status"] for job in nameless.all] == ["RUNNING", "RUNNING"]


def test_a_kill_while_xcom_is_pushed_fails_a_task_that_waits_for_nothing(
    nameless: Nameless,
) -> None:
    operator = nameless.operator()
    operator.wait_for_completion = False
    context = nameless.context()
    context["ti"].xcom_push = lambda **_pushed: operator.on_kill()
    with pytest.raises(JobFailedError, match="the task was killed"):
        operator.execute(context)
    assert stops(nameless) == [("STOPPED", 1)]


def test_a_link_that_cannot_be_made_costs_no_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = nameless.operator(seconds=0.1)
    pushed: dict[str, Any] = {}
    context = nameless.context(try_number=3)
    context["ti"].xcom_push = lambda key, value: pushed.update({key: value})
    monkeypatch.setattr(type(operator), "page_url", lambda *_: pushed["no such key"])
    assert operator.execute(context)["status"] == "SUCCEEDED"
    assert set(pushed) == {"job"}


def interrupt(_description: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_on_the_last_try_leaves_no_job(nameless: Nameless) -> None:
    attempt = nameless.attempt(last=True)
    with pytest.raises(KeyboardInterrupt), attempt.running():
        interrupt(attempt.submit(REQUEST))
    assert stops(nameless) == [("STOPPED", 1)]


def refuse_looks(patch: pytest.MonkeyPatch, code: str, times: int) -> None:
    """Let the service refuse so many looks at any job."""
    refusals = iter(range(times))
    call = Client.__getattr__

    def asked(client: Client, operation: str) -> Any:
        if operation == "describe_job" and next(refusals, None) is not None:
            raise refusal(code, operation)
        return call(client, operation)

    patch.setattr(Client, "__getattr__", asked)


@pytest.mark.parametrize(("denials", "error"), [(1, None), (20, DeliveryError)])
def test_a_look_that_is_denied_stops_no_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, denials: int,
    error: type[Exception] | None,
) -> None:  # fmt: skip
    """Rights that were changed take seconds to reach every host of a service."""
    attempt = nameless.attempt()
    description = attempt.submit(request(seconds=0.5))
    refuse_looks(monkeypatch, "AccessDeniedException", denials)
    if error is None:
        with attempt.running():
            assert attempt.wait(description, 0.05, None).status == "SUCCEEDED"
    else:
        with pytest.raises(error, match="check the rights of connection"), attempt.running():
            attempt.wait(description, 0.05, None)
    assert nameless.all[0]["stops"] == 0


def test_a_worker_waits_through_an_outage_and_not_for_ever(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length counts, and not how often the service was asked: here without a pause."""
    attempt = nameless.attempt()
    with attempt.running():
        description = attempt.submit(request(seconds=0.5))
        refuse_looks(monkeypatch, "ServiceUnavailable", 40)
        description = attempt.wait(description, 0.05, None)
        assert description.status == "SUCCEEDED"
    refuse_looks(monkeypatch, "ThrottlingException", 10**6)
    began = time.monotonic()
    with pytest.raises(DeliveryError, match="ThrottlingException"):
        nameless.client(outage=0.3).describe(description.handle)
    assert 0.3 <= time.monotonic() - began < 2


def test_after_an_outage_the_triggerer_waits_again_and_not_for_ever(nameless: Nameless) -> None:
    nameless.submission().submit_once(request(seconds=4))
    operator = nameless.operator(seconds=4)
    operator.deferrable = True
    event = {"version": 1, "error": "JobError: no usable answer for 900 s"}
    context = nameless.context()
    context["ti"].get_task_states = lambda **_: {}
    for failed in (0, 1):
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute_complete(context, event, failed_waits=failed)
        assert deferred.value.kwargs == {"failed_waits": failed + 1}
    assert operator.execute_complete(context, event, failed_waits=2)["version"] == 1


def test_an_outage_after_a_long_good_wait_counts_anew(nameless: Nameless) -> None:
    nameless.submission().submit_once(REQUEST)
    operator = nameless.operator(outage_timeout=100.0)
    operator.deferrable = True
    event = {"version": 1, "error": "JobError: no usable answer for 100 s", "waited": 3_600.0}
    for again, failed in ((event, 2), ({**event, "waited": 101.0}, 1)):
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute_complete(nameless.context(), again, failed_waits=failed)
        assert deferred.value.kwargs == {"failed_waits": 1 if again is event else 2}


def test_limits_count_from_the_start_also_where_a_worker_waits_in_the_end(
    nameless: Nameless,
) -> None:
    context = nameless.context(start_date=datetime.now(UTC) - timedelta(seconds=58))
    context["ti"].get_task_states = lambda **_: {}
    event = {"version": 1, "error": "JobError: no usable answer for 900 s"}
    limit = {"deferrable": True, "execution_timeout": timedelta(seconds=60)}
    job = nameless.submission().submit_once(request(seconds=600)).handle["id"]
    sensor = NamelessJobSensor(
        task_id="s", job=job, aws_conn_id="nameless", poke_interval=0.1, **limit
    )
    started = time.monotonic()
    with pytest.raises(AirflowSensorTimeout):
        sensor.execute_complete(context, event, failed_waits=2)
    operator = nameless.operator(seconds=600, **limit)
    with pytest.raises(JobFailedError, match="was stopped: it took over"):
        operator.execute_complete(context, event, failed_waits=2)
    assert time.monotonic() - started < 10


FLAGS: list[dict[str, bool]] = [
    {},
    {"soft_fail": True},
    {"never_fail": True},
    {"silent_fail": True},
]


@pytest.mark.parametrize("flags", FLAGS, ids=["none", "soft_fail", "never_fail", "silent_fail"])
@pytest.mark.parametrize("outcome", ["FAILED", "REFUSED"])
def test_a_sensor_decides_alike_in_every_mode(
    nameless: Nameless, outcome: str, flags: dict[str, bool]
) -> None:
    job = nameless.jobs.create(request(seconds=0, outcome=outcome))["jobId"]

    def sensor(**mode: Any) -> NamelessJobSensor:
        return NamelessJobSensor(
            task_id="s", job=job, aws_conn_id="nameless", timeout=5, poke_interval=0.1,
            **flags, **mode,
        )  # fmt: skip

    context = nameless.context()
    context["ti"].get_first_reschedule_date = lambda _context: None
    event = {"event": {"version": 1, "status": outcome}}
    tried = [
        lambda: sensor().execute(context),
        lambda: sensor(mode="reschedule").execute(context),
        lambda: sensor(deferrable=True).execute(context),
        lambda: sensor(deferrable=True).resume_execution("execute_complete", event, context),
    ]
    expected = AirflowSkipException if {"soft_fail", "never_fail"} & set(flags) else JobEndedError
    for look in tried:
        with pytest.raises(expected, match=f"ended {outcome}|Skipping due to"):
            look()


def test_a_deferred_sensor_that_runs_out_of_time_says_so(nameless: Nameless) -> None:
    late = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
    for flags, expected in (
        ({}, AirflowSensorTimeout),
        ({"soft_fail": True}, AirflowSkipException),
    ):
        sensor = NamelessJobSensor(
            task_id="s", job="j", aws_conn_id="nameless", deferrable=True, **flags
        )
        with pytest.raises(expected):
            sensor.resume_execution("__fail__", late, nameless.context())


def test_a_deferred_sensor_keeps_to_its_execution_timeout(nameless: Nameless) -> None:
    job = nameless.jobs.create(REQUEST)["jobId"]
    sensor = NamelessJobSensor(
        task_id="s", job=job, aws_conn_id="nameless", deferrable=True, timeout=3600,
        execution_timeout=timedelta(seconds=15), soft_fail=True,
    )  # fmt: skip
    context = nameless.context()
    context["ti"].start_date = datetime.now(UTC) - timedelta(seconds=6)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    assert timedelta(seconds=8) < deferred.value.timeout <= timedelta(seconds=9)
    context["ti"].start_date = datetime.now(UTC) - timedelta(seconds=16)
    late = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
    with pytest.raises(AirflowTaskTimeout, match="0:00:15"):
        sensor.resume_execution("__fail__", late, context)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_look_that_is_rescheduled_gives_the_worker_time_to_be_heard(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    """In a worker that waits after failed waits, too."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "5")
    sensor = NamelessJobSensor(
        task_id="s", job=nameless.jobs.create(REQUEST)["jobId"], aws_conn_id="nameless",
        mode="reschedule", poke_interval=0.1, timeout=60, deferrable=deferrable,
    )  # fmt: skip
    context = nameless.context()
    context["ti"].get_first_reschedule_date = lambda _context: None
    failed = {"error": TriggerFailureReason.TRIGGER_FAILURE}
    looks = {
        False: lambda: sensor.execute(context),
        True: lambda: sensor.resume_execution("__fail__", failed, context),
    }
    with pytest.raises(AirflowRescheduleException) as again:
        looks[deferrable]()
    assert again.value.reschedule_date >= datetime.now(UTC) + timedelta(seconds=9)


def test_a_task_that_a_user_ended_while_it_submitted_stops_its_job(nameless: Nameless) -> None:
    """Airflow would refuse the deferral, and tell the operator nothing."""
    context = deferring(nameless.context())
    ti = context["ti"]
    ti.get_task_states = lambda **_: {ti.run_id: {ti.task_id: "failed"}}
    operator = nameless.operator()
    operator.deferrable = True
    with pytest.raises(JobFailedError, match="the task is failed already"):
        operator.execute(context)
    assert stops(nameless) == [("STOPPED", 1)]


def test_a_wait_whose_time_is_over_lasts_a_moment_still(nameless: Nameless) -> None:
    """Airflow takes no time-out that is past."""
    assert nameless.operator().time_left(nameless.context(), -5.0) == timedelta(seconds=1)


def deferring(context: Any) -> Any:
    """Return a context with what a task uses on its way to the triggerer."""
    context["ti"].xcom_push = lambda key, value: None
    context["ti"].get_task_states = lambda **_: {}
    return context


def test_a_job_that_is_not_known_everywhere_yet_is_looked_for_again(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NamelessJobs, "settle_seconds", 30.0)
    monkeypatch.setattr("model_delivery.jobs.attempt.STOPPING_SECONDS", 0.01)
    refuse_looks(monkeypatch, "ResourceNotFound", 12)
    attempt = nameless.attempt()
    with attempt.running():
        attempt.submit(request(seconds=0))
    assert len(nameless.all) == 1


def test_a_job_that_was_known_and_is_gone_is_not_waited_for(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NamelessJobs, "settle_seconds", 3600.0)
    attempt = nameless.attempt()
    description = attempt.submit(REQUEST)
    refuse_looks(monkeypatch, "ResourceNotFound", 1000)
    with pytest.raises(JobMissingError), attempt.running():
        attempt.wait(description, 0.01, None)


def test_a_job_made_elsewhere_is_not_taken_for_deleted(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobClient, "place", property(lambda _self: "here (us-east-1)"))
    nameless.submission().submit_once(REQUEST)
    monkeypatch.setattr(JobClient, "place", property(lambda _self: "there (eu-west-1)"))
    refuse_looks(monkeypatch, "ResourceNotFound", 1000)
    for number in (2, 3):
        attempt = nameless.attempt(try_number=number)
        expected = r"submitted at here \(us-east-1\), and .* there .*set region and connection"
        with pytest.raises(DeliveryError, match=expected), attempt.running():
            attempt.submit(REQUEST)
    assert [job["status"] for job in nameless.all] == ["RUNNING"]


def test_a_kill_while_the_request_is_built_submits_nothing(nameless: Nameless) -> None:
    operator = nameless.operator()
    built = operator.build_request

    def killed() -> dict[str, Any]:
        operator.on_kill()
        return built()

    operator.build_request = killed  # type: ignore[method-assign]
    with pytest.raises(JobFailedError, match="the task was killed"):
        operator.execute(nameless.context())
    assert nameless.all == []


def test_a_kill_before_anything_ran_submits_nothing(nameless: Nameless) -> None:
    operator = nameless.operator()
    operator.on_kill()
    with pytest.raises(JobFailedError, match="the task was killed"):
        operator.execute(nameless.context())
    assert nameless.all == []


def test_a_retry_policy_that_gives_up_leaves_no_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

    rule = RetryRule(exception=DeliveryError, action=RetryAction.FAIL)
    call = Client.__getattr__

    def denied(client: Client, operation: str) -> Any:
        if operation == "describe_job":
            raise refusal("AccessDeniedException", operation)
        return call(client, operation)

    for policy, stopped in ((None, 0), (ExceptionRetryPolicy(rules=[rule]), 1)):
        operator = nameless.operator()
        operator.retry_policy = policy
        with monkeypatch.context() as patched:
            patched.setattr(Client, "__getattr__", denied)
            with pytest.raises(DeliveryError, match="check the rights"):
                operator.execute(deferring(nameless.context()))
        assert [job["stops"] for job in nameless.all] == [stopped]


def give_away(nameless: Nameless, attempt: Attempt, state: str | None) -> None:
    """Let the store answer as to a try whose id Airflow has replaced."""
    gone = SimpleNamespace(get=lambda _key, default=None: default, set=cut_off)
    attempt.submission._store = gone
    ti = attempt.submission._ti
    ti.get_task_states = lambda **_: {ti.run_id: {ti.task_id: state}}


@pytest.mark.parametrize("state", [None, "queued", "running", "deferred", "up_for_retry"])
def test_a_try_whose_task_was_given_to_another_leaves_its_job_to_that(
    nameless: Nameless, state: str | None
) -> None:
    attempt = nameless.attempt(last=True)
    description = attempt.submit(REQUEST)
    give_away(nameless, attempt, state)
    attempt.kill()
    with pytest.raises(JobFailedError, match=r"goes on: .*waited for elsewhere"), attempt.running():
        attempt.wait(description, 0.01, None)
    assert nameless.attempt(try_number=2).submit(REQUEST).handle == description.handle
    assert stops(nameless) == [("RUNNING", 0)]


def test_a_worker_that_ends_after_its_task_deferred_leaves_the_job_to_the_triggerer(
    nameless: Nameless,
) -> None:
    """Airflow's handler is still installed while the process pushes links and flushes traces."""
    attempt = nameless.attempt(last=True)
    attempt.submit(REQUEST)
    ti = attempt.submission._ti
    ti.get_task_states = lambda **_: {ti.run_id: {ti.task_id: "deferred"}}
    attempt.kill()
    assert stops(nameless) == [("RUNNING", 0)]


@pytest.mark.parametrize(("state", "left"), [("failed", False), ("running", True)])
def test_a_task_that_defers_while_a_kill_waits_for_its_answer(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, state: str, left: bool
) -> None:
    """Airflow refuses the deferral of a task that a user ended."""
    monkeypatch.setattr(eviction, "ASKING_SECONDS", 0.2)
    attempt, slow = nameless.attempt(), threading.Event()
    attempt.submit(REQUEST)
    ti = attempt.submission._ti

    def ask(**_filters: Any) -> dict[str, dict[str, str]]:
        slow.wait(5)
        return {ti.run_id: {ti.task_id: state}}

    ti.get_task_states = ask

    def kill_and_defer() -> None:
        with attempt.running():
            attempt.kill()
            slow.set()
            raise TaskDeferred(trigger=SimpleNamespace(), method_name="execute_complete")

    with pytest.raises(TaskDeferred if left else JobFailedError):
        kill_and_defer()
    assert stops(nameless) == [("RUNNING", 0) if left else ("STOPPED", 1)]


def test_a_replaced_try_that_fails_leaves_the_job_of_the_other(nameless: Nameless) -> None:
    attempt = nameless.attempt(last=True)
    attempt.submit(REQUEST)
    give_away(nameless, attempt, "running")
    with pytest.raises(RuntimeError, match="404"), attempt.running():
        raise RuntimeError("404 of the next write")
    assert stops(nameless) == [("RUNNING", 0)]


@pytest.mark.parametrize("state", ["failed", "success", "restarting", "removed"])
def test_a_try_that_a_user_ended_stops_its_job_whatever_became_of_the_store(
    nameless: Nameless, state: str
) -> None:
    attempt = nameless.attempt()
    attempt.submit(REQUEST)
    give_away(nameless, attempt, state)
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


@pytest.mark.parametrize(
    ("state", "last", "left"),
    [("failed", False, False), ("running", False, True), ("running", True, False),
     ("given away", True, True)],
)  # fmt: skip
def test_a_kill_while_the_task_talks_to_airflow_gets_its_answer_afterwards(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, state: str, last: bool, left: bool
) -> None:
    """Airflow's supervisor is asked one thing at a time, and the handler holds up who asks."""
    monkeypatch.setattr(eviction, "ASKING_SECONDS", 0.3)
    attempt, talking = nameless.attempt(last=last), threading.Lock()
    description = attempt.submit(REQUEST)
    ti = attempt.submission._ti
    if state == "given away":
        give_away(nameless, attempt, None)

    def ask(**_filters: Any) -> dict[str, dict[str, str]]:
        with talking:
            return {ti.run_id: {ti.task_id: "running" if state == "given away" else state}}

    ti.get_task_states = ask
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: attempt.kill())

    def talk_and_wait() -> None:
        with attempt.running():
            with talking:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                time.sleep(0.2)
                assert stops(nameless) == [("RUNNING", 0)]
            attempt.wait(description, 0.01, None)

    try:
        with pytest.raises(JobFailedError):
            talk_and_wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stops(nameless) == [("RUNNING", 0) if left else ("STOPPED", 1)]


def test_a_try_whose_run_was_deleted_stops_its_job(nameless: Nameless) -> None:
    attempt = nameless.attempt()
    attempt.submit(REQUEST)
    give_away(nameless, attempt, None)
    attempt.submission._ti.get_task_states = lambda **_: {}
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


@pytest.mark.parametrize("last", [False, True])
def test_an_evicted_worker_leaves_its_job_to_the_next_try_if_there_is_one(
    nameless: Nameless, last: bool
) -> None:
    attempt = nameless.attempt(last=last)
    description = attempt.submit(REQUEST)
    ti = attempt.submission._ti
    ti.get_task_states = lambda **_: {ti.run_id: {ti.task_id: "running"}}
    attempt.kill()
    with (
        pytest.raises(JobFailedError, match="was stopped" if last else "goes on"),
        attempt.running(),
    ):
        attempt.wait(description, 0.01, None)
    again = nameless.attempt(try_number=2).submit(REQUEST).handle
    assert (again == description.handle) is not last


def test_a_worker_killed_by_its_time_out_stops_its_job(nameless: Nameless) -> None:
    attempt = nameless.attempt()
    attempt.submit(REQUEST)
    with pytest.raises(AirflowTaskTimeout), attempt.running():
        cut_off()
    ti = attempt.submission._ti
    ti.get_task_states = lambda **_: {ti.run_id: {ti.task_id: "running"}}
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


@pytest.mark.parametrize("last", [False, True])
def test_where_airflow_does_not_tell_whose_the_task_is_only_the_last_try_stops_the_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    monkeypatch.setattr("model_delivery.jobs.eviction.ASKING_SECONDS", 0.1)
    told = threading.Event()

    def silent(**_given: Any) -> Any:
        told.wait(30)
        raise DeliveryError("no answer")

    attempt = nameless.attempt(last=last)
    attempt.submit(REQUEST)
    attempt.submission._ti.get_task_states = silent
    started = time.monotonic()
    attempt.kill()
    assert time.monotonic() - started < 5
    assert stops(nameless) == [("STOPPED", 1) if last else ("RUNNING", 0)]
    told.set()


def test_a_clear_stops_what_was_left_to_a_try_that_never_came(nameless: Nameless) -> None:
    attempt = nameless.attempt()
    attempt.submit(REQUEST)
    give_away(nameless, attempt, "up_for_retry")
    attempt.kill()
    submit_after_clear(nameless.attempt(try_number=2, max_tries=3))
    assert stops(nameless) == [("STOPPED", 1), ("RUNNING", 0)]


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_that_cannot_be_stopped_is_waited_for_by_the_next_try(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    killed: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(NamelessJobs, "stop_call", lambda _service, _handle: None)
    attempt = nameless.attempt()
    description = attempt.submit(REQUEST)
    if killed:
        attempt.kill()
    with pytest.raises(JobFailedError, match="goes on, since its service"), attempt.running():
        attempt.wait(description, 0.01, 0.0)
    assert nameless.attempt(try_number=2).submit(REQUEST).handle == description.handle
    assert stops(nameless) == [("RUNNING", 0)]
    submit_after_clear(nameless.attempt(try_number=3, max_tries=5))
    assert "goes on although the task was cleared" in capsys.readouterr().out
    assert len(nameless.all) == 2


def test_a_retry_killed_before_it_submits_leaves_the_search_to_the_next(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    nameless.submission().submit_once(REQUEST)
    ((record,),) = nameless.store.values.values()
    record["handle"] = None  # the first try was killed before it could note it
    killed = nameless.attempt(try_number=2)
    killed.kill()
    with pytest.raises(JobFailedError, match="nothing was submitted"), killed.running():
        killed.submit(REQUEST)
    nameless.attempt(try_number=3).submit(REQUEST)
    assert len(nameless.all) == 1


def test_a_kill_while_looking_makes_no_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = nameless.attempt()
    call = Client.__getattr__

    def killing(client: Client, operation: str) -> Any:
        if operation == "list_jobs":
            attempt.kill()
        assert operation != "create_job"
        return call(client, operation)

    nameless.submission().submit_once(REQUEST)
    ((record,),) = nameless.store.values.values()
    record["handle"], record["search"] = None, {"model": "another", "sources": []}
    attempt = nameless.attempt(try_number=2)
    monkeypatch.setattr(Client, "__getattr__", killing)
    with pytest.raises(DeliveryError, match="nothing was submitted"), attempt.running():
        attempt.submit(REQUEST)


def test_a_clear_does_not_take_a_job_elsewhere_for_ended(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(JobClient, "place", property(lambda _self: "here (us-east-1)"))
    nameless.submission().submit_once(REQUEST)
    monkeypatch.setattr(JobClient, "place", property(lambda _self: "there (eu-west-1)"))
    refuse_looks(monkeypatch, "ResourceNotFound", 3)
    attempt = nameless.attempt(try_number=2, max_tries=3)
    told: list[str] = []
    monkeypatch.setattr(attempt._log, "warning", lambda text, *given: told.append(text % given))
    submit_after_clear(attempt)
    assert any("of before the clear may still be running" in each for each in told)


def test_a_stop_whose_answer_is_lost_is_not_repeated(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import HTTPClientError

    attempt = nameless.attempt()
    attempt.submit(REQUEST)
    call = Client.__getattr__

    def lost(client: Client, operation: str) -> Any:
        def asked(**given: Any) -> Any:
            answer = call(client, operation)(**given)
            if operation == "stop_job":
                raise HTTPClientError(error="the answer was lost")
            return answer

        return asked

    monkeypatch.setattr(Client, "__getattr__", lost)
    attempt.kill()
    assert stops(nameless) == [("STOPPED", 1)]


def test_time_goes_on_over_deferrals(nameless: Nameless) -> None:
    """Airflow starts each deferral's time anew."""
    operator = nameless.operator()
    operator.deferrable, operator.job_timeout = True, 20.0
    context = deferring(nameless.context())
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.timeout <= timedelta(seconds=20)
    ((record,),) = nameless.store.values.values()
    record["made_at"] = (datetime.now(UTC) - timedelta(seconds=15)).isoformat()
    event = {"version": 1, "error": "JobError: no usable answer"}
    with pytest.raises(TaskDeferred) as again:
        operator.execute_complete(context, event)
    assert again.value.timeout <= timedelta(seconds=5)


def test_an_airflow_that_does_not_tell_the_tasks_state_fails_no_try(nameless: Nameless) -> None:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    def silent(**_given: Any) -> Any:
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))

    operator = nameless.operator()
    operator.deferrable = True
    context = deferring(nameless.context(try_number=3))
    context["ti"].get_task_states = silent
    with pytest.raises(TaskDeferred):
        operator.execute(context)
    assert stops(nameless) == [("RUNNING", 0)]


def test_what_the_list_said_too_early_is_not_believed_again(nameless: Nameless) -> None:
    nameless.submission().submit_once(REQUEST)
    operator = nameless.operator()
    operator.deferrable = True
    context = deferring(nameless.context())
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute_complete(context, {"version": 1, "status": "SUCCEEDED"})
    assert deferred.value.trigger.doubted
