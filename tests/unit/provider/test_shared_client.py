"""When a triggerer opens a new client, and when the one it has is not to blame."""

import asyncio
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from model_delivery.jobs import shared_client
from model_delivery.jobs.shared_client import OpenClient, SharedClients

AWAY = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "DescribeCompilationJob")


class Client:
    async def __aexit__(self, *_exc: object) -> None:
        pass


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    made: list[Client] = []

    async def open_client(_hook_path: str, _settings: dict[str, Any]) -> OpenClient:
        made.append(Client())
        return OpenClient(made[-1], "account")

    monkeypatch.setattr(shared_client, "_opened", open_client)
    return made


async def fail(clients: SharedClients, error: Exception) -> None:
    with pytest.raises(type(error)):
        async with clients.lease("hook", "settings", {}):
            raise error


@pytest.mark.parametrize(
    ("error", "count"),
    [(AWAY, 1), (refused("ThrottlingException"), 1), (refused("ExpiredTokenException"), 21)],
)  # fmt: skip
async def test_groups_that_meet_an_outage_one_by_one_keep_their_client(
    opened: list[Client], error: Exception, count: int
) -> None:
    clients = SharedClients()
    async with clients.lease("hook", "settings", {}):
        for _ in range(20):
            await fail(clients, error)
        async with clients.lease("hook", "settings", {}):
            assert len(opened) == count


async def test_an_old_client_is_replaced(
    opened: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_client, "YOUNG_SECONDS", 0.05)
    clients = SharedClients()
    async with clients.lease("hook", "settings", {}):
        await asyncio.sleep(0.1)
        await fail(clients, AWAY)
        await fail(clients, AWAY)
    assert len(opened) == 2
