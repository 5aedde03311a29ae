"""The waits of a triggerer process: one poll for all jobs that can share one."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from model_delivery.aws import import_string
from model_delivery.jobs.poll import Poll
from model_delivery.jobs.rate import TokenBucket
from model_delivery.jobs.service import Handle, JobService
from model_delivery.jobs.shared_client import SharedClients
from model_delivery.jobs.waits import Bounds


@dataclass(frozen=True)
class PollKey:
    """What jobs must share to share a poll.

    :param service: path of the `JobService`.
    :param settings: the connection, region, verification and botocore configuration, as JSON.
    :param scope: what one read of the service's list is limited to.
    """

    service: str
    settings: str
    scope: str = ""

    @classmethod
    def of(cls, service: str, settings: Mapping[str, Any], handle: Handle) -> "PollKey":
        """Return the key of a job."""
        job_list = import_string(service).job_list
        scope = job_list.scope(handle) if job_list else ""
        return cls(service, json.dumps(settings, sort_keys=True), scope)


class PollRegistry:
    """The waits of one event loop, grouped by key."""

    def __init__(self) -> None:
        self.clients = SharedClients()
        self._polls: dict[PollKey, Poll] = {}
        self._buckets: dict[tuple[str, ...], TokenBucket] = {}

    async def wait(self, key: PollKey, handle: Handle, bounds: Bounds) -> str:
        """Return the job's status once it ended.

        :param bounds: how often to look, and how long the service may be away.
        :raises JobError: naming job, service and cause, when the job is gone, has a status that is
            not in its table or may not be described, or the service was away for too long.
        """
        poll = self._polls.get(key)
        if poll is None:
            poll = self._polls[key] = self._new_poll(key)
        waiter = poll.join(handle, bounds)
        try:
            return await waiter.future
        finally:
            poll.leave(waiter)
            if poll.is_idle and self._polls.get(key) is poll:
                del self._polls[key]
                poll.close()

    def _new_poll(self, key: PollKey) -> Poll:
        service: JobService = import_string(key.service)()
        settings: dict[str, Any] = json.loads(key.settings)

        def bucket(client: Any) -> TokenBucket:
            # A connection's keys belong to one account, whose rate is by region and service.
            account = (str(settings["aws_conn_id"]), client.meta.region_name,
                       client.meta.endpoint_url)  # fmt: skip
            return self._buckets.setdefault(account, TokenBucket())

        def lease() -> Any:
            return self.clients.lease(service.hook_path, key.settings, settings)

        return Poll(service, key.scope, lease, bucket)


_registries: WeakKeyDictionary[asyncio.AbstractEventLoop, PollRegistry] = WeakKeyDictionary()


def registry() -> PollRegistry:
    """Return the registry of the running event loop; a triggerer has one."""
    return _registries.setdefault(asyncio.get_running_loop(), PollRegistry())
