"""The trigger over a real service: its event, its settings, and who stops the job when."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner
from airflow.triggers.base import TriggerEvent
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.hooks.edge import Deployments
from model_delivery.jobs import rate, shared_client
from model_delivery.jobs.registry import PollKey, registry
from model_delivery.jobs.trigger import EVENT_VERSION, JobTrigger

from tests.compilation_service import BROKEN, THROTTLED, CompilationService, Fault

SOON = 10.0
HANDLE = {"name": "job", "arn": "arn:aws:sagemaker:us-east-1:000000000000:compilation-job/job"}
SERVICE = "model_delivery.hooks.compilation.CompilationJobs"


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CompilationService]:
    built = CompilationService()
    runner = await built.start()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(built.airflow_connection()))
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    built.add("job")
    yield built
    while registry().open_clients:
        await asyncio.sleep(0.01)
    await runner.cleanup()


def trigger(**changes: Any) -> JobTrigger:
    settings: dict[str, Any] = {
        "service": SERVICE, "handle": HANDLE, "poll_interval": 0.05, "max_poll_interval": 0.1,
        "outage_timeout": 0.3, "aws_conn_id": "aws_poll", "region_name": None, "verify": None,
        "botocore_config": None,
    }  # fmt: skip
    return JobTrigger(**{**settings, **changes})


async def fired(waiting: JobTrigger) -> dict[str, Any]:
    async def first() -> TriggerEvent:
        events = [event async for event in waiting.run()]
        assert len(events) == 1
        return events[0]

    return dict((await asyncio.wait_for(first(), SOON)).payload)


async def test_the_event_is_a_handle_and_a_status(service: CompilationService) -> None:
    service.end("job")
    expected = {"version": EVENT_VERSION, "handle": HANDLE, "status": "COMPLETED"}
    assert await fired(trigger()) == expected


async def test_an_event_waits_until_the_worker_that_deferred_was_heard(
    service: CompilationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "1")
    service.end("job")
    began = time.monotonic()
    await fired(trigger())
    assert time.monotonic() - began >= 2.0


async def test_what_ends_the_wait_is_in_the_event(service: CompilationService) -> None:
    service.faults["DescribeCompilationJob"] = BROKEN
    event = await fired(trigger())
    assert event.keys() == {"version", "handle", "error", "waited"}
    assert "JobError: SageMaker compilation job job: no usable answer" in event["error"]
    json.dumps(event)


async def test_a_limit_that_is_none_ends_this_wait_alone(service: CompilationService) -> None:
    service.add("other")
    other = asyncio.create_task(fired(trigger(handle={"name": "other"})))
    await wait_until(lambda: service.described["other"] > 0)
    event = await fired(trigger(outage_timeout=None))
    assert "outage_timeout is None: give seconds, over 0" in event["error"]
    service.end("other")
    assert (await other)["status"] == "COMPLETED"


def test_a_trigger_of_an_older_version_gets_the_defaults() -> None:
    _, kept = trigger().serialize()
    for name in ("max_poll_interval", "outage_timeout"):
        del kept[name]
    older = JobTrigger(**kept)
    assert (older.max_poll_interval, older.outage_timeout) == (30.0, 900.0)


def test_every_connection_setting_is_in_the_key() -> None:
    plain = {"aws_conn_id": "a", "region_name": None, "verify": None, "botocore_config": None}
    others = [
        {**plain, "aws_conn_id": "b"}, {**plain, "region_name": "eu-west-1"},
        {**plain, "verify": False}, {**plain, "botocore_config": {"read_timeout": 5}},
    ]  # fmt: skip
    jobs = CompilationJobs()
    keys = {PollKey.of(SERVICE, jobs, each, "", HANDLE) for each in [plain, *others]}
    assert len(keys | {PollKey.of(SERVICE, jobs, plain, "edited", HANDLE)}) == 6


def test_deployments_to_a_device_share_a_poll() -> None:
    path = "model_delivery.hooks.edge.Deployments"
    keys = {
        PollKey.of(path, Deployments(), {}, "", {"name": "d", "id": identifier, "thing": thing})
        for identifier, thing in [("1", "edge-1"), ("2", "edge-1"), ("3", "edge-2")]
    }
    assert len(keys) == 2


async def test_cleanup_and_cancellation_stop_nothing(service: CompilationService) -> None:
    waiting = trigger()
    task = asyncio.create_task(fired(waiting))
    await asyncio.sleep(0.5)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await waiting.cleanup()
    assert service.stopped.total() == 0


async def test_a_kill_stops_the_job_once_and_says_so(
    service: CompilationService, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = trigger()
    await waiting.on_kill()
    await waiting.on_kill()
    assert service.stopped == {"job": 1}
    assert "Asked to stop compilation job " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "stops"),
    [
        (["deferred"], 0), ([None], 1), (["queued"], 1), (["failed"], 1), (["success"], 1),
        # A try that another triggerer resumed, or the next after a clear: once it waits, the one
        # looks after its job, and the other has stopped that of before.
        (["running", "running", "deferred"], 0), (["running", "up_for_retry", "deferred"], 0),
        (["running", None, "queued", "running", "deferred"], 0),
        # A next try that ended before it came to that.
        (["running", "failed"], 1), (["running", "up_for_retry", "running", "failed"], 1),
        # Airflow did not tell in between.
        (["running", TimeoutError(), "deferred"], 0), ([TimeoutError()], 1),
    ],
)  # fmt: skip
async def test_a_kill_stops_no_job_that_is_waited_for_elsewhere(
    service: CompilationService, task_instance: Any, states: list[Any], stops: int
) -> None:
    waiting, ti, left = trigger(), task_instance(), iter(states)
    del ti.task  # a trigger's has none

    def told(**_filters: Any) -> Any:
        if isinstance(state := next(left), Exception):
            raise state
        return {ti.run_id: {ti.task_id: state}}

    ti.get_task_states = told
    waiting.task_instance = ti
    await waiting.on_kill()
    assert service.stopped.total() == stops
    assert not list(left)


async def test_a_kill_stops_no_job_that_a_resumed_try_saw_to_its_end(
    service: CompilationService, task_instance: Any
) -> None:
    waiting, ti, left = trigger(), task_instance(), iter(["running", "success"])
    del ti.task  # a trigger's has none
    ti.get_task_states = lambda **_filters: {ti.run_id: {ti.task_id: next(left)}}
    waiting.task_instance = ti
    service.end("job")
    await waiting.on_kill()
    assert service.asked["StopCompilationJob"] == 0


async def test_a_triggerer_that_ends_while_it_asks_on_says_so(
    service: CompilationService, task_instance: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting, ti = trigger(), task_instance()
    del ti.task  # a trigger's has none
    ti.get_task_states = lambda **_filters: {ti.run_id: {ti.task_id: "running"}}
    waiting.task_instance = ti
    kill = asyncio.create_task(waiting.on_kill())
    await wait_until(lambda: waiting._stopping is not None)
    await asyncio.sleep(0.1)
    assert waiting._stopping is not None
    waiting._stopping.cancel()
    with suppress(asyncio.CancelledError):
        await kill
    assert "may still be running: the triggerer ends" in capsys.readouterr().out


@pytest.mark.parametrize("fault", [THROTTLED, BROKEN, Fault(reset=True)])
async def test_a_kill_is_repeated_until_it_is_heard(
    service: CompilationService, fault: Fault
) -> None:
    service.next_faults.extend([fault] * 3)
    await trigger().on_kill()
    assert service.stopped == {"job": 1}


async def test_a_kill_outlasts_a_call_that_stalls(
    service: CompilationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery.jobs.trigger.STOP_CALL_SECONDS", 0.5)
    service.next_faults.append(Fault(reset=True, stall=45))
    await asyncio.wait_for(trigger().on_kill(), SOON)
    assert service.stopped == {"job": 1}


async def test_a_kill_looks_a_replaced_key_up_again(service: CompilationService) -> None:
    service.next_faults.append(Fault(400, "ExpiredTokenException"))
    await trigger().on_kill()
    assert service.stopped == {"job": 1}


async def test_a_kill_of_a_job_that_ended_is_no_failure(
    service: CompilationService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.end("job")
    service.faults["StopCompilationJob"] = Fault(400, "ValidationException")
    await trigger().on_kill()
    assert "job had ended before" in capsys.readouterr().out


async def test_a_kill_does_not_believe_one_host_that_the_job_is_not_there(
    service: CompilationService,
) -> None:
    service.next_faults.extend([Fault(400, "ResourceNotFound")] * 2)
    await trigger().on_kill()
    assert service.stopped == {"job": 1}


async def test_a_kill_of_a_job_that_is_not_there_says_so(
    service: CompilationService, capsys: pytest.CaptureFixture[str]
) -> None:
    await trigger(handle={"name": "elsewhere"}).on_kill()
    told = capsys.readouterr().out
    assert "compilation job elsewhere was not stopped" in told
    assert "the connection leads to another account or region" in told


async def test_a_job_made_after_an_edit_of_the_connection_is_looked_for_where_it_leads_now(
    service: CompilationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = asyncio.create_task(fired(trigger()))
    await wait_until(lambda: service.described["job"] > 0)
    moved = CompilationService()
    runner = await moved.start()
    moved.add("new", "killed")
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(moved.airflow_connection()))
    after = asyncio.create_task(fired(trigger(handle={"name": "new"})))
    await wait_until(lambda: moved.described["new"] > 0)
    await trigger(handle={"name": "killed"}).on_kill()
    assert moved.stopped == {"killed": 1}
    moved.end("new")
    assert (await after)["status"] == "COMPLETED"
    service.end("job")
    assert (await before)["status"] == "COMPLETED"
    await runner.cleanup()


async def wait_until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_kill_whose_answer_is_lost_is_not_repeated(service: CompilationService) -> None:
    service.next_faults.append(Fault(reset=True, heard=True))
    await trigger().on_kill()
    assert service.stopped == {"job": 1}


async def test_a_kill_that_is_refused_says_why(
    service: CompilationService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.faults["StopCompilationJob"] = Fault(400, "ValidationException")
    await trigger().on_kill()
    assert "job may still be running: ClientError" in capsys.readouterr().out


async def test_a_kill_of_a_task_that_only_looks_stops_nothing(service: CompilationService) -> None:
    await trigger(owned=False).on_kill()
    assert service.stopped.total() == 0


async def test_a_kill_outlasts_that_airflow_cancels_it_at_every_sync(
    service: CompilationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.2)
    service.next_faults.extend([BROKEN] * 3)
    killed = trigger()

    async def run_trigger() -> None:
        """Do what a triggerer does with a trigger whose task a user ended."""
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(killed.on_kill(), SOON)
        finally:
            await killed.cleanup()

    task = asyncio.create_task(run_trigger())
    while not task.done():
        await asyncio.sleep(0.02)
        task.cancel()
    assert service.stopped == {"job": 1}


async def test_many_kills_share_one_client(service: CompilationService) -> None:
    names = [f"job-{number}" for number in range(50)]
    service.add(*names)
    opened: set[int] = set()

    async def kill(name: str) -> None:
        await trigger(handle={"name": name}).on_kill()

    async def watch() -> None:
        while True:
            opened.add(registry().open_clients)
            await asyncio.sleep(0)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*map(kill, names))
    watcher.cancel()
    assert max(opened) == 1
    assert service.stopped == dict.fromkeys(names, 1)


class Supervisor:
    """What answers a trigger's questions about task states."""

    def __init__(self, state: str | None) -> None:
        self.state = state

    def send(self, question: Any) -> Any:
        assert (question.task_ids, question.run_ids) == (["compile"], ["run"])
        return SimpleNamespace(task_states={"run": {"compile_3": self.state}})


