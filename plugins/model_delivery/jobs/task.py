"""What a task that waits for an external job takes, whether it made the job or not."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import Context

from model_delivery.aws import AwsConnected
from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.retries import OUTAGE_SECONDS
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.jobs.trigger import LONGEST_POLL_INTERVAL, JobTrigger


class WaitingTask(AwsConnected):
    """The base of what waits for a service.

    :param deferrable: wait in the triggerer instead of a worker slot.
        (default: Airflow's `operators.default_deferrable`)
    :param max_poll_interval: longest time between two looks while deferred, in seconds: a job that
        has run for long is looked at more rarely. (default: 30)
    :param outage_timeout: how long the service may give no usable answer before the task, or its
        wait in the triggerer, gives up, in seconds. (default: 900)
    """

    def __init__(
        self,
        *,
        deferrable: bool | None = None,
        max_poll_interval: float = LONGEST_POLL_INTERVAL,
        outage_timeout: float = OUTAGE_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        self.max_poll_interval = max_poll_interval
        self.outage_timeout = outage_timeout
        check_intervals(max_poll_interval=max_poll_interval, outage_timeout=outage_timeout)
        if deferrable:
            self._check_botocore_config()

    def _check_botocore_config(self) -> None:
        # Airflow would refuse the trigger, when the job is made.
        try:
            json.dumps(self.botocore_config)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"botocore_config cannot be handed to the triggerer: {error}. Give what JSON has: "
                "text, numbers, booleans, lists and dictionaries"
            ) from None

    def failed_waits(self, event: Any, before: int) -> int:
        """Return how often in a row the triggerer could not wait, with the event that just came.

        A wait that took longer than any outage may take was a good one before it failed.
        """
        if not isinstance(event, Mapping) or not event.get("error"):
            return 0
        waited = event.get("waited")
        was_good = isinstance(waited, int | float) and waited > 2 * self.outage_timeout
        return 1 if was_good else before + 1

    def time_left(self, context: Context, seconds: float | None) -> timedelta | None:
        """Return how long the task may stay deferred, or None for ever.

        Airflow starts each deferral's time anew, and holds no deferred task to `execution_timeout`.

        :param seconds: what is left of another limit; None where there is no other.
        """
        left = [] if seconds is None else [timedelta(seconds=seconds)]
        if self.execution_timeout:
            left.append(self.execution_timeout - self.time_taken(context))
        return max(min(left), timedelta(seconds=1)) if left else None

    @staticmethod
    def time_taken(context: Context) -> timedelta:
        """Return how long ago this try started, deferrals included."""
        now = datetime.now(UTC)
        return now - (getattr(context["ti"], "start_date", None) or now)

    def trigger_settings(self, poll_interval: float) -> dict[str, Any]:
        """Return what every trigger of a task takes."""
        return {
            "poll_interval": poll_interval,
            "max_poll_interval": self.max_poll_interval,
            "outage_timeout": self.outage_timeout,
            **self.connection_settings,
        }


class JobTask(WaitingTask):
    """The base of operators and sensors of external jobs."""

    @property
    @abstractmethod
    def service(self) -> JobService:
        """The service; imported when it is used, since hooks import boto3."""

    @property
    def hook_path(self) -> str:
        """Path of the service's hook."""
        return self.service.hook_path

    @cached_property
    def client(self) -> JobClient:
        """The service over this task's connection."""
        return JobClient(self.service, self.open_hook, self.outage_timeout)

    @abstractmethod
    def result(self, description: JobDescription) -> Mapping[str, Any]:
        """Return what XCom gets on success."""

    def job_trigger(
        self, handle: Handle, poll_interval: float, *, owned: bool, doubted: bool
    ) -> JobTrigger:
        """Return the trigger that waits for the job; see there for the parameters."""
        service = type(self.service)
        return JobTrigger(
            service=f"{service.__module__}.{service.__qualname__}",
            handle=handle,
            owned=owned,
            doubted=doubted,
            **self.trigger_settings(poll_interval),
        )
