"""Amazon SageMaker: compilation jobs."""

import json
from collections.abc import Mapping
from typing import Any

from model_delivery_engine.errors import EngineError
from model_delivery_engine.frameworks.versions import check_framework_version
from model_delivery_engine.shapes import parse_data_input_config
from model_delivery_engine.targets import resolve_target
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms, to_datetime, to_milliseconds
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.refusals import refuse_members, refuse_unstorable
from model_delivery_localcloud.services.sagemaker_tags import check_tags
from model_delivery_localcloud.store import compilation as states
from model_delivery_localcloud.store.compilation import ListFilter
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import Stop, enqueue, request_stop
from model_delivery_localcloud.store.tables import CompilationJob

JOB_KIND = "compilation"
DEFAULT_RUNTIME = 86_400
LONGEST_RUNTIME = 28 * 86_400
DEFAULT_PAGE = 10
ARCHIVE_ENDINGS = (".tar.gz", ".tgz")
_REFUSED = (
    "ModelPackageVersionArn",
    "VpcConfig",
    "OutputConfig.KmsKeyId",
    "StoppingCondition.MaxWaitTimeInSeconds",
    "StoppingCondition.MaxPendingTimeInSeconds",
)
_DOCUMENTS = ("InputConfig.DataInputConfig", "OutputConfig.CompilerOptions")