@pytest.mark.parametrize(
    ("state", "stops"), [("failed", 1), ("success", 1), (None, 1), ("deferred", 0)]
)
async def test_a_task_that_another_triggerer_took_over_keeps_its_job(
    service: CompilationService,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    stops: int,
) -> None:
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(state), raising=False)
    waiting = trigger()
    facts = {"dag_id": "dag", "task_id": "compile", "run_id": "run", "map_index": 3}
    waiting.task_instance = SimpleNamespace(**facts)
    await waiting.on_kill()
    assert service.stopped.total() == stops


async def test_throttled_kills_wait_their_turn_and_keep_the_client(
    service: CompilationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"job-{number}" for number in range(30)]
    service.add(*names)
    service.next_faults.extend([THROTTLED] * 5)
    opened: list[str] = []
    built = shared_client._opened

    async def counted(hook_path: str, settings: dict[str, Any]) -> Any:
        opened.append(hook_path)
        return await built(hook_path, settings)

    monkeypatch.setattr(shared_client, "_opened", counted)
    triggers = [trigger(handle={"name": name}) for name in names]
    await asyncio.gather(*(each.on_kill() for each in triggers))
    assert service.stopped == dict.fromkeys(names, 1)
    assert len(opened) == 1


async def test_a_stop_outlives_the_time_that_airflow_gives(
    service: CompilationService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__TRIGGERER__ON_KILL_TIMEOUT", "1")
    service.faults["StopCompilationJob"] = BROKEN
    waiting = trigger()
    killed = asyncio.create_task(waiting.on_kill())
    await asyncio.sleep(0.2)
    killed.cancel()
    await asyncio.wait_for(waiting.cleanup(), SOON)
    assert "Not stopped within 1 s: asking on" in capsys.readouterr().out
    del waiting, service.faults["StopCompilationJob"]
    async with asyncio.timeout(SOON):
        while not service.stopped:
            await asyncio.sleep(0.01)
    assert service.stopped == {"job": 1}
