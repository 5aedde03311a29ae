"""Compile a trained model for a device: SageMaker compilation jobs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Context

from model_delivery import neo
from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected, as_line
from model_delivery.exceptions import DeliveryError, InvalidRequestError, JobRefusedError
from model_delivery.jobs.operator import JobOperator
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.lineage import Lineage
from model_delivery.links.job import console_url, is_aws
from model_delivery.refusal import telling_refusal
from model_delivery.service_errors import named_errors
from model_delivery.xcom import (
    VERSION,
    CompilationJobListing,
    CompilationJobResult,
    DeletedCompilationJob,
)

HOOK = "model_delivery.hooks.compilation.CompilationJobHook"
PAGE_OF_NAMES = 100


class CreateCompilationJobOperator(JobOperator):
    """Compiles a model archive for a device and waits for the artifact.

    The job's name is made of the task instance, so that a retry finds the job of a try before it.

    Source: SageMaker API, CreateCompilationJob.

    :param role_arn: IAM role that the service assumes.
    :param model_uri: `s3://` URI of the model archive, a `.tar.gz`; or
    :param model_package_version_arn: a versioned model package instead of an archive.
    :param framework: framework of the model: ONNX, PYTORCH, TENSORFLOW, KERAS, TFLITE, XGBOOST,
        SKLEARN, MXNET or DARKNET. Needed with an archive.
    :param data_input_config: shapes of the inputs, as JSON text or what it stands for: a dictionary
        by name, for PYTORCH also a list, for XGBOOST none. (default: none, and the service derives
        them where the model says them)
    :param output_uri: `s3://` prefix for the artifact.
    :param output_kms_key_id: key that encrypts the artifact. (default: the bucket's)
    :param target_device: device to compile for; or
    :param target_platform: {"Os", "Arch", "Accelerator"} instead of a device.
    :param framework_version: version of the framework, where it has variants.
    :param compiler_options: the compiler's options, as JSON text or a dictionary.
    :param security_group_ids: security groups of a VPC to compile in, with
    :param subnets: its subnets.
    :param max_runtime_seconds: the service stops the job after this many seconds.
        (default: 86400)
    :param max_wait_seconds: longest time for waiting and running together, in seconds.
        (default: none)
    :param max_pending_seconds: longest time to wait for a machine, in seconds. (default: none)
    :param tags: tags of the job.
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "role_arn", "model_uri", "model_package_version_arn", "framework",
        "framework_version", "data_input_config", "output_uri", "output_kms_key_id",
        "target_device", "target_platform", "compiler_options", "security_group_ids", "subnets",
        "tags",
    )  # fmt: skip

    def __init__(
        self,
        *,
        role_arn: str,
        output_uri: str,
        model_uri: str | None = None,
        model_package_version_arn: str | None = None,
        framework: str | None = None,
        data_input_config: str | Mapping[str, Any] | Sequence[Any] | None = None,
        output_kms_key_id: str | None = None,
        target_device: str | None = None,
        target_platform: Mapping[str, str] | None = None,
        framework_version: str | None = None,
        compiler_options: str | Mapping[str, Any] | None = None,
        security_group_ids: Sequence[str] | None = None,
        subnets: Sequence[str] | None = None,
        max_runtime_seconds: int = neo.MAX_RUNTIME_SECONDS,
        max_wait_seconds: int | None = None,
        max_pending_seconds: int | None = None,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.role_arn = role_arn
        self.model_uri = model_uri
        self.model_package_version_arn = model_package_version_arn
        self.framework = framework
        self.data_input_config = data_input_config
        self.output_uri = output_uri
        self.output_kms_key_id = output_kms_key_id
        self.target_device = target_device
        self.target_platform = target_platform
        self.framework_version = framework_version
        self.compiler_options = compiler_options
        self.security_group_ids = security_group_ids
        self.subnets = subnets
        self.max_runtime_seconds = max_runtime_seconds
        self.max_wait_seconds = max_wait_seconds
        self.max_pending_seconds = max_pending_seconds
        self.tags = tags

    @property
    def service(self) -> JobService:
        """Compilation jobs."""
        from model_delivery.hooks.compilation import CompilationJobs

        return CompilationJobs()

    def execute(self, context: Context) -> Any:
        """Submit once, then wait as told; where it is refused, say why in XCom too."""
        with telling_refusal(context):
            return super().execute(context)

    def build_request(self) -> dict[str, Any]:
        """Return CreateCompilationJob's request without the name, held against the API's model."""
        from model_delivery.hooks.constraints import check_request

        neo.check_target(self.target_device, self.target_platform)
        if not self.output_uri.startswith("s3://"):
            raise InvalidRequestError(f"output_uri {self.output_uri!r} must begin with s3://")
        request = _given(
            {
                "RoleArn": self.role_arn,
                "ModelPackageVersionArn": self.model_package_version_arn,
                "InputConfig": self._input_config(),
                "OutputConfig": self._output_config(),
                "VpcConfig": self._vpc_config(),
                "StoppingCondition": neo.stopping_condition(
                    self.max_runtime_seconds, self.max_wait_seconds, self.max_pending_seconds
                ),
            }
        )
        if self.tags:
            request["Tags"] = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        # The lifecycle gives the name.
        check_request(self.client, "CreateCompilationJob", {"CompilationJobName": "any", **request})
        return request

    def _input_config(self) -> dict[str, Any] | None:
        if bool(self.model_uri) == bool(self.model_package_version_arn):
            raise InvalidRequestError(
                "give model_uri or model_package_version_arn, and not both: SageMaker takes one"
            )
        if not self.model_uri:
            return None
        if not self.framework:
            raise InvalidRequestError(
                f"framework is needed with model_uri: one of {', '.join(neo.RULES)}"
            )
        neo.check_source(self.model_uri, self.framework, self.framework_version)
        config = neo.data_input_config(self.data_input_config, self.framework, self.target_device)
        left = neo.left_to_service(config, self.framework)
        for doubt in (*neo.doubtful_layouts(config, self.framework), *([left] if left else ())):
            self.log.warning(doubt)
        return _given(
            {
                "S3Uri": self.model_uri,
                "DataInputConfig": config,
                "Framework": self.framework,
                "FrameworkVersion": self.framework_version,
            }
        )

    def _output_config(self) -> dict[str, Any]:
        platform = self.target_platform and dict(self.target_platform)
        return _given(
            {
                "S3OutputLocation": self.output_uri,
                "TargetDevice": self.target_device,
                "TargetPlatform": platform,
                "CompilerOptions": neo.compiler_options(
                    self.compiler_options, self.target_device, platform
                ),
                "KmsKeyId": self.output_kms_key_id,
            }
        )

    def _vpc_config(self) -> dict[str, list[str]] | None:
        if bool(self.security_group_ids) != bool(self.subnets):
            raise InvalidRequestError("a VPC needs both security_group_ids and subnets")
        if not self.security_group_ids or not self.subnets:
            return None
        return {"SecurityGroupIds": list(self.security_group_ids), "Subnets": list(self.subnets)}

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
        source = self.model_uri or self.model_package_version_arn or ""
        return Lineage([source], [made["output_uri"]], made["job_arn"])

    def identity(self, handle: Handle) -> dict[str, str]:
        """Name and ARN."""
        return {"job_arn": handle["arn"], "job_name": handle["name"]}

    def result(self, description: JobDescription) -> CompilationJobResult:
        """Name, ARN, status, the artifact's URI and digest (empty while there is none)."""
        return compilation_result(description)


class StopCompilationJobOperator(AwsConnected):
    """Stops a compilation job and waits until it is; one that has ended already is left as it is.

    Source: SageMaker API, StopCompilationJob.

    :param job_name: name of the job.
    :param wait_for_completion: wait until it has ended. (default: True)
    :param poll_interval: time between two looks, in seconds. (default: 2)
    :param job_timeout: longest wait, in seconds. (default: 600)
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "job_name")

    def __init__(
        self,
        *,
        job_name: str,
        wait_for_completion: bool = True,
        poll_interval: float = 2.0,
        job_timeout: float = 600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.wait_for_completion = wait_for_completion
        self.poll_interval = poll_interval
        self.job_timeout = job_timeout
        check_intervals(poll_interval=poll_interval, job_timeout=job_timeout)

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> CompilationJobResult:
        """Ask for the stop, then look until the job has ended."""
        from model_delivery.hooks.compilation import CompilationJobs
        from model_delivery.jobs.client import JobClient

        client = JobClient(CompilationJobs(), self.open_hook)
        handle = {"name": self.job_name}
        self.log.info("Compilation job %s: %s", self.job_name, client.stop(handle).value)
        if not self.wait_for_completion:
            return compilation_result(client.describe(handle))
        ended = client.ended(
            handle, interval=self.poll_interval, longest=self.job_timeout, limit="job_timeout"
        )
        return compilation_result(ended)


class ListCompilationJobsOperator(AwsConnected):
    """Lists compilation jobs; the summaries go to storage, the first names to XCom.

    Source: SageMaker API, ListCompilationJobs.

    :param output_uri: URI of the JSON Lines to write, a summary a line. (default: none)
    :param name_contains: part of the name.
    :param status: STARTING, INPROGRESS, COMPLETED, FAILED, STOPPING or STOPPED.
    :param created_after: created later than this time, as ISO 8601 text.
    :param created_before: created earlier.
    :param modified_after: last changed later.
    :param modified_before: last changed earlier.
    :param sort_by: Name, CreationTime or Status. (default: CreationTime)
    :param sort_order: Ascending or Descending. (default: Ascending)
    :param limit: most jobs to list, 1 or more; None lists all. (default: None)
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "output_uri", "name_contains", "status", "created_after",
        "created_before", "modified_after", "modified_before", "sort_by", "sort_order", "limit",
    )  # fmt: skip

    def __init__(
        self,
        *,
        output_uri: str | None = None,
        name_contains: str | None = None,
        status: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        modified_after: str | None = None,
        modified_before: str | None = None,
        sort_by: str | None = None,
        sort_order: str | None = None,
        limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_uri = output_uri
        self.name_contains = name_contains
        self.status = status
        self.created_after = created_after
        self.created_before = created_before
        self.modified_after = modified_after
        self.modified_before = modified_before
        self.sort_by = sort_by
        self.sort_order = sort_order
        self.limit = limit

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> CompilationJobListing:
        """Page through the list, writing as it comes."""
        filters = self._filters()
        names: list[str] = []
        count = 0
        with _lines(self.output_uri, self.aws_conn_id) as write:
            for job in _asked(lambda: self.hook.list_jobs(**filters), "the compilation jobs"):
                count += 1
                if len(names) < PAGE_OF_NAMES:
                    names.append(job["CompilationJobName"])
                write(as_line(job))
        self.log.info("%d compilation jobs", count)
        return {
            "version": VERSION,
            "count": count,
            "job_names": names,
            "output_uri": self.output_uri or "",
        }

    def _filters(self) -> dict[str, Any]:
        times = ("created_after", "created_before", "modified_after", "modified_before")
        others = ("name_contains", "status", "sort_by", "sort_order")
        given = {name: getattr(self, name) or None for name in others}
        given |= {name: _moment(name, getattr(self, name)) for name in times}
        return {**given, "limit": _most(self.limit)}


class DeleteCompilationJobOperator(AwsConnected):
    """Deletes the record of a compilation job that has ended; what it compiled stays in storage.

    A job that is not there (any more) is no error: a retry may come after a deletion.

    Source: SageMaker API, DeleteCompilationJob.

    :param job_name: name of the job.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "job_name")

    def __init__(self, *, job_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name

    @property
    def hook_path(self) -> str:
        """SageMaker."""
        return HOOK

    def execute(self, context: Context) -> DeletedCompilationJob:
        """Delete it, once."""
        from model_delivery.jobs.faults import error_code

        deleted = True
        try:
            for _ in _asked(self._delete, f"compilation job {self.job_name}"):
                pass
        except (DeliveryError, JobRefusedError) as error:
            if error_code(error.__cause__ or error) != "ResourceNotFound":
                raise
            self.log.info("Compilation job %s is not there", self.job_name)
            deleted = False
        return {"version": VERSION, "job_name": self.job_name, "deleted": deleted}

    def _delete(self) -> Iterator[None]:
        yield self.hook.delete_job(self.job_name)


def _asked(ask: Callable[[], Iterator[Any]], about: str) -> Iterator[Any]:
    """Yield what a hook yields; the service's errors name what was asked about."""
    with named_errors(about):
        yield from ask()


@contextmanager
def _lines(uri: str | None, aws_conn_id: str | None) -> Iterator[Callable[[bytes], None]]:
    if not uri:
        yield lambda line: None
        return
    from model_delivery.hooks.storage import StorageHook

    with StorageHook(aws_conn_id or "aws_default").writing(uri) as write:
        yield write


def _most(limit: int | str | None) -> int | None:
    if limit is None or limit == "":
        return None
    try:
        most = int(limit)
    except ValueError:
        most = 0
    if most < 1:
        raise InvalidRequestError(f"limit is {limit!r}: give a whole number from 1, None for all")
    return most


def _moment(parameter: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"{parameter} is {text!r}, not a time: write 2026-01-31T12:00:00+00:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def compilation_result(description: JobDescription) -> CompilationJobResult:
    """Read a description as the XCom of operator and sensor."""
    artifacts = description.detail.get("ModelArtifacts") or {}
    digests = description.detail.get("ModelDigests") or {}
    return {
        "version": VERSION,
        "job_arn": description.handle["arn"],
        "job_name": description.handle["name"],
        "status": description.status,
        "output_uri": artifacts.get("S3ModelArtifacts", ""),
        "digest": digests.get("ArtifactDigest", ""),
    }


def _region_and_account(arn: str) -> tuple[str, str]:
    _arn, _partition, _service, region, account, _resource = arn.split(":", 5)
    return region, account


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
