"""The shared poll of a triggerer, over a service that lives in this process."""

import asyncio
import contextlib
import sys
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from model_delivery.exceptions import JobError
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.jobs import registry as registry_module
from model_delivery.jobs.registry import PollKey, PollRegistry
from model_delivery.jobs.status import JobState

SETTINGS = {
    "aws_conn_id": "aws_default", "region_name": None, "verify": None, "botocore_config": None,
}  # fmt: skip
SOON = 5.0


class Service:
    """SageMaker's side: statuses by job, and how it was asked."""

    def __init__(self) -> None:
        self.statuses: dict[str, str] = {}
        self.described: Counter[str] = Counter()
        self.opened = self.closed = 0
        self.errors: list[Exception] = []

    async def describe_compilation_job(self, CompilationJobName: str) -> dict[str, str]:
        await asyncio.sleep(0)
        self.described[CompilationJobName] += 1
        if self.errors:
            raise self.errors.pop(0)
        return {
            "CompilationJobName": CompilationJobName,
            "CompilationJobArn": f"arn:{CompilationJobName}",
            "CompilationJobStatus": self.statuses[CompilationJobName],
        }

    @contextlib.asynccontextmanager
    async def client(self) -> Any:
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def key(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[PollKey]:
    """Return the key of compilation jobs whose hook opens a client of the service above."""

    class Hook:
        def __init__(self, **settings: Any) -> None:
            self.settings = settings

        async def get_async_conn(self) -> Any:
            return service.client()

    class Jobs(CompilationJobs):
        hook_path = "poll_test_service.Hook"

    module = types.ModuleType("poll_test_service")
    module.Hook, module.Jobs = Hook, Jobs
    monkeypatch.setitem(sys.modules, "poll_test_service", module)
    monkeypatch.setattr(registry_module, "_backoff", lambda failures: 0.01)
    return PollKey.of("poll_test_service.Jobs", SETTINGS)


def failure(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "by the test"}}, "Describe")


async def until(true: Any) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.005)


def waiting(registry: PollRegistry, key: PollKey, name: str, interval: float = 0.02) -> Any:
    return asyncio.create_task(registry.wait(key, {"name": name}, interval))


async def ended(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_waits_share_one_client_and_one_poll(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "INPROGRESS", "b": "INPROGRESS"}
    registry = PollRegistry()
    tasks = [waiting(registry, key, name) for name in "ab"]
    await until(lambda: min(service.described["a"], service.described["b"]) >= 3)
    assert service.opened == 1
    assert abs(service.described["a"] - service.described["b"]) <= 1
    await ended(*tasks)


async def test_only_what_ended_is_woken(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "INPROGRESS", "b": "INPROGRESS"}
    registry = PollRegistry()
    first, second = (waiting(registry, key, name) for name in "ab")
    await until(lambda: service.described["b"] >= 1)
    service.statuses["a"] = "COMPLETED"
    description = await asyncio.wait_for(first, SOON)
    assert (description.state, description.handle["name"]) == (JobState.SUCCEEDED, "a")
    seen = service.described["a"], service.described["b"]
    await until(lambda: service.described["b"] >= seen[1] + 3)
    assert service.described["a"] == seen[0]
    assert not second.done()
    await ended(second)


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "STOPPED"])
async def test_every_end_wakes(service: Service, key: PollKey, status: str) -> None:
    service.statuses = {"a": status}
    description = await asyncio.wait_for(PollRegistry().wait(key, {"name": "a"}, 60), SOON)
    assert description.status == status


async def test_a_newcomer_is_described_at_once(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "INPROGRESS", "b": "COMPLETED"}
    registry = PollRegistry()
    first = waiting(registry, key, "a", interval=600)
    await until(lambda: service.described["a"] == 1)
    description = await asyncio.wait_for(registry.wait(key, {"name": "b"}, 600), SOON)
    assert description.state is JobState.SUCCEEDED
    await ended(first)


async def test_the_last_to_leave_closes_the_client(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "INPROGRESS", "b": "INPROGRESS"}
    registry = PollRegistry()
    first, second = (waiting(registry, key, name) for name in "ab")
    await until(lambda: service.described["b"] >= 1)
    await ended(first)
    assert service.closed == 0
    await ended(second)
    assert (service.opened, service.closed) == (1, 1)
    total = service.described.total()
    await asyncio.sleep(0.1)
    assert service.described.total() == total


async def test_a_wait_after_the_last_left_opens_anew(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "COMPLETED"}
    registry = PollRegistry()
    for _ in range(2):
        await asyncio.wait_for(registry.wait(key, {"name": "a"}, 60), SOON)
    assert (service.opened, service.closed) == (2, 2)


async def test_waits_over_other_connections_are_apart(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "INPROGRESS", "b": "INPROGRESS"}
    other = PollKey.of(key.service, {**SETTINGS, "region_name": "eu-west-1"})
    registry = PollRegistry()
    tasks = [waiting(registry, key, "a"), waiting(registry, other, "b")]
    await until(lambda: service.opened == 2)
    await ended(*tasks)


async def test_a_passing_fault_is_asked_again(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "COMPLETED"}
    service.errors = [failure("ThrottlingException"), ConnectionError("reset"), TimeoutError()]
    description = await asyncio.wait_for(PollRegistry().wait(key, {"name": "a"}, 60), SOON)
    assert description.state is JobState.SUCCEEDED
    assert service.described["a"] == 4


async def test_a_service_that_never_answers_fails_the_wait(service: Service, key: PollKey) -> None:
    service.errors = [ConnectionError("reset")] * 1000
    with pytest.raises(JobError, match=r"compilation job a: reset"):
        await asyncio.wait_for(PollRegistry().wait(key, {"name": "a"}, 60), SOON)
    assert service.described["a"] == registry_module.MAX_FAILURES


async def test_a_hopeless_fault_fails_every_wait_at_once(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "INPROGRESS", "b": "INPROGRESS"}
    registry = PollRegistry()
    tasks = [waiting(registry, key, name) for name in "ab"]
    await until(lambda: service.described["b"] >= 1)
    service.errors = [failure("AccessDeniedException")]
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SOON)
    assert [type(each) for each in results] == [JobError, JobError]
    assert ["job a" in str(results[0]), "job b" in str(results[1])] == [True, True]
    assert "AccessDeniedException" in str(results[0])
    await until(lambda: service.closed == service.opened)


async def test_an_unknown_status_is_reported_not_waited_on(service: Service, key: PollKey) -> None:
    service.statuses = {"a": "MELTED"}
    with pytest.raises(JobError, match="MELTED"):
        await asyncio.wait_for(PollRegistry().wait(key, {"name": "a"}, 60), SOON)
