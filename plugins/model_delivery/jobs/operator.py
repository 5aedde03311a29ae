"""The operator of every external job: submit once, wait in either mode, stop when killed."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowRuntimeError

from model_delivery.exceptions import DeliveryError
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.clears import clears_of
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.record import Outcome
from model_delivery.jobs.service import Handle, JobDescription
from model_delivery.jobs.status import JobState
from model_delivery.jobs.submission import Submission
from model_delivery.jobs.task import JobTask
from model_delivery.jobs.task_state import USER_ENDED, task_state
from model_delivery.jobs.tries import is_final
from model_delivery.jobs.trigger import MOST_FAILED_WAITS
from model_delivery.lineage import ReportsLineage
from model_delivery.links.job import JOB_LINK_KEY, JobLink

JOB_KEY = "job"


class JobOperator(ReportsLineage, JobTask):
    """Submits one external job and, unless told otherwise, waits for it.

    The job's identity is pushed to XCom under `job` right after the submission, so that links,
    sensors and failed runs have it; `return_value` follows on success.

    A task that is killed, cleared or runs out of time stops its job where the service can. So does
    one that fails for good while its job is running.

    :param wait_for_completion: wait for the job to end. (default: True)
    :param poll_interval: shortest time between two looks at the service, in seconds. (default: 2)
    :param job_timeout: time for the job since its submission, in seconds; None leaves it to the
        service's own limit. A job that takes longer is stopped and the task fails. In the triggerer
        `execution_timeout` limits the wait too. (default: None)
    """

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        poll_interval: float = 2.0,
        job_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self.job_timeout = job_timeout
        check_intervals(poll_interval=poll_interval)
        if job_timeout is not None:
            check_intervals(job_timeout=job_timeout)
        self.page = ""
        self._attempt: Attempt | None = None
        self._ended: JobDescription | None = None

    operator_extra_links = (JobLink(),)

    @abstractmethod
    def build_request(self) -> dict[str, Any]:
        """Return the request without a name; raise InvalidRequestError before any call."""

    @abstractmethod
    def page_url(self, handle: Handle) -> str:
        """Return the address of the job's page."""

    @abstractmethod
    def identity(self, handle: Handle) -> Mapping[str, Any]:
        """Return what XCom gets at once: ARN or id and name."""

    def execute(self, context: Context) -> Any:
        """Submit once, then wait as told."""
        attempt = self._begin(context)
        with attempt.running():
            description = attempt.submit(
                self.build_request(), lambda handle: self._announce(context, handle)
            )
            if self.wait_for_completion:
                return self._wait(context, attempt, description)
            attempt.require_alive()
            attempt.submission.end(Outcome.DONE)
            self._ended = description
            return dict(self.result(description))

    def _announce(self, context: Context, handle: Handle) -> None:
        context["ti"].xcom_push(key=JOB_KEY, value=dict(self.identity(handle)))
        self._open_page(handle)
        if self.page and not (self.deferrable and self.wait_for_completion):
            context["ti"].xcom_push(key=JOB_LINK_KEY, value=self.page)

    def _open_page(self, handle: Handle) -> None:
        """Note the job's page, for the link that Airflow pushes when this process is done."""
        try:
            self.page = self.page_url(handle)
        except Exception as error:  # no page is worth a job
            self.log.warning("No link to the job's page: %s", error)

    def _begin(self, context: Context) -> Attempt:
        store = context.get("task_state_store")
        if store is None:
            raise DeliveryError(
                "Airflow gave this task no task state store, without which a retry could submit a "
                "second job: model-delivery needs Airflow 3.3 or later"
            )
        ti: Any = context["ti"]
        submission = Submission(self.client, store, ti, clears_of(context))
        self._attempt = Attempt(
            self.client, submission, self.log, lambda error: is_final(self, context, error)
        )
        return self._attempt

    def _wait(
        self,
        context: Context,
        attempt: Attempt,
        description: JobDescription,
        *,
        deferrable: bool | None = None,
        failed_waits: int = 0,
        woken: bool = False,
    ) -> Any:
        """Wait for the job in the triggerer or here, and read how it ended."""
        deferrable = self.deferrable if deferrable is None else deferrable
        if description.state is JobState.RUNNING and deferrable and not attempt.killed:
            self._require_wanted(context, attempt)
            left = None if self.job_timeout is None else self.job_timeout - attempt.age
            self.defer(
                trigger=self.job_trigger(
                    description.handle, self.poll_interval, owned=True, doubted=woken
                ),
                method_name="execute_complete",
                kwargs={"failed_waits": failed_waits} if failed_waits else None,
                timeout=self.time_left(context, left),
            )
        limit = self.job_timeout
        if failed_waits and self.execution_timeout:
            # Airflow counts anew in a worker that resumes.
            over = self.execution_timeout - self.time_taken(context)
            limit = min(limit or float("inf"), attempt.age + over.total_seconds())
        description = attempt.wait(description, self.poll_interval, limit)
        attempt.settle(description)
        self._ended = description
        return dict(self.result(description))

    def _require_wanted(self, context: Context, attempt: Attempt) -> None:
        """Stop the job of a task that a user ended while it submitted.

        Airflow would tell at the next heartbeat, and of a task that defers before that it refuses
        the deferral without a word to the operator.
        """
        try:
            state = task_state(context["ti"])
        except AirflowRuntimeError as error:
            self.log.warning("Airflow did not tell the state of this task: %s", error)
            return
        if state in USER_ENDED:
            attempt.fail(f"the task is {state} already")

    @property
    def ended(self) -> JobDescription:
        """The job as it ended, once the task waited for it."""
        if self._ended is None:
            raise DeliveryError("the task has not waited for its job to end")
        return self._ended

    def execute_complete(self, context: Context, event: Any = None, failed_waits: int = 0) -> Any:
        """Finish after the wait: an event only says that it is time to ask the service again.

        So an event of another version of the trigger, or one that came too early, does no harm.

        :param failed_waits: how often the triggerer could not wait for this job before.
        """
        seen: Mapping[str, Any] = event if isinstance(event, Mapping) else {}
        failed_waits = self.failed_waits(event, failed_waits)
        return self._resume(context, seen.get("handle"), seen.get("error"), failed_waits)

    def _resume(self, context: Context, handle: Any, error: Any, failed_waits: int) -> Any:
        attempt = self._begin(context)
        with attempt.running():
            description = attempt.resume(dict(handle) if isinstance(handle, Mapping) else None)
            self._open_page(description.handle)
            if not error:
                return self._wait(context, attempt, description, woken=True)
            # An outage that is over ends so for every wait at once: not all find a worker's slot.
            again = self.deferrable and failed_waits < MOST_FAILED_WAITS
            if description.state is JobState.RUNNING:
                where = "in the triggerer again" if again else "here"
                self.log.warning("The triggerer could not wait (%s): waiting %s", error, where)
            return self._wait(
                context, attempt, description, deferrable=again, failed_waits=failed_waits
            )

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Stop the job when the wait timed out; Airflow calls no other method of ours then."""
        from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            return self._time_out(context)
        except TaskDeferralError as error:
            # Airflow dropped our count of failed waits, and a trigger that fails would fail again.
            why = f"{type(error).__name__}: {error}"
            return self._resume(context, None, why, MOST_FAILED_WAITS)

    def _time_out(self, context: Context) -> Any:
        attempt = self._begin(context)
        with attempt.running():
            description = attempt.resume(None)
            if description.state is JobState.RUNNING:
                attempt.fail(
                    f"its time is over (execution_timeout {self.execution_timeout}, job_timeout "
                    f"{self.job_timeout} s)"
                )
            return self._wait(context, attempt, description)

    def on_kill(self) -> None:
        """Stop the job when the task is killed in the worker, or runs out of time there."""
        if self._attempt is None:
            self.client.pause.cut = True  # then nothing is submitted
        else:
            self._attempt.kill()
