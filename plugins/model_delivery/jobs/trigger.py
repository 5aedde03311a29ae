"""The trigger of every external job: a row in the poll registry, and a stop when killed."""

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from model_delivery.aws import import_string, open_hook
from model_delivery.jobs.registry import PollKey, registry
from model_delivery.jobs.service import Handle, JobService

EVENT_VERSION = 1


class JobTrigger(BaseTrigger):
    """Fires once when the job ended, however many jobs wait: they share one poll.

    :param service: path of the job's `JobService`.
    :param handle: the job.
    :param poll_interval: time between two looks, in seconds.
    """

    def __init__(
        self,
        *,
        service: str,
        handle: Handle,
        poll_interval: float,
        aws_conn_id: str | None,
        region_name: str | None,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.service = service
        self.handle = handle
        self.poll_interval = poll_interval
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every argument."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "service": self.service,
                "handle": self.handle,
                "poll_interval": self.poll_interval,
                **self._connection_settings,
            },
        )

    @property
    def _connection_settings(self) -> dict[str, Any]:
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the job; an event never carries more than its handle and its status."""
        key = PollKey.of(self.service, self._connection_settings)
        event: dict[str, Any] = {"version": EVENT_VERSION, "handle": self.handle}
        try:
            description = await registry().wait(key, self.handle, self.poll_interval)
        except Exception as error:  # whatever ends the wait is the task's to report
            yield TriggerEvent({**event, "error": f"{type(error).__name__}: {error}"})
            return
        yield TriggerEvent({**event, "status": description.status})

    async def on_kill(self) -> None:
        """Stop the job when a user ends or clears the deferred task."""
        service: JobService = import_string(self.service)()
        call = service.stop_call(self.handle)
        if call is None:
            self.log.warning("%s goes on: the service has no stop", self.handle["name"])
            return
        hook = open_hook(service.hook_path, self._connection_settings)
        async with await hook.get_async_conn() as client:
            await getattr(client, call.operation)(**call.parameters)
        self.log.info("Asked to stop %s %s", service.noun, self.handle["name"])
