"""Long polls that cost one query a quarter second for all waiting devices together.

The generations are read from the database and not passed in memory, so that a deployment made
through another server process wakes a device here too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import Device

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
KEYS_A_QUERY = 250

DeviceKey = tuple[str, str, str]
ReadGenerations = Callable[[Collection[DeviceKey]], Mapping[DeviceKey, int]]


@dataclass(frozen=True, eq=False)
class _Waiter:
    key: DeviceKey
    after: int
    woken: "asyncio.Future[None]"


class DesiredBoard:
    """Wakes waiters when their device's generation exceeds the one they know."""

    def __init__(self, read_generations: ReadGenerations) -> None:
        self._read = read_generations
        self._waiters: set[_Waiter] = set()
        self._poller: asyncio.Task[None] | None = None

    async def wait(self, key: DeviceKey, after: int, seconds: float) -> None:
        """Return when the device's generation exceeds `after`, or after `seconds`."""
        waiter = _Waiter(key, after, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiter.woken, seconds)
        finally:
            self._waiters.discard(waiter)

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(POLL_SECONDS)
            try:
                found = await run_in_threadpool(self._read, {one.key for one in self._waiters})
            except SQLAlchemyError as error:
                # The devices ask again by themselves; a database that is away is no reason to end.
                log.warning("waiting devices: the database does not answer: %s", error)
                continue
            for waiter in self._waiters:
                if found.get(waiter.key, 0) > waiter.after and not waiter.woken.done():
                    waiter.woken.set_result(None)


def generations_reader(database: Database) -> ReadGenerations:
    """Return the query for many devices' generations."""
    columns = tuple_(Device.account, Device.region, Device.thing)

    def read(keys: Collection[DeviceKey]) -> Mapping[DeviceKey, int]:
        ordered = sorted(keys)
        found: dict[DeviceKey, int] = {}
        with database.read() as session:
            for start in range(0, len(ordered), KEYS_A_QUERY):
                part = ordered[start : start + KEYS_A_QUERY]
                query = select(Device.account, Device.region, Device.thing, Device.generation)
                for account, region, thing, generation in session.execute(
                    query.where(columns.in_(part))
                ):
                    found[account, region, thing] = generation
        return found

    return read
