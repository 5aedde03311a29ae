"""One open client of a service for everything in a triggerer that needs it.

Building an aiobotocore client reads botocore's models, 4 to 200 ms of an event loop that thousands
of triggers share, so it is done once for a hook and its settings, in a thread.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async

from model_delivery.aws import open_hook, service_client
from model_delivery.jobs.collector import spare
from model_delivery.jobs.faults import is_credential_fault, is_throttling

# A service that is away fails every group that waits for it, each at a time of its own: a client
# that is no older than this is not to blame, in seconds.
YOUNG_SECONDS = 30.0


class OpenClient(NamedTuple):
    """An open client.

    :param account: what tells whose rate its requests count against: the connection's role or key.
    """

    client: Any
    account: str


@dataclass
class _Shared:
    """A client, or its opening, since when (by the loop's clock), and how many use it."""

    opening: "asyncio.Task[OpenClient]"
    since: float
    users: int = 0

    def is_suspect(self, error: Exception) -> bool:
        """Tell whether a new client might do better, for what the connection says then."""
        if is_throttling(error):
            return False
        young = asyncio.get_running_loop().time() - self.since < YOUNG_SECONDS
        return not self.is_open or is_credential_fault(error) or not young

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        done = self.opening.done() and not self.opening.cancelled()
        return done and self.opening.exception() is None


@dataclass
class SharedClients:
    """The clients of one event loop; each is closed when its last user leaves."""

    _open: dict[tuple[str, str], _Shared] = field(default_factory=dict)

    @property
    def open_count(self) -> int:
        """How many clients are open."""
        return len(self._open)

    @asynccontextmanager
    async def lease(
        self, hook_path: str, settings_key: str, settings: dict[str, Any]
    ) -> AsyncIterator[OpenClient]:
        """Give the client of a hook over a connection.

        :param settings_key: identifies the settings.
        :raises Exception: whatever the look-up of the connection or the client raised.
        """
        key = (hook_path, settings_key)
        shared = self._open.get(key)
        if shared is None:
            opening = asyncio.create_task(_opened(hook_path, settings))
            shared = _Shared(opening, asyncio.get_running_loop().time())
            self._open[key] = shared
        shared.users += 1
        try:
            # Shielded: one user that leaves must not take the client from the others.
            yield await asyncio.shield(shared.opening)
        except Exception as error:
            # The next user opens anew.
            if self._open.get(key) is shared and shared.is_suspect(error):
                del self._open[key]
            raise
        finally:
            shared.users -= 1
            if not shared.users:
                if self._open.get(key) is shared:
                    del self._open[key]
                await _close(shared)


async def _close(shared: _Shared) -> None:
    # Waited for, not cancelled: a client on its way would be left half made.
    await asyncio.wait([shared.opening])
    if shared.is_open:
        await shared.opening.result().client.__aexit__(None, None, None)


async def _opened(hook_path: str, settings: dict[str, Any]) -> OpenClient:
    hook = await asyncio.to_thread(open_hook, hook_path, settings)
    connection = str(settings["aws_conn_id"])
    if not hasattr(hook, "get_client_type"):  # no AwsBaseHook: its own client is as good
        client = await (await hook.get_async_conn()).__aenter__()
        return OpenClient(client, connection)
    # As AwsBaseHook.get_async_conn does: the connection's look-up waits in a thread.
    context = await sync_to_async(service_client)(hook, deferrable=True)
    client = await asyncio.to_thread(asyncio.run, _built(context))
    spare(hook_path)
    config = hook.conn_config
    account = config.role_arn or config.aws_access_key_id or connection
    return OpenClient(await client.__aenter__(), account)


async def _built(context: Any) -> Any:
    """Build the client in a thread's own loop; closed there, it is opened again where it is used.

    A client holds no connection until it is used, so nothing of this loop stays in it.
    """
    async with context as client:
        return client
