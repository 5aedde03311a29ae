"""The sensor of external work, and of every job: poke, reschedule or deferrable."""

from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context
from airflow.sdk.bases.sensor import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from model_delivery.exceptions import JobEndedError
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.service import Handle
from model_delivery.jobs.status import JobState
from model_delivery.jobs.task import JobTask, WaitingTask
from model_delivery.jobs.trigger import MOST_FAILED_WAITS, JobTrigger, handover_seconds


class ServiceSensor(WaitingTask, BaseSensorOperator):
    """Waits for what a service does; whether in the triggerer or not, it ends in the same way.

    `poke_interval` is the shortest time between two looks, also while deferred.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_intervals(poke_interval=self.poke_interval)

    @property
    @abstractmethod
    def label(self) -> str:
        """What is waited for, for messages."""

    @abstractmethod
    def trigger(self, *, doubted: bool) -> JobTrigger:
        """Return what waits in the triggerer.

        :param doubted: it waited before, and what it told of the end was not so.
        """

    def execute(self, context: Context) -> Any:
        """Look once before deferring: a job that ended needs no triggerer."""
        if self.deferrable:
            return self._wait_deferred(context)
        return self._wait_here(context)

    def _wait_here(self, context: Context) -> Any:
        """Look in this worker, or again and again in one: Airflow's own modes."""
        try:
            return super().execute(context)
        except AirflowRescheduleException as again:
            # Sooner, Airflow may take the end of this look for that of the next, and fail it.
            earliest = datetime.now(UTC) + timedelta(seconds=handover_seconds())
            raise AirflowRescheduleException(max(again.reschedule_date, earliest)) from None

    def _wait_deferred(
        self, context: Context, failed_waits: int = 0, *, woken: bool = False
    ) -> Any:
        """Look, and defer for the time that is left since the task started."""
        looked = self._look(context)
        if isinstance(looked, PokeReturnValue):
            return looked.xcom_value
        left = self.timeout - self.time_taken(context).total_seconds()
        return self.defer(
            trigger=self.trigger(doubted=woken),
            method_name="execute_complete",
            kwargs={"failed_waits": failed_waits} if failed_waits else None,
            timeout=self.time_left(context, left),
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
        failed_waits = self.failed_waits(event, failed_waits)
        if not failed_waits:
            return self._wait_deferred(context, woken=True)
        return self._not_waited(context, event["error"], failed_waits)

    def _not_waited(self, context: Context, error: str, failed_waits: int) -> Any:
        """Wait on after a fault of the triggerer's: there again, in the end here."""
        again = failed_waits < MOST_FAILED_WAITS
        where = "in the triggerer again" if again else "here"
        self.log.warning("The triggerer could not wait (%s): waiting %s", error, where)
        if again:
            return self._wait_deferred(context, failed_waits)
        # Airflow counts anew in a worker that resumes.
        left = self.time_left(context, self.timeout - self.time_taken(context).total_seconds())
        self.timeout = left.total_seconds() if left else 0.0
        return self._wait_here(context)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Skip or fail as the other modes do; Airflow's own would skip after any error."""
        try:
            return super(BaseSensorOperator, self).resume_execution(
                next_method, next_kwargs, context
            )
        except TaskDeferralTimeout as error:
            limit = self.execution_timeout
            if limit and self.time_taken(context) >= limit:
                raise AirflowTaskTimeout(f"the wait took over {limit}") from error
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"skipped instead of failed: {error}") from error
            raise AirflowSensorTimeout(*error.args) from error
        except TaskDeferralError as error:
            # Airflow dropped our count of failed waits, and a trigger that fails would fail again.
            why = f"{type(error).__name__}: {error}"
            return self._not_waited(context, why, MOST_FAILED_WAITS)


class JobSensor(JobTask, ServiceSensor):
    """Waits for a job that another task, run or system submitted.

    Its parameters are `ServiceSensor`'s.
    """

    @abstractmethod
    def handle(self) -> Handle:
        """Return the job to wait for."""

    def trigger(self, *, doubted: bool) -> JobTrigger:
        """Return what waits for the job; its end stops nothing."""
        return self.job_trigger(
            self.handle(), float(self.poke_interval), owned=False, doubted=doubted
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
