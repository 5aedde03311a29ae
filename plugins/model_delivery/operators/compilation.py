"""Compile a trained model for a device: SageMaker compilation jobs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from model_delivery.aws import AWS_TEMPLATE_FIELDS
from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.operator import JobOperator
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.lineage import Lineage
from model_delivery.links.job import console_url, is_aws
from model_delivery.xcom import VERSION, CompilationJobResult

MAX_RUNTIME_SECONDS = 86_400
MAX_RUNTIME_LIMIT_SECONDS = 28 * 86_400


class CreateCompilationJobOperator(JobOperator):
    """Compiles a model archive for a device and waits for the artifact.

    Source: SageMaker API, CreateCompilationJob.

    :param role_arn: IAM role that the service assumes.
    :param model_uri: `s3://` URI of the model archive, a `.tar.gz`.
    :param framework: framework of the model, for example ONNX.
    :param data_input_config: shapes of the inputs, as JSON text or as a dictionary.
    :param output_uri: `s3://` prefix for the artifact.
    :param target_device: device to compile for; or
    :param target_platform: {"Os", "Arch", "Accelerator"} instead of a device.
    :param framework_version: version of the framework, where it has variants.
    :param compiler_options: the compiler's options, as JSON text.
    :param max_runtime_seconds: the service stops the job after this many seconds.
        (default: 86400)
    :param tags: tags of the job.
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "role_arn", "model_uri", "framework", "framework_version",
        "data_input_config", "output_uri", "target_device", "target_platform",
        "compiler_options", "tags",
    )  # fmt: skip

    def __init__(
        self,
        *,
        role_arn: str,
        model_uri: str,
        framework: str,
        data_input_config: str | Mapping[str, Sequence[int]],
        output_uri: str,
        target_device: str | None = None,
        target_platform: Mapping[str, str] | None = None,
        framework_version: str | None = None,
        compiler_options: str | None = None,
        max_runtime_seconds: int = MAX_RUNTIME_SECONDS,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.role_arn = role_arn
        self.model_uri = model_uri
        self.framework = framework
        self.data_input_config = data_input_config
        self.output_uri = output_uri
        self.target_device = target_device
        self.target_platform = target_platform
        self.framework_version = framework_version
        self.compiler_options = compiler_options
        self.max_runtime_seconds = max_runtime_seconds
        self.tags = tags

    @property
    def service(self) -> JobService:
        """Compilation jobs."""
        from model_delivery.hooks.compilation import CompilationJobs

        return CompilationJobs()

    def build_request(self) -> dict[str, Any]:
        """Return CreateCompilationJob's request without the name."""
        self._check()
        config = self.data_input_config
        output = {
            "S3OutputLocation": self.output_uri,
            "TargetDevice": self.target_device,
            "TargetPlatform": self.target_platform and dict(self.target_platform),
            "CompilerOptions": self.compiler_options,
        }
        source = {
            "S3Uri": self.model_uri,
            "DataInputConfig": config if isinstance(config, str) else json.dumps(dict(config)),
            "Framework": self.framework,
            "FrameworkVersion": self.framework_version,
        }
        request: dict[str, Any] = {
            "RoleArn": self.role_arn,
            "InputConfig": _given(source),
            "OutputConfig": _given(output),
            "StoppingCondition": {"MaxRuntimeInSeconds": self.max_runtime_seconds},
        }
        if self.tags:
            request["Tags"] = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        return request

    def _check(self) -> None:
        if bool(self.target_device) == bool(self.target_platform):
            raise InvalidRequestError("give target_device or target_platform, and not both")
        if not self.model_uri.startswith("s3://") or not self.model_uri.endswith(".tar.gz"):
            raise InvalidRequestError(
                f"model_uri {self.model_uri!r} is not an s3:// URI of a .tar.gz archive: "
                "copy the model there first, for example with CopyObjectsOperator"
            )
        if not self.output_uri.startswith("s3://"):
            raise InvalidRequestError(f"output_uri {self.output_uri!r} must begin with s3://")
        if not 1 <= self.max_runtime_seconds <= MAX_RUNTIME_LIMIT_SECONDS:
            raise InvalidRequestError(
                f"max_runtime_seconds is {self.max_runtime_seconds}: "
                f"SageMaker takes 1 to {MAX_RUNTIME_LIMIT_SECONDS} (28 days)"
            )
        self._check_data_input_config()

    def _check_data_input_config(self) -> None:
        if not isinstance(self.data_input_config, str):
            return
        try:
            json.loads(self.data_input_config)
        except ValueError as error:
            raise InvalidRequestError(
                f"data_input_config {self.data_input_config!r} is not JSON ({error}): "
                'write shapes by input name, for example {"image": [1, 64]}'
            ) from error

    def page_url(self, handle: Handle) -> str:
        """Return the job's page in the AWS console or in localcloud."""
        name, region, account = handle["name"], *_region_and_account(handle["arn"])
        endpoint = self.client.meta.endpoint_url
        if is_aws(endpoint):
            return f"{console_url(endpoint, region, 'sagemaker')}#/compilation-jobs/{name}"
        return f"{endpoint}/jobs/compilation/{account}/{region}/{name}"

    def lineage(self) -> Lineage:
        """Model archive in, bundle out."""
        made = compilation_result(self.ended)
        return Lineage([self.model_uri], [made["output_uri"]], made["job_arn"])

    def identity(self, handle: Handle) -> dict[str, str]:
        """Name and ARN."""
        return {"job_arn": handle["arn"], "job_name": handle["name"]}

    def result(self, description: JobDescription) -> CompilationJobResult:
        """Name, ARN, status and the artifact's URI (empty while there is none)."""
        return compilation_result(description)


def compilation_result(description: JobDescription) -> CompilationJobResult:
    """Read a description as the XCom of operator and sensor."""
    artifacts = description.detail.get("ModelArtifacts") or {}
    return {
        "version": VERSION,
        "job_arn": description.handle["arn"],
        "job_name": description.handle["name"],
        "status": description.status,
        "output_uri": artifacts.get("S3ModelArtifacts", ""),
    }


def _region_and_account(arn: str) -> tuple[str, str]:
    _arn, _partition, _service, region, account, _resource = arn.split(":", 5)
    return region, account


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
