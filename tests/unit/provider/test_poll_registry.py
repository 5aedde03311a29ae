"""The shared poll of a triggerer: a real aiobotocore client over HTTP, and a list that lies."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from model_delivery.exceptions import JobError
from model_delivery.jobs import listing, poll, rate
from model_delivery.jobs import registry as registry_module
from model_delivery.jobs.listing import ListReader
from model_delivery.jobs.rate import TokenBucket
from model_delivery.jobs.registry import PollRegistry
from model_delivery.jobs.waits import LEFT_OVER, Bounds, Waits

from tests.compilation_service import BROKEN, RESET, THROTTLED, CompilationService, Fault, Job

SERVICE = "model_delivery.hooks.compilation.CompilationJobs"
SETTINGS = {
    "aws_conn_id": "aws_poll", "region_name": None, "verify": None, "botocore_config": None,
}  # fmt: skip
SOON = 30.0
LOOK = 0.05
OUTAGE = 20.0
BOUNDS = Bounds(LOOK, LOOK, OUTAGE)


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CompilationService]:
    built = CompilationService()
    runner = await built.start()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(built.airflow_connection()))
    monkeypatch.setattr(registry_module, "TokenBucket", lambda: TokenBucket(1000))
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(rate, "LONGEST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(poll, "GATHER_SECONDS", 0.02)
    monkeypatch.setattr(listing, "OVERLAP_SECONDS", 0.5)
    yield built
    await runner.cleanup()


class Waiting:
    """Waits in one registry, each a task by the job's name."""

    def __init__(self) -> None:
        self.registry = PollRegistry()
        self.tasks: dict[str, asyncio.Task[str]] = {}

    def add(self, *names: str, bounds: Bounds = BOUNDS, **settings: Any) -> None:
        for name in names:
            handle = {"name": name}
            waiting = self.registry.wait(SERVICE, {**SETTINGS, **settings}, handle, bounds)
            self.tasks[name] = asyncio.create_task(waiting)

    async def result(self, name: str) -> str:
        return await asyncio.wait_for(asyncio.shield(self.tasks[name]), SOON)

    async def error(self, name: str) -> str:
        with pytest.raises(JobError) as caught:
            await self.result(name)
        return str(caught.value)

    def waiting(self) -> set[str]:
        return {name for name, task in self.tasks.items() if not task.done()}


@pytest.fixture
async def waits() -> AsyncIterator[Waiting]:
    waiting = Waiting()
    yield waiting
    for task in waiting.tasks.values():
        task.cancel()
    await asyncio.gather(*waiting.tasks.values(), return_exceptions=True)
    while waiting.registry.open_clients:
        await asyncio.sleep(0.01)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.005)


async def looks(service: CompilationService, count: int) -> None:
    """Return after so many further reads of the list."""
    target = service.asked["ListCompilationJobs"] + count
    await until(lambda: service.asked["ListCompilationJobs"] >= target)


def names(count: int) -> list[str]:
    return [f"job-{number:04}" for number in range(count)]


# One poll for all


async def test_many_waits_are_one_poll(service: CompilationService, waits: Waiting) -> None:
    jobs = names(300)
    service.add(*jobs)
    waits.add(*jobs)
    await looks(service, 20)
    service.end(*jobs[:150])
    for name in jobs[:150]:
        assert await waits.result(name) == "COMPLETED"
    assert waits.waiting() == set(jobs[150:])
    assert len(service.connections) <= poll.DESCRIBED_AT_A_TIME
    # 20 reads and more by now, where one poll a job would have made over 6,000 requests.
    assert service.requests() < 300


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "STOPPED"])
@pytest.mark.parametrize("others", [0, 3, 30])
async def test_every_end_wakes(
    service: CompilationService, waits: Waiting, status: str, others: int
) -> None:
    service.add("job", *names(others))
    waits.add("job", *names(others))
    await until(lambda: service.requests() > 1)
    service.end("job", status=status)
    assert await waits.result("job") == status
    assert waits.waiting() == set(names(others))


