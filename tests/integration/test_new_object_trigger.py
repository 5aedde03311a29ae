"""The watch for new archives, over a real S3 store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from model_delivery.hooks.storage import StorageHook
from model_delivery.triggers.storage import NewObjectTrigger

SOON = 20.0
QUIET = 0.7  # several listings


class AssetStateStore:
    """What Airflow keeps of an asset between two triggerers."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value


class Watch:
    """A running trigger and what it fired."""

    def __init__(self, trigger: NewObjectTrigger) -> None:
        self.trigger = trigger
        self.fired: list[str] = []

    async def run(self) -> None:
        async for event in self.trigger.run():
            self.fired += [upload["uri"] for upload in event.payload["uploads"]]

    async def until_fired(self, count: int) -> None:
        async with asyncio.timeout(SOON):
            while len(self.fired) < count:
                await asyncio.sleep(0.02)
        await asyncio.sleep(QUIET)


@asynccontextmanager
async def watching(
    prefix: str, store: AssetStateStore | None = None, connection: str = "aws_default"
) -> AsyncIterator[Watch]:
    trigger = NewObjectTrigger(
        uri=f"{prefix}/", suffix=".tar.gz", poll_interval=0.1, aws_conn_id=connection
    )
    trigger.asset_state_store = store
    watch = Watch(trigger)
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.sleep(QUIET + 1.0)  # the first listing opens the client
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put(uri: str, data: bytes) -> None:
    await asyncio.to_thread(StorageHook().write_bytes, uri, data)


@pytest.fixture
def prefix(prefixes: dict[str, str]) -> str:
    return prefixes["s3"]


@pytest.mark.parametrize("stored", [True, False], ids=["with state store", "without"])
async def test_each_new_or_changed_archive_fires_once(prefix: str, stored: bool) -> None:
    await put(f"{prefix}/there-before.tar.gz", b"0")
    async with watching(prefix, AssetStateStore() if stored else None) as watch:
        assert watch.fired == []
        await put(f"{prefix}/new.tar.gz", b"1")
        await watch.until_fired(1)
        await put(f"{prefix}/notes.txt", b"not an archive")
        await put(f"{prefix}/new.tar.gz", b"changed")
        await watch.until_fired(2)
        await put(f"{prefix}/there-before.tar.gz", b"changed too")
        await watch.until_fired(3)
    names = [uri.removeprefix(f"{prefix}/") for uri in watch.fired]
    assert names == ["new.tar.gz", "new.tar.gz", "there-before.tar.gz"]


async def test_a_restart_loses_nothing_and_repeats_nothing(prefix: str) -> None:
    store = AssetStateStore()
    await put(f"{prefix}/old.tar.gz", b"0")
    async with watching(prefix, store) as first:
        await put(f"{prefix}/seen.tar.gz", b"1")
        await first.until_fired(1)
    await put(f"{prefix}/while-down.tar.gz", b"2")
    async with watching(prefix, store) as second:
        await second.until_fired(1)
    assert second.fired == [f"{prefix}/while-down.tar.gz"]


async def test_an_empty_prefix_is_a_baseline_too(prefix: str) -> None:
    store = AssetStateStore()
    async with watching(prefix, store) as first:
        assert first.fired == []
    await put(f"{prefix}/first.tar.gz", b"1")
    async with watching(prefix, store) as second:
        await second.until_fired(1)
    assert second.fired == [f"{prefix}/first.tar.gz"]


async def test_a_store_that_is_away_does_not_end_the_watch(prefix: str, s3: Any) -> None:
    store = AssetStateStore()
    async with watching(prefix, store) as first:
        assert first.fired == []
    await put(f"{prefix}/late.tar.gz", b"1")
    async with watching(prefix, store, "aws_dead") as watch:
        assert watch.fired == []
        watch.trigger.aws_conn_id = "aws_default"  # the store is back
        await watch.until_fired(1)
    assert watch.fired == [f"{prefix}/late.tar.gz"]
