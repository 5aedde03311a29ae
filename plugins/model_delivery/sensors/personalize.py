"""Wait for a batch inference job."""

from collections.abc import Sequence
from typing import Any

from model_delivery.aws import AWS_TEMPLATE_FIELDS
from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.sensor import JobSensor
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.operators.personalize import batch_inference_result
from model_delivery.xcom import BatchInferenceJobResult

MARK = ":batch-inference-job/"


class BatchInferenceJobSensor(JobSensor):
    """Waits until a batch inference job is ACTIVE; one that failed fails the task.

    :param job_arn: ARN of the job.
    :param solution_version_arn: its solution version, where it is known: deferred sensors of one
        solution version share their requests. (default: they share a list of all jobs)
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "job_arn", "solution_version_arn")

    def __init__(
        self, *, job_arn: str, solution_version_arn: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.job_arn = job_arn
        self.solution_version_arn = solution_version_arn

    @property
    def service(self) -> JobService:
        """Batch inference jobs."""
        from model_delivery.hooks.personalize import BatchInferenceJobs

        return BatchInferenceJobs()

    def handle(self) -> Handle:
        """Return the job by its ARN."""
        if MARK not in self.job_arn:
            raise InvalidRequestError(
                f"job_arn {self.job_arn!r} is not the ARN of a batch inference job"
            )
        known = {"name": self.job_arn.rpartition("/")[2], "arn": self.job_arn}
        version = self.solution_version_arn
        return {**known, "solution_version_arn": version} if version else known

    def result(self, description: JobDescription) -> BatchInferenceJobResult:
        """Name, ARN, status and the results' URI."""
        return batch_inference_result(description)
