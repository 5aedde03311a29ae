"""Wait for a deployment."""

from collections.abc import Sequence
from typing import Any

from model_delivery.aws import AWS_TEMPLATE_FIELDS
from model_delivery.jobs.sensor import JobSensor
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.operators.edge import deployment_result
from model_delivery.xcom import DeploymentResult


class DeploymentSensor(JobSensor):
    """Waits until a device's effective deployment is the given one and succeeded.

    :param deployment_id: id of the deployment.
    :param thing_name: name of the core device.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "deployment_id", "thing_name")

    def __init__(self, *, deployment_id: str, thing_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deployment_id = deployment_id
        self.thing_name = thing_name

    @property
    def service(self) -> JobService:
        """Deployments."""
        from model_delivery.hooks.edge import Deployments

        return Deployments()

    def handle(self) -> Handle:
        """Return the deployment by its id and device."""
        return {"id": self.deployment_id, "name": self.deployment_id, "thing": self.thing_name}

    def result(self, description: JobDescription) -> DeploymentResult:
        """Deployment id, device and status."""
        return deployment_result(description)
