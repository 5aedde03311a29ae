"""The operator of every external job: submit once, wait in either mode, stop when killed."""

import time
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import BaseOperator, Context

from model_delivery.aws import AwsConnected
from model_delivery.exceptions import DeliveryError, JobFailedError, JobRefusedError
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.jobs.status import JobState
from model_delivery.jobs.submission import Submission
from model_delivery.jobs.trigger import LONGEST_POLL_INTERVAL, OUTAGE_SECONDS, JobTrigger
from model_delivery.links.job import JOB_LINK_KEY, JobLink

JOB_KEY = "job"


class JobOperator(AwsConnected, BaseOperator):
    """Submits one external job and, unless told otherwise, waits for it.

    The job's identity is pushed to XCom under `job` right after the submission, so that links,
    sensors and failed runs have it; `return_value` follows on success.

    :param wait_for_completion: wait for the job to end. (default: True)
    :param deferrable: wait in the triggerer instead of a worker slot.
        (default: Airflow's `operators.default_deferrable`)
    :param poll_interval: shortest time between two looks at the service, in seconds. (default: 2)
    :param max_poll_interval: longest time between two looks while deferred, in seconds: a job that
        has run for long is looked at more rarely. (default: 30)
    :param outage_timeout: how long the service may give no usable answer while deferred before the
        wait fails, in seconds; the job goes on and a retry finds it again. (default: 900)
    :param job_timeout: time the job may take, in seconds; None leaves it to the service's own
        limit. A job that takes longer is stopped and the task fails. (default: None)
    """

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool | None = None,
        poll_interval: float = 2.0,
        max_poll_interval: float = LONGEST_POLL_INTERVAL,
        outage_timeout: float = OUTAGE_SECONDS,
        job_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wait_for_completion = wait_for_completion
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.max_poll_interval = max_poll_interval
        self.outage_timeout = outage_timeout
        self.job_timeout = job_timeout
        self._handle: Handle | None = None

    operator_extra_links = (JobLink(),)

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
        """The service over this operator's connection."""
        return JobClient(self.service, self.hook)

    @abstractmethod
    def build_request(self) -> dict[str, Any]:
        """Return the request without a name; raise InvalidRequestError before any call."""

    @abstractmethod
    def page_url(self, handle: Handle) -> str:
        """Return the address of the job's page."""

    @abstractmethod
    def identity(self, handle: Handle) -> Mapping[str, Any]:
        """Return what XCom gets at once: ARN or id and name."""

    @abstractmethod
    def result(self, description: JobDescription) -> Mapping[str, Any]:
        """Return what XCom gets on success."""

    def execute(self, context: Context) -> Any:
        """Submit once, then wait as told."""
        request = self.build_request()
        submission = self._submission(context)
        handle, made = submission.submit_once(request)
        self._handle = handle
        noun = self.service.noun
        self.log.info("%s %s %s", "Submitted" if made else "Attached to", noun, handle["name"])
        context["ti"].xcom_push(key=JOB_KEY, value=dict(self.identity(handle)))
        context["ti"].xcom_push(key=JOB_LINK_KEY, value=self.page_url(handle))
        if not self.wait_for_completion:
            return dict(self.result(self.client.describe(handle)))
        description = self.client.describe(handle)
        if description.state is JobState.RUNNING and self.deferrable:
            self.defer(
                trigger=self.trigger(handle),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.job_timeout) if self.job_timeout else None,
            )
        return self._finish(context, self._poll(description))

    def _submission(self, context: Context) -> Submission:
        store = context.get("task_state_store")
        if store is None:
            raise DeliveryError(
                "Airflow gave this task no task state store, without which a retry could submit a "
                "second job: model-delivery needs Airflow 3.3 or later"
            )
        return Submission(self.client, store, context["ti"])

    def trigger(self, handle: Handle) -> JobTrigger:
        """Return the trigger that waits for the job."""
        service = type(self.service)
        return JobTrigger(
            service=f"{service.__module__}.{service.__qualname__}",
            handle=handle,
            poll_interval=self.poll_interval,
            max_poll_interval=self.max_poll_interval,
            outage_timeout=self.outage_timeout,
            **self.connection_settings,
        )

    def _poll(self, description: JobDescription) -> JobDescription:
        deadline = time.monotonic() + self.job_timeout if self.job_timeout else None
        while description.state is JobState.RUNNING:
            if deadline and time.monotonic() > deadline:
                self._stop(description.handle, f"it took over {self.job_timeout:.0f} s")
                raise JobFailedError(f"{self._label(description.handle)} was stopped: too slow")
            time.sleep(self.poll_interval)
            description = self.client.describe(description.handle)
        return description

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Finish after the wait: the service is asked again, an event only says that it is time."""
        handle = self._resumed_handle(context, event)
        self._handle = handle
        if event and event.get("error"):
            raise DeliveryError(f"waiting for {self._label(handle)} failed: {event['error']}")
        # Attached to a job that is still running: an event of an older trigger, or a lost one.
        return self._finish(context, self._poll(self.client.describe(handle)))

    def _resumed_handle(self, context: Context, event: Mapping[str, Any] | None) -> Handle:
        if event and event.get("handle"):
            return dict(event["handle"])
        handle, _made = self._submission(context).submit_once(self.build_request())
        return handle

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Stop the job when the wait timed out; Airflow calls no other method of ours then."""
        from airflow.sdk.exceptions import TaskDeferralTimeout

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            handle = self._resumed_handle(context, None)
            self._stop(handle, "the wait timed out")
            raise

    def _finish(self, context: Context, description: JobDescription) -> Any:
        if description.state is JobState.SUCCEEDED:
            self.log.info("%s is %s", self._label(description.handle), description.status)
            return dict(self.result(description))
        self._submission(context).forget_failed()
        reason = description.reason or "the service gave no reason"
        message = f"{self._label(description.handle)} ended {description.status}: {reason}"
        raise (JobFailedError if description.retryable else JobRefusedError)(message)

    def on_kill(self) -> None:
        """Stop the job when the task is killed in the worker."""
        if self._handle is not None:
            self._stop(self._handle, "the task was killed")

    def _stop(self, handle: Handle, why: str) -> None:
        if self.client.stop(handle):
            self.log.info("Asked to stop %s: %s", self._label(handle), why)
        else:
            self.log.warning(
                "%s goes on although %s: the service has no stop", self._label(handle), why
            )

    def _label(self, handle: Handle) -> str:
        return f"{self.service.noun} {handle.get('arn') or handle['name']}"
