"""Exactly one job where nobody can name it: found by intent and content, never by a guess."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_delivery.exceptions import AmbiguousJobError, RequestDiffersError

from tests.nameless.provider import Client, NamelessJobs
from tests.unit.provider.nameless_service import REQUEST, Nameless, nameless_service


@pytest.fixture(params=[0.0, -3600.0, 3600.0], ids=["no skew", "an hour behind", "an hour ahead"])
def nameless(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nameless]:
    with nameless_service(tmp_path, monkeypatch, request.param) as served:
        yield served


def cut_off_after_create(
    nameless: Nameless, patch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    """Submit in a process that ends when the service has made the job."""
    real = Client.__getattr__

    def create_and_die(client: Client, operation: str) -> Any:
        def call(**given: Any) -> Any:
            answer = real(client, operation)(**given)
            if operation == "create_job":
                raise killed
            return answer

        return call

    with patch.context() as patched:
        patched.setattr(Client, "__getattr__", create_and_die)
        with pytest.raises(killed):
            nameless.submission().submit_once(REQUEST)


def test_a_retry_adopts_the_job_of_a_try_that_was_cut_off(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    cut_off_after_create(nameless, monkeypatch, killed)
    submitted = nameless.submission(try_number=2).submit_once(REQUEST)
    assert not submitted.made
    assert [job["jobId"] for job in nameless.all] == [submitted.handle["id"]]


def test_a_clear_stops_nothing_that_only_looks_like_its_job(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    cut_off_after_create(nameless, monkeypatch, killed)
    nameless.attempt(try_number=2, max_tries=3).submit(REQUEST)
    assert [job["status"] for job in nameless.all] == ["RUNNING", "RUNNING"]


def test_jobs_that_were_there_before_are_not_ours(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    before = {nameless.jobs.create(REQUEST)["jobId"] for _ in range(25)}  # more than a page
    cut_off_after_create(nameless, monkeypatch, killed)
    submitted = nameless.submission(try_number=2).submit_once(REQUEST)
    assert not submitted.made
    assert submitted.handle["id"] not in before


def test_other_work_is_not_ours(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    cut_off_after_create(nameless, monkeypatch, killed)
    nameless.jobs.create({**REQUEST, "model": "another"})
    nameless.jobs.create({**REQUEST, "sources": ["a"]})
    submitted = nameless.submission(try_number=2).submit_once(REQUEST)
    assert not submitted.made


def test_several_that_may_be_ours_are_named_and_no_further_one_is_made(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    cut_off_after_create(nameless, monkeypatch, killed)
    nameless.jobs.create(REQUEST)
    with pytest.raises(AmbiguousJobError) as caught:
        nameless.submission(try_number=2).submit_once(REQUEST)
    assert all(job["jobId"] in str(caught.value) for job in nameless.all)
    assert len(nameless.all) == 2


def test_a_first_try_adopts_nothing(nameless: Nameless) -> None:
    nameless.jobs.create(REQUEST)
    assert nameless.submission().submit_once(REQUEST).made
    assert len(nameless.all) == 2


def test_another_request_than_the_cut_off_one_is_an_error(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    cut_off_after_create(nameless, monkeypatch, killed)
    with pytest.raises(RequestDiffersError, match=r"seconds: ours 5\.0, theirs 600\.0"):
        nameless.submission(try_number=2).submit_once({**REQUEST, "seconds": 5.0})


def test_a_job_that_appears_late_is_waited_for(
    nameless: Nameless, monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]
) -> None:
    """The list lies at first: the job is there and is not shown."""
    cut_off_after_create(nameless, monkeypatch, killed)
    monkeypatch.setattr(NamelessJobs, "settle_seconds", 60.0)
    monkeypatch.setattr("model_delivery.jobs.submission.LOOK_SECONDS", 0.05)
    real = NamelessJobs.found
    answers = [True, True, False]

    def late(self: NamelessJobs, intent: Any, responses: Any) -> Any:
        return iter(()) if answers.pop(0) else real(self, intent, responses)

    monkeypatch.setattr(NamelessJobs, "found", late)
    assert not nameless.submission(try_number=2).submit_once(REQUEST).made
    assert answers == []
