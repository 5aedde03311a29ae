"""Images over an object store that takes its time, or says nothing at all."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from model_delivery_localcloud.errors import ObjectError
from model_delivery_localcloud.objects import ObjectInfo, ObjectStore
from model_delivery_localcloud.portal import media
from model_delivery_localcloud.portal.grants import Grants
from model_delivery_localcloud.portal.media import Media
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


class HangingStore:
    """Says nothing until it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.back = threading.Event()

    def describe(self, uri: str) -> ObjectInfo:
        self.asked += 1
        self.back.wait(30)
        raise ObjectError(f"{uri}: it was away")


class AnyGrant:
    """Every token names its object."""

    def read_media(self, token: str) -> str:
        return f"s3://bucket/{token}"


async def page(_request: Request) -> Response:
    return PlainTextResponse(await run_in_threadpool(lambda: "a page"))


@pytest.fixture
def store() -> Iterator[HangingStore]:
    hanging = HangingStore()
    yield hanging
    hanging.back.set()


async def test_a_store_that_hangs_keeps_images_and_nothing_else(
    store: HangingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "WAIT_SECONDS", 1.0, raising=False)
    images = Media(cast(ObjectStore, store), cast(Grants, AnyGrant()))
    app = Starlette(routes=[Route("/media/{token}", images.show), Route("/page", page)])
    transport: Any = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://portal") as client:
        waiting = [asyncio.create_task(client.get(f"/media/{number}")) for number in range(60)]
        await asyncio.sleep(0.3)
        began = time.monotonic()
        answer = await asyncio.wait_for(client.get("/page"), 5)
        assert answer.text == "a page"
        assert time.monotonic() - began < 0.5
        told = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in told} == {503}
    assert store.asked <= 8
