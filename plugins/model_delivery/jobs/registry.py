"""The waits of a triggerer process: one poll for all jobs that can share one."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async

from model_delivery.aws import import_string
from model_delivery.jobs.collector import spare
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.poll import Poll
from model_delivery.jobs.rate import TokenBucket
from model_delivery.jobs.service import CalledService, Handle, JobService
from model_delivery.jobs.shared_client import OpenClient, SharedClients
from model_delivery.jobs.waits import Bounds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PollKey:
    """What jobs must share to share a poll.

    :param service: path of the `JobService`.
    :param settings: the connection, region, verification and botocore configuration, as JSON.
    :param generation: what the connection says, as `PollRegistry.generation` returns it: a job that
        is made after an edit of the connection may lie elsewhere than those before it.
    :param scope: what one read of the service's list is limited to.
    """

    service: str
    settings: str
    generation: str = ""
    scope: str = ""

    @classmethod
    def of(
        cls,
        path: str,
        service: JobService,
        settings: Mapping[str, Any],
        generation: str,
        handle: Handle,
    ) -> "PollKey":
        """Return the key of a job."""
        scope = service.job_list.scope(handle) if service.job_list else ""
        return cls(path, settings_key(settings), generation, scope)


class SharedPoll(Protocol):
    """What the registry needs to know of a poll."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits."""

    @property
    def is_over(self) -> bool:
        """Whether it ended, and follows nothing any more."""

    def close(self) -> None:
        """End it."""


AnyPoll = TypeVar("AnyPoll", bound=SharedPoll)


# Triggers that start within this time share one look-up of their connection.
LOOK_UP_SECONDS = 0.1
# Airflow starts all triggers that it was given in one turn of the loop. To join a poll takes some
# 40 microseconds: ten thousand at once would keep the loop from all else for 0.4 s.
TURN_SECONDS = 0.0001
# The objects of so many waits take a garbage collection some 20 ms to walk over.
SPARED_WAITS = 500


class PollRegistry:
    """The waits of one event loop, grouped by key."""

    def __init__(self) -> None:
        self._clients = SharedClients()
        self._services: dict[str, asyncio.Task[JobService]] = {}
        self._polls: dict[PollKey, SharedPoll] = {}
        self._buckets: dict[tuple[str, ...], TokenBucket] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._look_ups: dict[str, asyncio.Task[str]] = {}
        self._last_turn = 0.0
        self._waits = 0

    @property
    def open_clients(self) -> int:
        """How many clients are open."""
        return self._clients.open_count

    async def turn(self) -> None:
        """Wait until it is this trigger's turn to begin."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._last_turn = max(self._last_turn + TURN_SECONDS, now)
        if self._last_turn > now:
            await asyncio.sleep(self._last_turn - now)

    async def service(self, path: str) -> JobService:
        """Return a service by its path; its first import, of boto3 and more, is in a thread."""
        task = self._services.get(path)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(lambda: import_string(path)()))
            self._services[path] = task
        try:
            return await asyncio.shield(task) if not task.done() else task.result()
        except Exception:
            self._services.pop(path, None)
            raise

    async def generation(self, connection: str | None) -> str:
        """Return a digest of what a connection says now; triggers of one moment look it up once."""
        if connection is None:
            return ""
        look_up = self._look_ups.get(connection)
        if look_up is None:
            look_up = asyncio.create_task(self._look_up(connection))
            self._look_ups[connection] = look_up
        return await asyncio.shield(look_up)

    async def _look_up(self, connection: str) -> str:
        await asyncio.sleep(LOOK_UP_SECONDS)
        del self._look_ups[connection]
        try:
            return await sync_to_async(_digest)(connection)
        except Exception as error:  # whoever opens the client tells what is wrong
            log.debug("Connection %s cannot be looked up: %s", connection, error)
            return ""

    @asynccontextmanager
    async def client(
        self, service: CalledService, settings: Mapping[str, Any], generation: str | None = None
    ) -> AsyncIterator[PacedClient]:
        """Lease the open client of a service over a connection, which polls share.

        :param generation: of the connection; as it is now by default.
        """
        if generation is None:
            generation = await self.generation(settings["aws_conn_id"])
        text = f"{settings_key(settings)} {generation}"
        async with self._clients.lease(service.hook_path, text, dict(settings)) as opened:
            yield PacedClient(service, opened.client, self._bucket(service, opened))

    def _bucket(self, service: CalledService, opened: OpenClient) -> TokenBucket:
        # An account's rate is by region and service.
        meta = getattr(opened.client, "meta", None)  # of another client than botocore's: nothing
        place = getattr(meta, "region_name", None), getattr(meta, "endpoint_url", None)
        key = (opened.account, service.hook_path, *map(str, place))
        if key not in self._buckets:
            self._buckets[key] = TokenBucket()
        return self._buckets[key]

    def in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run what outlives the trigger that asked for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def wait(
        self,
        path: str,
        settings: Mapping[str, Any],
        handle: Handle,
        bounds: Bounds,
        *,
        doubted: bool = False,
        generation: str | None = None,
    ) -> str:
        """Return the job's status once it ended.

        :param path: path of the `JobService`.
        :param settings: the four parameters of the connection.
        :param bounds: how often to look, and how long the service may be away.
        :param generation: of the connection; as it is now by default.
        :param doubted: the list told of this job's end, and its description did not.
        :raises JobError: naming job, service and cause, when the job is gone, has a status that is
            not in its table or may not be described, or the service was away for too long.
        """
        service = await self.service(path)
        if generation is None:
            generation = await self.generation(settings["aws_conn_id"])
        key = PollKey.of(path, service, settings, generation, handle)

        def make() -> Poll:
            return Poll(service, key.scope, lambda: self.client(service, settings, generation))

        with self.poll(key, make) as poll:
            waiter = poll.join(handle, bounds, doubted=doubted)
            try:
                return await waiter.future
            finally:
                poll.leave(waiter)

    @contextmanager
    def poll(self, key: PollKey, make: Callable[[], AnyPoll]) -> Iterator[AnyPoll]:
        """Lend the poll of a key, made when there is none that goes on; the last to leave ends it.

        :param make: makes a poll; those of one key are of one kind.
        """
        poll = cast("AnyPoll | None", self._polls.get(key))
        if poll is None or poll.is_over:
            poll = self._polls[key] = make()
        spare(f"{self._waits // SPARED_WAITS * SPARED_WAITS} waits")
        self._waits += 1
        try:
            yield poll
        finally:
            self._waits -= 1
            if poll.is_idle and self._polls.get(key) is poll:
                del self._polls[key]
                poll.close()


# Once made: an encoder for each of thousands of triggers would take most of their time.
settings_key = json.JSONEncoder(sort_keys=True).encode


def _digest(connection: str) -> str:
    from airflow.sdk import BaseHook

    found = BaseHook.get_connection(connection)
    told = found.conn_type, found.host, found.port, found.login, found.password, found.extra
    return sha256(json.dumps(told, default=str).encode()).hexdigest()


_registries: WeakKeyDictionary[asyncio.AbstractEventLoop, PollRegistry] = WeakKeyDictionary()


def registry() -> PollRegistry:
    """Return the registry of the running event loop; a triggerer has one."""
    loop = asyncio.get_running_loop()
    found = _registries.get(loop)
    if found is None:
        found = _registries[loop] = PollRegistry()
        spare("the triggerer")
    return found
