"""Wait for a compilation job."""

from collections.abc import Sequence
from typing import Any

from model_delivery.aws import AWS_TEMPLATE_FIELDS
from model_delivery.jobs.sensor import JobSensor
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.operators.compilation import compilation_result
from model_delivery.xcom import CompilationJobResult


class CompilationJobSensor(JobSensor):
    """Waits until a compilation job ended; a failed or stopped one fails the task.

    :param job_name: name of the job.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "job_name")

    def __init__(self, *, job_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name

    @property
    def service(self) -> JobService:
        """Compilation jobs."""
        from model_delivery.hooks.compilation import CompilationJobs

        return CompilationJobs()

    def handle(self) -> Handle:
        """Return the job by its name."""
        return {"name": self.job_name}

    def result(self, description: JobDescription) -> CompilationJobResult:
        """Name, ARN, status, the artifact's URI and digest."""
        return compilation_result(description)