class SageMaker:
    """The compilation part of SageMaker over the store; the workers do the compiling."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return SageMaker's built operations."""
        return {
            "CreateCompilationJob": self.create,
            "DescribeCompilationJob": self.describe,
            "ListCompilationJobs": self.list,
            "StopCompilationJob": self.stop,
            "DeleteCompilationJob": self.delete,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Queue a compilation; a name that is taken answers ResourceInUse."""
        params = dict(call.params)
        _check_request(params)
        target = _resolve(params["OutputConfig"])
        name = params["CompilationJobName"]
        condition = {"MaxRuntimeInSeconds": DEFAULT_RUNTIME, **params["StoppingCondition"]}
        now = now_ms()
        job = CompilationJob(
            account=call.caller.account,
            region=call.caller.region,
            name=name,
            request={**params, "StoppingCondition": condition},
            target=target,
            output_uri=_output_uri(params, target),
            status=states.STARTING,
            created_at=now,
            modified_at=now,
        )
        arn = _arn(call.caller, name)
        try:
            with self._database.write() as session:
                job.job_id = enqueue(session, JOB_KIND, job.account, job.region, name)
                session.add(job)
        except IntegrityError:
            raise ServiceError(
                "ResourceInUse", f"Compilation job already exists: {arn}; choose another name."
            ) from None
        return {"CompilationJobArn": arn}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a job's request, state, times and result."""
        with self._database.read() as session:
            return _description(_find(session, call), call.caller)

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of jobs, ascending by creation time unless asked otherwise."""
        params = call.params
        wanted = _list_filter(params)
        filters = {key: params[key] for key in params if key not in {"NextToken", "MaxResults"}}
        after = decode_token(params.get("NextToken"), filters, states.sort_key_types(wanted))
        limit = params.get("MaxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            jobs = states.list_compilation_jobs(
                session, call.caller.account, call.caller.region, wanted, after, limit + 1
            )
        page = jobs[:limit]
        answer: dict[str, Any] = {
            "CompilationJobSummaries": [_summary(job, call.caller) for job in page]
        }
        if len(jobs) > limit:
            answer["NextToken"] = encode_token(states.sort_key(page[-1], wanted), filters)
        return answer

    def stop(self, call: Call) -> dict[str, Any]:
        """Stop a job: one that waits is STOPPED at once, one that runs is STOPPING until killed."""
        with self._database.write() as session:
            job = _find(session, call)
            found = request_stop(session, job.job_id)
            session.expire(job)  # its worker may have ended it meanwhile
            job = _find(session, call)
            if found is Stop.LATE:
                raise validation_error(
                    "The request was rejected because the compilation job "
                    f"{job.name} is in status {job.status}."
                )
            stopped = found is Stop.STOPPED
            states.set_status(job, states.STOPPED if stopped else states.STOPPING)
        return {}

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete the record of a job that has ended; its bundle stays in storage."""
        with self._database.write() as session:
            job = _find(session, call)
            if job.status not in states.TERMINAL:
                raise validation_error(
                    f"The request was rejected because the compilation job {job.name} is in status "
                    f"{job.status}: stop it first."
                )
            states.delete_compilation_job(session, job)
        return {}


def _check_request(params: Mapping[str, Any]) -> None:
    refuse_members(params, _REFUSED)
    refuse_unstorable(params, _DOCUMENTS)
    source = params.get("InputConfig")
    if source is None:
        raise validation_error("InputConfig is required: name the model archive and framework.")
    _check_framework_version(source)
    check_tags(params.get("Tags", []))
    for name, uri in (
        ("InputConfig.S3Uri", source["S3Uri"]),
        ("OutputConfig.S3OutputLocation", params["OutputConfig"]["S3OutputLocation"]),
    ):
        if not uri.startswith("s3://"):
            raise validation_error(f"{name} must be an s3:// URI, got '{uri}'.")
    if not source["S3Uri"].endswith(ARCHIVE_ENDINGS):
        raise validation_error(
            f"InputConfig.S3Uri must name a .tar.gz archive, got '{source['S3Uri']}'."
        )
    if params["StoppingCondition"].get("MaxRuntimeInSeconds", 1) > LONGEST_RUNTIME:
        raise validation_error(
            f"StoppingCondition.MaxRuntimeInSeconds must be at most {LONGEST_RUNTIME} (28 days)."
        )


def _check_framework_version(source: Mapping[str, Any]) -> None:
    try:
        check_framework_version(source["Framework"], source.get("FrameworkVersion"))
    except EngineError as error:
        raise validation_error(f"InputConfig.FrameworkVersion: {error}.") from error


def _resolve(output: Mapping[str, Any]) -> str:
    device, platform = output.get("TargetDevice"), output.get("TargetPlatform")
    if (device is None) == (platform is None):
        raise validation_error(
            "OutputConfig must have exactly one of TargetDevice and TargetPlatform."
        )
    try:
        return resolve_target(device, platform).name
    except EngineError as error:
        raise validation_error(str(error)) from error


def _output_uri(params: Mapping[str, Any], target: str) -> str:
    archive = params["InputConfig"]["S3Uri"].rpartition("/")[2]
    for ending in ARCHIVE_ENDINGS:
        archive = archive.removesuffix(ending)
    location = params["OutputConfig"]["S3OutputLocation"].rstrip("/")
    return f"{location}/{archive}-{target}.tar.gz"


def _arn(caller: Caller, name: str) -> str:
    return f"arn:aws:sagemaker:{caller.region}:{caller.account}:compilation-job/{name}"


def _find(session: Session, call: Call) -> CompilationJob:
    name = call.params["CompilationJobName"]
    caller = call.caller
    job = states.find_compilation_job(session, caller.account, caller.region, name)
    if job is None:
        raise ServiceError("ResourceNotFound", f"Could not find job {_arn(caller, name)}.")
    return job


def _description(job: CompilationJob, caller: Caller) -> dict[str, Any]:
    request = job.request
    artifacts = job.output_uri if job.status == states.COMPLETED else ""
    answer: dict[str, Any] = {
        "CompilationJobName": job.name,
        "CompilationJobArn": _arn(caller, job.name),
        "CompilationJobStatus": job.status,
        "StoppingCondition": request["StoppingCondition"],
        "CreationTime": to_datetime(job.created_at),
        "LastModifiedTime": to_datetime(job.modified_at),
        "FailureReason": job.failure_reason,
        "ModelArtifacts": {"S3ModelArtifacts": artifacts},
        "RoleArn": request["RoleArn"],
        "InputConfig": request["InputConfig"],
        "OutputConfig": request["OutputConfig"],
        **_times(job),
    }
    if job.artifact_digest is not None:
        answer["ModelDigests"] = {"ArtifactDigest": job.artifact_digest}
    source = request["InputConfig"]
    given = source.get("DataInputConfig")
    if job.manifest is not None and not parse_data_input_config(given, source["Framework"]):
        derived = {each["name"]: each["shape"] for each in job.manifest["inputs"]}
        answer["DerivedInformation"] = {"DerivedDataInputConfig": json.dumps(derived)}
    return answer


def _summary(job: CompilationJob, caller: Caller) -> dict[str, Any]:
    output = job.request["OutputConfig"]
    platform = output.get("TargetPlatform", {})
    optional = {
        "CompilationTargetDevice": output.get("TargetDevice"),
        "CompilationTargetPlatformOs": platform.get("Os"),
        "CompilationTargetPlatformArch": platform.get("Arch"),
        "CompilationTargetPlatformAccelerator": platform.get("Accelerator"),
    }
    return {
        "CompilationJobName": job.name,
        "CompilationJobArn": _arn(caller, job.name),
        "CreationTime": to_datetime(job.created_at),
        "LastModifiedTime": to_datetime(job.modified_at),
        "CompilationJobStatus": job.status,
        **_times(job),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _times(job: CompilationJob) -> dict[str, Any]:
    times = {"CompilationStartTime": job.started_at, "CompilationEndTime": job.ended_at}
    return {name: to_datetime(value) for name, value in times.items() if value is not None}


def _list_filter(params: Mapping[str, Any]) -> ListFilter:
    def moment(name: str) -> int | None:
        return to_milliseconds(params[name]) if name in params else None

    return ListFilter(
        created_after=moment("CreationTimeAfter"),
        created_before=moment("CreationTimeBefore"),
        modified_after=moment("LastModifiedTimeAfter"),
        modified_before=moment("LastModifiedTimeBefore"),
        name_contains=params.get("NameContains"),
        status=params.get("StatusEquals"),
        sort_by=params.get("SortBy", "CreationTime"),
        descending=params.get("SortOrder") == "Descending",
    )