@pytest.mark.parametrize("count", [1, 5, 50])
async def test_what_ended_long_before_it_was_waited_for(
    service: CompilationService, waits: Waiting, count: int
) -> None:
    service.add(*names(count), status="COMPLETED", age=86_400)
    service.add("young")
    waits.add(*names(count), "young", bounds=Bounds(60, 60, OUTAGE))
    for name in names(count):
        assert await waits.result(name) == "COMPLETED"


async def test_newcomers_are_told_of_while_others_wait(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b", "c")
    service.add("late", status="COMPLETED", age=3600)
    waits.add("a", "b", "c", bounds=Bounds(60, 60, OUTAGE))
    await until(lambda: service.requests() >= 4)
    waits.add("late", bounds=Bounds(60, 60, OUTAGE))
    assert await waits.result("late") == "COMPLETED"
    assert service.described["late"] == 1


async def test_newcomers_that_the_newest_pages_do_not_show_are_described(
    service: CompilationService, waits: Waiting
) -> None:
    jobs = names(40)
    service.add(*jobs, status="COMPLETED", age=86_400)
    service.add(*[f"other-{number}" for number in range(1000)], status="COMPLETED", age=60)
    service.add("youngest")
    waits.add(*jobs)
    for name in jobs:
        assert await waits.result(name) == "COMPLETED"
    assert all(service.described[name] == 1 for name in jobs)
    assert service.asked["ListCompilationJobs"] < 40


async def test_waits_that_are_taken_up_one_after_the_other_are_looked_at_together(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "GATHER_SECONDS", 0.2)
    jobs = names(400)
    for number, name in enumerate(jobs):
        service.add(name, age=1000 - number)
    for first in range(0, len(jobs), 10):
        waits.add(*jobs[first : first + 10], bounds=Bounds(60, 60, OUTAGE))
        await asyncio.sleep(0.03)
    await until(lambda: service.requests() >= 2)
    service.add("late", status="COMPLETED", age=2000)
    waits.add("late", bounds=Bounds(60, 60, OUTAGE))
    assert await waits.result("late") == "COMPLETED"
    # The oldest came first, and the list has the newest first: 400 of them are read at a time.
    assert (service.described.total(), service.asked["ListCompilationJobs"]) == (1, 4)


async def test_descriptions_that_an_outage_cuts_off_are_made_again(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "STALLED_SECONDS", 0.2)
    jobs = names(6)
    service.add(*jobs)
    waits.add(*jobs)
    await looks(service, 3)
    service.faults["ListCompilationJobs"] = BROKEN
    for number, name in enumerate(jobs):
        service.job_faults[name] = BROKEN if number % 2 else Fault(stall=5, reset=True)
    service.add("late")
    service.job_faults["late"] = Fault(stall=5, reset=True)
    waits.add("late")
    await asyncio.sleep(8)
    service.faults.clear()
    assert waits.waiting() == {*jobs, "late"}
    service.job_faults.clear()
    service.end(*jobs, "late")
    for name in (*jobs, "late"):
        assert await waits.result(name) == "COMPLETED"


async def test_two_waits_for_one_job(service: CompilationService, waits: Waiting) -> None:
    service.add("job")
    tasks = [
        asyncio.create_task(waits.registry.wait(SERVICE, SETTINGS, {"name": "job"}, BOUNDS))
        for _ in range(2)
    ]
    await until(lambda: service.described["job"] >= 2)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    service.end("job")
    assert await asyncio.wait_for(tasks[1], SOON) == "COMPLETED"


async def test_the_last_to_leave_closes_the_client(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 2)
    service.end("a")
    await waits.result("a")
    assert waits.registry.open_clients == 1
    service.end("b")
    await waits.result("b")
    await until(lambda: waits.registry.open_clients == 0)
    asked = service.requests()
    await asyncio.sleep(5 * LOOK)
    assert service.requests() == asked
    service.add("c")
    waits.add("c")
    await until(lambda: service.described["c"] >= 2)
    service.end("c")
    assert await waits.result("c") == "COMPLETED"


async def test_one_job_is_described_and_costs_one_request_a_look(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("only")
    waits.add("only")
    await until(lambda: service.described["only"] >= 5)
    assert service.asked["ListCompilationJobs"] == 0


async def test_the_one_that_is_left_is_followed(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 3)
    service.end("a")
    await waits.result("a")
    service.hidden = {"b"}
    service.end("b")
    assert await waits.result("b") == "COMPLETED"


async def test_waits_over_other_connections_are_apart(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    waits.add("a")
    waits.add("b", region_name="eu-west-1")
    await until(lambda: service.described["a"] > 0 and service.described["b"] > 0)
    assert waits.registry.open_clients == 2


async def test_the_interval_stays_inside_its_bounds(
    service: CompilationService, waits: Waiting
) -> None:
    assert {rate.interval(2, 30, quiet=0) for _ in range(50)} == {2}
    assert 0.85 * 15 <= rate.interval(2, 30, quiet=300) <= 15
    assert rate.interval(2, 30, quiet=1e6) <= 30
    service.add("a", "b")
    waits.add("a", bounds=Bounds(60, 60, OUTAGE))
    waits.add("b", bounds=BOUNDS)  # the most impatient sets the pace
    await looks(service, 3)


# A list that lies


async def test_a_job_that_the_list_never_shows(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_reads(monkeypatch)
    service.add("a", "b", "hidden")
    service.hidden = {"hidden"}
    waits.add("a", "b", "hidden")
    await looks(service, 3)
    service.end("hidden")
    assert await waits.result("hidden") == "COMPLETED"
    assert waits.waiting() == {"a", "b"}


async def test_an_entry_that_stays_as_it_was(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_reads(monkeypatch)
    service.add("a", "stale")
    waits.add("a", "stale")
    await looks(service, 3)
    service.stale["stale"] = Job("INPROGRESS", service.now() - 60, service.now() - 60)
    service.end("stale")
    assert await waits.result("stale") == "COMPLETED"


async def test_an_end_that_the_list_shows_late(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "BEHIND_SECONDS", 2.0)
    service.add("a", "late")
    waits.add("a", "late")
    await looks(service, 3)
    described = service.described["late"]
    service.hidden = {"late"}
    service.end("late")
    await asyncio.sleep(1.5)  # longer than the overlap of every read
    service.hidden.clear()
    async with asyncio.timeout(5):
        assert await waits.result("late") == "COMPLETED"
    assert service.described["late"] == described  # the list told


def few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    from model_delivery.hooks.compilation import CompilationJobList

    monkeypatch.setattr(CompilationJobList, "reads_per_description", 8)


async def test_a_time_to_come_does_not_hide_what_changes(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    service.jobs["liar"] = Job("COMPLETED", service.now(), service.now() + 1e6)
    waits.add("a", "b")
    await looks(service, 5)
    described = service.described.total()
    service.end("a")
    assert await waits.result("a") == "COMPLETED"
    assert service.described.total() == described  # the list told


@pytest.mark.parametrize("skew", [-7200.0, 7200.0], ids=["behind", "ahead"])
async def test_a_service_whose_clock_is_not_ours(
    service: CompilationService, waits: Waiting, skew: float
) -> None:
    service.skew = skew
    service.add("a", "b", age=30)
    waits.add("a", "b")
    await looks(service, 5)
    described = service.described.total()
    service.end("a")
    assert await waits.result("a") == "COMPLETED"
    assert service.described.total() == described


async def test_pages_that_shift_while_they_are_read(
    service: CompilationService, waits: Waiting
) -> None:
    jobs = names(60)
    service.add(*jobs)
    service.page = 7
    waits.add(*jobs)
    await looks(service, 12)
    ending = iter(jobs)

    def shift() -> None:
        """Between two pages: one job ends, and an older one is deleted or comes."""
        for name in [next(ending, None)]:
            if name:
                service.end(name)
        service.add(f"other-{service.requests()}", age=1e4)
        service.jobs.pop(f"other-{service.requests() - 3}", None)

    service.between_pages = shift
    for name in jobs:
        assert await waits.result(name) == "COMPLETED"


async def test_a_page_token_that_leads_in_a_circle(service: CompilationService) -> None:
    from model_delivery.hooks.compilation import CompilationJobList
    from model_delivery.jobs.faults import UnusableAnswerError

    async def ask(_call: Any) -> Any:
        return {"CompilationJobSummaries": [], "NextToken": "again"}

    async def hear(_jobs: Any) -> bool:
        return False

    reader = ListReader(CompilationJobList(), "")
    with pytest.raises(UnusableAnswerError, match="same page token"):
        await reader.newest(ask, hear, most_pages=10)


async def test_a_status_that_only_the_list_has(service: CompilationService, waits: Waiting) -> None:
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 2)
    service.stale["a"] = Job("MELTED", service.now(), service.now() + 1)
    await looks(service, 5)
    assert waits.waiting() == {"a", "b"}
    service.end("a")
    assert await waits.result("a") == "COMPLETED"


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
async def test_a_list_that_is_refused_leaves_descriptions(
    service: CompilationService, waits: Waiting, code: str
) -> None:
    service.add(*names(20))
    service.faults["ListCompilationJobs"] = Fault(400, code)
    waits.add(*names(20))
    await until(lambda: all(service.described[name] >= 3 for name in names(20)))
    service.end(*names(20))
    for name in names(20):
        assert await waits.result(name) == "COMPLETED"
    assert service.asked["ListCompilationJobs"] <= 2


async def test_a_list_that_breaks_down_leaves_descriptions(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 2)
    service.faults["ListCompilationJobs"] = BROKEN
    service.end("a", "b")
    assert await waits.result("a") == await waits.result("b") == "COMPLETED"


# One job's own fault


async def test_an_unknown_status_ends_its_own_wait_only(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b", "c")
    waits.add("a", "b", "c")
    await looks(service, 2)
    service.end("b", status="MELTED")
    assert "'MELTED' for compilation job b" in await waits.error("b")
    await looks(service, 3)
    assert waits.waiting() == {"a", "c"}


@pytest.mark.parametrize("others", [[], ["a", "b"]], ids=["alone", "among others"])
async def test_a_job_deleted_behind_our_back(
    service: CompilationService,
    waits: Waiting,
    monkeypatch: pytest.MonkeyPatch,
    others: list[str],
) -> None:
    few_reads(monkeypatch)
    service.add("gone", *others)
    waits.add("gone", *others)
    await until(lambda: service.described["gone"] >= 1)
    del service.jobs["gone"]
    message = await waits.error("gone")
    assert "SageMaker compilation job gone" in message
    assert "ResourceNotFound" in message
    assert waits.waiting() == set(others)


async def test_a_job_missed_once_by_a_replica_is_waited_for(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("job")
    service.next_faults.append(Fault(400, "ResourceNotFound"))
    waits.add("job")
    await until(lambda: service.described["job"] >= 2)
    service.end("job")
    assert await waits.result("job") == "COMPLETED"


@pytest.mark.parametrize(
    ("fault", "message"),
    [(Fault(400, "AccessDeniedException"), "AccessDenied"), (BROKEN, "no usable answer for 0 s")],
    ids=["denied", "broken"],
)
async def test_one_job_that_cannot_be_described(
    service: CompilationService, waits: Waiting, fault: Fault, message: str
) -> None:
    service.add(*names(5), "poison")
    service.job_faults["poison"] = fault
    service.hidden = {"poison"}
    waits.add(*names(5))
    waits.add("poison", bounds=Bounds(LOOK, LOOK, 0.3))
    assert message in await waits.error("poison")
    service.end(*names(5))
    for name in names(5):
        assert await waits.result(name) == "COMPLETED"


# Faults of the service and of the network


@pytest.mark.parametrize("count", [1, 3, 30])
@pytest.mark.parametrize(
    "fault",
    [
        THROTTLED, Fault(400, "Throttling"), Fault(400, "TooManyRequestsException"),
        Fault(503, "SlowDown"), Fault(400, "RequestLimitExceeded"),
        Fault(400, "ProvisionedThroughputExceededException"), Fault(429, "Whatever"),
        BROKEN, Fault(502, "Whatever"), RESET,
    ],
    ids=lambda fault: f"{fault.status} {fault.code}" if fault.code else "reset",
)  # fmt: skip
async def test_a_fault_that_passes(
    service: CompilationService, waits: Waiting, fault: Fault, count: int
) -> None:
    service.add(*names(count))
    service.next_faults.extend([fault] * 6)
    waits.add(*names(count))
    await until(lambda: not service.next_faults)
    service.next_faults.extend([fault] * 6)
    service.end(*names(count))
    for name in names(count):
        assert await waits.result(name) == "COMPLETED"


async def test_a_stall_is_cut_short(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery.jobs.paced_client.CALL_SECONDS", 0.1)
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 2)
    service.next_faults.extend([Fault(stall=SOON)] * 2)
    service.end("a", "b")
    assert await waits.result("a") == await waits.result("b") == "COMPLETED"


@pytest.mark.parametrize("count", [1, 3, 30])
async def test_an_outage_beyond_the_bound_names_job_service_and_cause(
    service: CompilationService, waits: Waiting, count: int
) -> None:
    service.add(*names(count))
    waits.add(*names(count), bounds=Bounds(LOOK, LOOK, 0.4))
    await until(lambda: service.requests() > count)
    for operation in ("DescribeCompilationJob", "ListCompilationJobs"):
        service.faults[operation] = THROTTLED
    started = time.monotonic()
    for name in names(count):
        message = await waits.error(name)
        assert f"SageMaker compilation job {name}: no usable answer for 0 s" in message
        assert "ThrottlingException" in message
    assert time.monotonic() - started >= 0.3
    await until(lambda: waits.registry.open_clients == 0)


async def test_each_wait_has_its_own_bound(service: CompilationService, waits: Waiting) -> None:
    service.add("hasty", "patient", "other")
    service.faults = {"DescribeCompilationJob": BROKEN, "ListCompilationJobs": BROKEN}
    waits.add("hasty", bounds=Bounds(LOOK, LOOK, 0.2))
    waits.add("patient", "other", bounds=Bounds(LOOK, LOOK, 60))
    await waits.error("hasty")
    service.faults = {}
    service.end("patient", "other")
    assert await waits.result("patient") == await waits.result("other") == "COMPLETED"


async def test_an_endpoint_that_is_not_there(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = service.airflow_connection()
    connection["extra"]["service_config"]["sagemaker"]["endpoint_url"] = "http://127.0.0.1:1"
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(connection))
    service.add("job")
    waits.add("job")
    await asyncio.sleep(0.5)
    assert waits.waiting() == {"job"}
    # The connection is corrected while the job is waited for.
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(service.airflow_connection()))
    service.end("job")
    assert await waits.result("job") == "COMPLETED"


async def test_refused_credentials_are_looked_up_again_until_the_outage_is_too_long(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b", "c")
    waits.add("a", "b")
    waits.add("c", bounds=Bounds(LOOK, LOOK, 0.3))
    await looks(service, 2)
    service.end("a")
    for operation in ("DescribeCompilationJob", "ListCompilationJobs"):
        service.faults[operation] = Fault(400, "ExpiredTokenException")
    assert "see that the connection's key is good" in await waits.error("c")
    assert not waits.tasks["a"].done()
    service.faults.clear()
    service.end("b")
    assert await waits.result("a") == "COMPLETED"
    assert await waits.result("b") == "COMPLETED"


@pytest.mark.parametrize("ahead", [600.0, 30.0])
async def test_a_clock_that_is_put_back_hides_no_change(
    service: CompilationService, waits: Waiting, ahead: float
) -> None:
    service.skew = ahead
    service.add(*names(20))
    waits.add(*names(20))
    await looks(service, 4)
    service.end("job-0001")
    assert await waits.result("job-0001") == "COMPLETED"
    service.skew = 0.0
    service.end("job-0002")
    assert await waits.result("job-0002") == "COMPLETED"


async def test_jobs_that_ended_leave_nothing_in_the_queue() -> None:
    waits = Waits()
    for number in range(1000):
        waiter, _ = waits.join(f"job-{number}", {"name": f"job-{number}"}, BOUNDS)
        waits.schedule(waiter.job, 1e9)
        waiter.job.finish("COMPLETED")
        waits.leave(waiter)
    assert len(waits._due) <= LEFT_OVER


async def test_a_connection_that_cannot_be_used_ends_every_wait(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = service.airflow_connection()
    connection["extra"]["service_config"]["sagemaker"]["endpoint_url"] = "no address"
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(connection))
    waits.add("a", "b")
    assert "Invalid endpoint" in await waits.error("a")
    assert "Invalid endpoint" in await waits.error("b")


async def test_whatever_ends_the_poll_ends_the_waits(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 2)
    (task,) = [each for each in asyncio.all_tasks() if "Poll._run" in repr(each.get_coro())]
    task.cancel()
    assert "the poll ended" in await waits.error("a")
    assert "the poll ended" in await waits.error("b")


# The rate


async def test_the_bucket_keeps_its_rate() -> None:
    bucket = TokenBucket(50)
    for _ in range(50):
        await bucket.take()
    started = time.monotonic()
    await asyncio.gather(*(bucket.take() for _ in range(10)))
    assert 0.15 < time.monotonic() - started < 1


async def test_the_bucket_slows_down_and_recovers() -> None:
    bucket = TokenBucket(16)
    bucket.throttled()
    assert bucket.rate == 8
    bucket.throttled()  # of the same moment: one burst is one reason
    assert bucket.rate == 8
    for _ in range(1000):
        bucket.answered()
    assert bucket.rate == 16


async def test_backoff_grows_with_full_jitter() -> None:
    early = [rate.backoff(1) for _ in range(300)]
    late = [rate.backoff(20) for _ in range(300)]
    assert min(early) >= 0
    assert max(early) <= rate.FIRST_BACKOFF_SECONDS
    assert rate.LONGEST_BACKOFF_SECONDS / 2 < max(late) <= rate.LONGEST_BACKOFF_SECONDS
    assert min(late) < rate.LONGEST_BACKOFF_SECONDS / 4


async def test_a_look_at_ten_thousand_waits_takes_no_time() -> None:
    group = Waits()
    members = [group.join(name, {"name": name}, BOUNDS)[0] for name in names(10_000)]
    for waiter in members:
        group.schedule(waiter.job, 1.0)
    started = time.perf_counter()
    for _ in range(100):
        group.bounds()
        group.next_due()
    assert time.perf_counter() - started < 0.05
    for waiter in members:
        group.leave(waiter)
    assert len(group) == 0
    assert group.next_due() is None


CREDENTIAL_PROCESS = """#!/usr/bin/env python3
import datetime, json, os, sys
if os.path.exists({broken!r}):
    sys.exit("the vault is away")
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
print(json.dumps({{"Version": 1, "AccessKeyId": "AKIAPOLLTEST00000001", "SessionToken": "t",
                   "SecretAccessKey": "s" * 40, "Expiration": soon.isoformat()}}))
"""


async def test_a_source_of_keys_that_is_away_for_a_moment_ends_no_wait(
    service: CompilationService, waits: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys last a minute, so botocore fetches new ones all the time."""
    broken, script, profile = (tmp_path / name for name in ("broken", "keys.py", "config"))
    script.write_text(CREDENTIAL_PROCESS.format(broken=str(broken)))
    script.chmod(0o755)
    profile.write_text(f"[default]\nregion=us-east-1\ncredential_process={script}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", service.url)
    names = ["a", "b", "c"]
    service.add(*names)
    waits.add(*names, aws_conn_id=None, region_name="us-east-1")
    while service.asked["ListCompilationJobs"] < 2:
        await asyncio.sleep(0.05)
    broken.touch()
    await asyncio.sleep(2)
    broken.unlink()
    service.end(*names)
    assert [await waits.result(name) for name in names] == ["COMPLETED"] * 3


async def test_a_wait_that_joins_a_poll_that_just_ended_gets_one_of_its_own(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    waits.add("a")
    while not service.described["a"]:
        await asyncio.sleep(0.01)
    (poll,) = waits.registry._polls.values()
    poll.close()
    while not poll.is_over:
        await asyncio.sleep(0)
    waits.add("b")
    service.end("b")
    assert await waits.result("b") == "COMPLETED"
    assert "the poll ended" in await waits.error("a")


async def test_connections_with_one_key_share_its_rate(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = service.airflow_connection() | {"login": "AKIAPOLLTEST00000009"}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TWIN", json.dumps(service.airflow_connection()))
    monkeypatch.setenv("AIRFLOW_CONN_AWS_OTHER", json.dumps(other))
    service.add("a", "b", "c")
    for name, connection in (("a", "aws_poll"), ("b", "aws_twin"), ("c", "aws_other")):
        waits.add(name, aws_conn_id=connection)
    await until(lambda: service.described.total() >= 9)
    assert len(waits.registry._buckets) == 2


async def test_a_list_of_others_jobs_is_left_alone(
    service: CompilationService, waits: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.page = 5
    service.add("a", "b")
    waits.add("a", "b")
    await looks(service, 2)
    others = names(60)
    service.add(*others)
    await until(lambda: service.described["a"] >= 5)
    listed = service.asked["ListCompilationJobs"]
    service.end(*others)
    service.end("a", "b")
    assert await waits.result("a") == await waits.result("b") == "COMPLETED"
    assert service.asked["ListCompilationJobs"] <= listed + 1


async def test_an_end_that_only_the_list_tells_is_not_believed_twice(
    service: CompilationService, waits: Waiting
) -> None:
    service.add("a", "b")
    service.stale["a"] = Job("COMPLETED", service.now(), service.now() + 3600)
    wait = waits.registry.wait(SERVICE, SETTINGS, {"name": "a"}, BOUNDS, doubted=True)
    waits.tasks["a"] = asyncio.create_task(wait)
    waits.add("b")
    await looks(service, 10)
    assert waits.waiting() == {"a", "b"}
    service.end("a")
    assert await waits.result("a") == "COMPLETED"


async def test_a_roles_keys_are_refreshed_off_the_event_loop() -> None:
    from aiobotocore.credentials import AioRefreshableCredentials
    from model_delivery.hooks.aws import refresh_in_threads

    asked: list[int] = []

    def refresh() -> dict[str, str]:
        asked.append(threading.get_ident())
        return {
            "access_key": "AKIAROLE", "secret_key": "s", "token": "t",
            "expiry_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        }  # fmt: skip

    soon = {**refresh(), "expiry_time": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()}
    credentials = AioRefreshableCredentials.create_from_metadata(
        metadata=soon, refresh_using=refresh, method="sts-assume-role"
    )
    refresh_in_threads(SimpleNamespace(_credentials=credentials))
    frozen = await credentials.get_frozen_credentials()
    assert frozen.access_key == "AKIAROLE"
    assert asked[0] == threading.get_ident() != asked[-1]


async def test_one_job_whose_description_stalls_holds_up_no_other(
    service: CompilationService, waits: Waiting
) -> None:
    jobs = names(12)
    service.add(*jobs, "stalled")
    waits.add(*jobs)
    await looks(service, 2)
    service.job_faults["stalled"] = Fault(stall=SOON)
    waits.add("stalled")
    await until(lambda: service.asked["DescribeCompilationJob"] > 0)
    await asyncio.sleep(0.3)
    service.end(*jobs)
    async with asyncio.timeout(5):
        for name in jobs:
            assert await waits.result(name) == "COMPLETED"
    assert waits.waiting() == {"stalled"}
