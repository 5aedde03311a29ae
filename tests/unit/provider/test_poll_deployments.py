"""The shared poll of a device's deployments: a snapshot of what is in effect there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from model_delivery.jobs.registry import PollRegistry
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
