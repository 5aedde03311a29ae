"""One try of a task: what it waits for, what it stops, and what it makes of odd input."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_delivery.exceptions import (
    DeliveryError,
    JobFailedError,
    JobMissingError,
    JobRefusedError,
    RequestDiffersError,
    UnknownStatusError,
)
from model_delivery.jobs.record import Outcome

from tests.unit.provider.nameless_service import REQUEST, Nameless, nameless_service


@pytest.fixture
def nameless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameless]:
    with nameless_service(tmp_path, monkeypatch, 0.0) as served:
        yield served


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

    def cut_off(*_args: Any) -> Any:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr("tests.nameless.provider.NamelessJobs.submitted", cut_off)
        with pytest.raises(TimeoutError), attempt.running():
            attempt.submit(REQUEST)
    attempt.kill()
    assert [(job["status"], job["stops"]) for job in nameless.all] == [("STOPPED", 1)]


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


def test_a_clear_stops_what_the_cleared_try_left_running(nameless: Nameless) -> None:
    nameless.submission().submit_once(REQUEST)
    nameless.attempt(try_number=2, max_tries=3).submit(REQUEST)
    assert [job["status"] for job in nameless.all] == ["STOPPED", "RUNNING"]


def test_a_clear_leaves_alone_what_was_not_to_be_waited_for(nameless: Nameless) -> None:
    submission = nameless.submission()
    submission.submit_once(REQUEST)
    submission.end(Outcome.DONE)
    nameless.attempt(try_number=2, max_tries=3).submit(REQUEST)
    assert [job["status"] for job in nameless.all] == ["RUNNING", "RUNNING"]
