"""The shared poll of a device's deployments: a snapshot of what is in effect there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from model_delivery.jobs import rate
from model_delivery.jobs.registry import PollRegistry, registry
from model_delivery.jobs.trigger import JobTrigger
from model_delivery.jobs.waits import Bounds

from tests.deployment_service import THING, DeploymentService

SERVICE = "model_delivery.hooks.edge.Deployments"
SETTINGS = {
    "aws_conn_id": "aws_poll", "region_name": None, "verify": None, "botocore_config": None,
}  # fmt: skip
LOOK = 0.03
SOON = 10.0


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeploymentService]:
    built = DeploymentService()
    runner = await built.start()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_POLL", json.dumps(built.airflow_connection()))
    yield built
    await runner.cleanup()


@asynccontextmanager
async def waiting(identifier: str) -> AsyncIterator["asyncio.Task[str]"]:
    registry = PollRegistry()
    handle = {"name": identifier, "id": identifier, "thing": THING}
    wait = registry.wait(SERVICE, SETTINGS, handle, Bounds(LOOK, LOOK, 5))
    task = asyncio.create_task(wait)
    yield task
    task.cancel()
    await asyncio.wait([task])
    while registry.open_clients:
        await asyncio.sleep(0.01)


async def looks(service: DeploymentService, count: int) -> None:
    target = service.asked["ListEffectiveDeployments"] + count
    async with asyncio.timeout(SOON):
        while service.asked["ListEffectiveDeployments"] < target:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("outcome", ["SUCCEEDED", "FAILED", "REJECTED"])
async def test_the_device_says_how_it_ended(service: DeploymentService, outcome: str) -> None:
    service.statuses["ours"] = "ACTIVE"
    service.device["older"] = "SUCCEEDED"
    async with waiting("ours") as task:
        await looks(service, 3)
        service.device["ours"] = "IN_PROGRESS"
        await looks(service, 3)
        assert not task.done()
        service.device["ours"] = outcome
        assert await asyncio.wait_for(task, SOON) == outcome


@pytest.mark.parametrize("status", ["CANCELED", "INACTIVE"])
async def test_the_end_that_the_device_does_not_know_of(
    service: DeploymentService, status: str
) -> None:
    service.statuses["ours"] = "ACTIVE"
    async with waiting("ours") as task:
        await looks(service, 3)
        service.statuses["ours"] = status
        assert await asyncio.wait_for(task, SOON) == status


async def test_a_look_is_one_request(service: DeploymentService) -> None:
    service.statuses["ours"] = "ACTIVE"
    async with waiting("ours"):
        await looks(service, 40)
    assert service.asked["GetDeployment"] < 20


async def test_a_device_that_has_not_reported_yet_is_waited_for(service: DeploymentService) -> None:
    service.statuses["ours"] = "ACTIVE"
    service.is_known = False
    async with waiting("ours") as task:
        await looks(service, 6)
        assert not task.done()
        service.is_known = True
        service.device["ours"] = "SUCCEEDED"
        assert await asyncio.wait_for(task, SOON) == "SUCCEEDED"


async def test_what_is_in_effect_may_stand_on_any_page(service: DeploymentService) -> None:
    service.statuses["ours"] = "ACTIVE"
    service.device.update({f"older-{number}": "SUCCEEDED" for number in range(260)})
    service.device["ours"] = "SUCCEEDED"
    async with waiting("ours") as task:
        assert await asyncio.wait_for(task, SOON) == "SUCCEEDED"


@pytest.mark.parametrize(
    ("states", "throttled"),
    [(["running", "success"], 0), (["running", "failed"], 2), (["success"], 1)],
)
@pytest.mark.parametrize(("reached", "cancelled"), [("SUCCEEDED", []), ("IN_PROGRESS", ["ours"])])
async def test_a_kill_cancels_no_deployment_that_a_try_saw_to_its_end(
    service: DeploymentService, task_instance: Any, monkeypatch: pytest.MonkeyPatch,
    states: list[str], throttled: int, reached: str, cancelled: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    service.statuses["ours"], service.device["ours"] = "ACTIVE", reached
    service.throttled = throttled
    handle = {"name": "ours", "id": "ours", "thing": THING}
    trigger = JobTrigger(service=SERVICE, handle=handle, poll_interval=LOOK, **SETTINGS)
    ti, left = task_instance(), iter(states)
    del ti.task  # a trigger's has none
    ti.get_task_states = lambda **_filters: {ti.run_id: {ti.task_id: next(left)}}
    trigger.task_instance = ti
    await trigger.on_kill()
    assert service.cancelled == cancelled
    while registry().open_clients:
        await asyncio.sleep(0.01)
