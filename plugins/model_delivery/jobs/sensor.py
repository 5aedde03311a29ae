"""The sensor of external work, and of every job: poke, reschedule or deferrable."""

from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import Context
from airflow.sdk.bases.sensor import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from model_delivery.aws import AwsConnected
from model_delivery.exceptions import JobEndedError
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.jobs.status import JobState
from model_delivery.jobs.trigger import (
    LONGEST_POLL_INTERVAL,
    MOST_FAILED_WAITS,
    OUTAGE_SECONDS,
    JobTrigger,
)


class ServiceSensor(AwsConnected, BaseSensorOperator):
    """Waits for what a service does; whether in the triggerer or not, it ends in the same way.

    :param deferrable: wait in the triggerer instead of a worker slot.
        (default: Airflow's `operators.default_deferrable`)
    :param max_poll_interval: longest time between two looks while deferred, in seconds: a job that
        has run for long is looked at more rarely; `poke_interval` is the shortest. (default: 30)
    :param outage_timeout: how long the service may give no usable answer while deferred before the
        wait fails, in seconds. (default: 900)
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
        self.max_poll_interval = max_poll_interval
        self.outage_timeout = outage_timeout
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        check_intervals(poke_interval=self.poke_interval, max_poll_interval=max_poll_interval)

    @property
    @abstractmethod
    def label(self) -> str:
        """What is waited for, for messages."""

    @abstractmethod
    def trigger(self, *, doubted: bool) -> JobTrigger:
        """Return what waits in the triggerer.

        :param doubted: it waited before, and what it told of the end was not so.
        """

    @property
    def trigger_settings(self) -> dict[str, Any]:
        """What every trigger of a sensor takes; its end stops nothing."""
        return {
            "poll_interval": float(self.poke_interval),
            "max_poll_interval": self.max_poll_interval,
            "outage_timeout": self.outage_timeout,
            "owned": False,
            **self.connection_settings,
        }

    def execute(self, context: Context) -> Any:
        """Look once before deferring: a job that ended needs no triggerer."""
        if self.deferrable:
            return self._wait_deferred(context)
        return super().execute(context)

    def _wait_deferred(
        self, context: Context, failed_waits: int = 0, *, woken: bool = False
    ) -> Any:
        """Look, and defer for the time that is left since the task started."""
        looked = self._look(context)
        if isinstance(looked, PokeReturnValue):
            return looked.xcom_value
        began = getattr(context["ti"], "start_date", None) or datetime.now(UTC)
        left = timedelta(seconds=self.timeout) - (datetime.now(UTC) - began)
        return self.defer(
            trigger=self.trigger(doubted=woken),
            method_name="execute_complete",
            kwargs={"failed_waits": failed_waits} if failed_waits else None,
            timeout=max(left, timedelta(seconds=1)),
        )

    def _look(self, context: Context) -> bool | PokeReturnValue:
        """Poke as the other modes do: they skip, or go on waiting, where they are told to."""
        try:
            return self.poke(context)
        except Exception as error:
            final = isinstance(error, AirflowFailException)
            if self.never_fail or (self.soft_fail and final):
                raise AirflowSkipException(f"skipped instead of failed: {error}") from error
            if self.silent_fail and not final:
                self.log.exception("The look failed")
                return False
            raise

    def execute_complete(self, context: Context, event: Any = None, failed_waits: int = 0) -> Any:
        """Finish after the wait: an event only says that it is time to ask the service again.

        :param failed_waits: how often the triggerer could not wait for this job before.
        """
        error = event.get("error") if isinstance(event, Mapping) else None
        if not error:
            return self._wait_deferred(context, woken=True)
        return self._not_waited(context, error, failed_waits + 1)

    def _not_waited(self, context: Context, error: str, failed_waits: int) -> Any:
        """Wait on after a fault of the triggerer's: there again, in the end here."""
        again = failed_waits < MOST_FAILED_WAITS
        where = "in the triggerer again" if again else "here"
        self.log.warning("The triggerer could not wait (%s): waiting %s", error, where)
        if again:
            return self._wait_deferred(context, failed_waits)
        return super().execute(context)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Skip or fail as the other modes do; Airflow's own would skip after any error."""
        try:
            return super(BaseSensorOperator, self).resume_execution(
                next_method, next_kwargs, context
            )
        except TaskDeferralTimeout as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"skipped instead of failed: {error}") from error
            raise AirflowSensorTimeout(*error.args) from error
        except TaskDeferralError as error:
            # Airflow dropped our count of failed waits, and a trigger that fails would fail again.
            why = f"{type(error).__name__}: {error}"
            return self._not_waited(context, why, MOST_FAILED_WAITS)


class JobSensor(ServiceSensor):
    """Waits for a job that another task, run or system submitted.

    Its parameters are `ServiceSensor`'s.
    """

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
        """The service over this sensor's connection."""
        return JobClient(self.service, self.open_hook)

    @abstractmethod
    def handle(self) -> Handle:
        """Return the job to wait for."""

    @abstractmethod
    def result(self, description: JobDescription) -> Mapping[str, Any]:
        """Return what XCom gets on success."""

    def trigger(self, *, doubted: bool) -> JobTrigger:
        """Return what waits for the job."""
        service = type(self.service)
        return JobTrigger(
            service=f"{service.__module__}.{service.__qualname__}",
            handle=self.handle(),
            doubted=doubted,
            **self.trigger_settings,
        )

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Describe the job; a bad end is an error."""
        description = self.client.describe(self.handle())
        if description.state is JobState.RUNNING:
            return False
        if description.state is JobState.SUCCEEDED:
            return PokeReturnValue(True, dict(self.result(description)))
        reason = description.reason or "the service gave no reason"
        raise JobEndedError(f"{self.label} ended {description.status}: {reason}")

    @property
    def label(self) -> str:
        """The service's noun and the job's name."""
        return f"{self.service.noun} {self.handle()['name']}"
