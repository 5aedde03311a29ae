"""One scenario of compilation jobs through three clients: boto3, aiobotocore, the command line.

Each answer is held to botocore's output shape; localcloud itself checks that it sends nothing else.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest
from aiobotocore.session import get_session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError
from model_delivery_localcloud.protocol.models import load_service
from model_delivery_localcloud.protocol.serialise import check_output

JobRequest = Callable[..., dict[str, Any]]
NEVER = "s3://contract/models/never.tar.gz"
REGION = "us-west-2"  # of its own: what these tests list is theirs


class RefusedError(Exception):
    """The service's refusal, whichever client told of it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api(Protocol):
    def __call__(self, operation: str, /, **parameters: Any) -> dict[str, Any]: ...


def with_boto3(cloud: Any) -> Api:
    client = cloud.client("sagemaker", region_name=REGION)

    def call(operation: str, /, **parameters: Any) -> dict[str, Any]:
        return told(lambda: getattr(client, xform_name(operation))(**parameters))

    return call


def with_aiobotocore(cloud: Any) -> Api:
    async def ask(operation: str, parameters: Mapping[str, Any]) -> Any:
        async with get_session().create_client(
            "sagemaker",
            region_name=REGION,
            endpoint_url=cloud.url,
            aws_access_key_id=cloud.access_key_id,
            aws_secret_access_key=cloud.secret,
            config=Config(retries={"total_max_attempts": 1}),
        ) as client:
            return await getattr(client, xform_name(operation))(**parameters)

    def call(operation: str, /, **parameters: Any) -> dict[str, Any]:
        return told(lambda: asyncio.run(ask(operation, parameters)))

    return call


def told(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        answer = dict(ask())
    except ClientError as error:
        raise RefusedError(error.response["Error"]["Code"], str(error)) from error
    answer.pop("ResponseMetadata")
    return answer


def with_awscli(aws: Any) -> Api:
    def call(operation: str, /, **parameters: Any) -> dict[str, Any]:
        command = xform_name(operation, "-")
        given = json.dumps(parameters, default=lambda moment: moment.isoformat())
        done = aws(
            "sagemaker", command, "--cli-input-json", given, "--no-paginate",
            AWS_DEFAULT_REGION=REGION,
        )  # fmt: skip
        if done.returncode:
            found = re.search(r"An error occurred \((\w+)\)", done.stderr)
            raise RefusedError(found[1] if found else "", done.stderr)
        return dict(timed(json.loads(done.stdout)) if done.stdout.strip() else {})

    return call


def timed(value: Any, name: str = "") -> Any:
    """Turn the times of the command line's JSON into times."""
    if isinstance(value, dict):
        return {key: timed(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [timed(each) for each in value]
    return datetime.fromtimestamp(value, UTC) if name.endswith("Time") else value


@pytest.fixture(params=["boto3", "aiobotocore", "awscli"])
def api(request: pytest.FixtureRequest, cloud: Any) -> Api:
    """Return a caller of SageMaker whose answers are held to the API's model."""
    if request.param == "awscli":
        ask = with_awscli(request.getfixturevalue("aws"))
    else:
        ask = {"boto3": with_boto3, "aiobotocore": with_aiobotocore}[request.param](cloud)
    service = load_service("sagemaker")

    def checked(operation: str, /, **parameters: Any) -> dict[str, Any]:
        answer = ask(operation, **parameters)
        model = service.operation(operation)
        assert model is not None
        check_output(answer, model)
        return answer

    return checked


def whole_second_after(moment: datetime) -> datetime:
    return moment.replace(microsecond=0) + timedelta(seconds=1)


def names(answer: Mapping[str, Any]) -> list[str]:
    return [job["CompilationJobName"] for job in answer["CompilationJobSummaries"]]


def test_from_creation_to_deletion(api: Api, job_request: JobRequest) -> None:
    tags = [{"Key": "team", "Value": "größe"}]
    request = job_request(
        NEVER,
        OutputConfig={
            "S3OutputLocation": "s3://contract/out/",
            "TargetPlatform": {"Os": "LINUX", "Arch": "ARM64"},
            "CompilerOptions": '{"precision": "int8"}',
        },
        Tags=tags,
    )
    name = request["CompilationJobName"]
    arn = api("CreateCompilationJob", **request)["CompilationJobArn"]
    assert arn.startswith(f"arn:aws:sagemaker:{REGION}:")
    found = api("DescribeCompilationJob", CompilationJobName=name)
    assert {key: found[key] for key in request if key != "Tags"} == {
        key: value for key, value in request.items() if key != "Tags"
    }
    assert (found["CompilationJobStatus"], found["FailureReason"]) == ("STARTING", "")
    assert found["ModelArtifacts"] == {"S3ModelArtifacts": ""}
    [summary] = api("ListCompilationJobs", NameContains=name)["CompilationJobSummaries"]
    assert summary["CompilationTargetPlatformOs"] == "LINUX"
    assert summary["CompilationTargetPlatformArch"] == "ARM64"
    assert "CompilationTargetDevice" not in summary
    with pytest.raises(RefusedError, match="already exists") as refused:
        api("CreateCompilationJob", **request)
    assert refused.value.code == "ResourceInUse"

    assert api("ListTags", ResourceArn=arn)["Tags"] == tags
    assert api("AddTags", ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}])["Tags"]
    api("DeleteTags", ResourceArn=arn, TagKeys=["team"])
    assert api("ListTags", ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "1"}]

    with pytest.raises(RefusedError, match="stop it first") as refused:
        api("DeleteCompilationJob", CompilationJobName=name)
    assert refused.value.code == "ValidationException"
    assert api("StopCompilationJob", CompilationJobName=name) == {}
    stopped = api("DescribeCompilationJob", CompilationJobName=name)
    assert stopped["CompilationJobStatus"] == "STOPPED"
    assert stopped["LastModifiedTime"] >= stopped["CreationTime"]
    with pytest.raises(RefusedError, match="is in status STOPPED"):
        api("StopCompilationJob", CompilationJobName=name)
    assert api("DeleteCompilationJob", CompilationJobName=name) == {}
    for operation in ("Describe", "Stop", "Delete"):
        with pytest.raises(RefusedError, match=re.escape(arn)) as refused:
            api(f"{operation}CompilationJob", CompilationJobName=name)
        assert refused.value.code == "ResourceNotFound"


def test_every_filter_and_order_of_the_list(api: Api, job_request: JobRequest) -> None:
    prefix = f"list-{uuid4().hex[:8]}"
    made = [f"{prefix}-{letter}" for letter in ("c", "a", "b")]
    for name in made:
        api("CreateCompilationJob", **job_request(NEVER, CompilationJobName=name))
        time.sleep(1.1)
    api("StopCompilationJob", CompilationJobName=made[1])
    # Some clients send whole seconds: one lies between each job's creation and the next.
    first, second, third = (
        whole_second_after(api("DescribeCompilationJob", CompilationJobName=name)["CreationTime"])
        for name in made
    )

    def listed(**filters: Any) -> list[str]:
        return names(api("ListCompilationJobs", NameContains=prefix, **filters))

    assert listed() == made
    assert listed(SortBy="Name") == sorted(made)
    assert listed(SortBy="Name", SortOrder="Descending") == sorted(made, reverse=True)
    assert listed(SortBy="Status") == [made[2], made[0], made[1]]
    assert listed(SortBy="CreationTime", SortOrder="Descending") == made[::-1]
    assert listed(StatusEquals="STOPPED") == [made[1]]
    assert listed(CreationTimeAfter=second) == [made[2]]
    assert listed(CreationTimeBefore=first) == [made[0]]
    assert listed(CreationTimeAfter=first, CreationTimeBefore=second) == [made[1]]
    assert listed(LastModifiedTimeAfter=third) == [made[1]]
    assert listed(LastModifiedTimeBefore=second) == [made[0]]

    page = api("ListCompilationJobs", NameContains=prefix, MaxResults=2)
    assert names(page) == made[:2]
    # What is deleted or added between two pages moves nothing.
    api("DeleteCompilationJob", CompilationJobName=made[1])
    rest = {"NextToken": page["NextToken"]}
    assert names(api("ListCompilationJobs", NameContains=prefix, **rest)) == made[2:]
    for wrong in ({"NameContains": "other", **rest}, {"NextToken": "made-up"}):
        with pytest.raises(RefusedError, match="Invalid nextToken") as refused:
            api("ListCompilationJobs", **wrong)
        assert refused.value.code == "ValidationException"


def test_a_finished_job_has_times_artifact_and_digest(
    api: Api, cloud: Any, put: Any, archive: Any, job_request: JobRequest
) -> None:
    request = job_request(put(archive()))
    name = request["CompilationJobName"]
    api("CreateCompilationJob", **request)
    with cloud.worker():
        found: dict[str, Any] = {}
        while found.get("CompilationJobStatus") not in ("COMPLETED", "FAILED"):
            found = api("DescribeCompilationJob", CompilationJobName=name)
    assert found["CompilationJobStatus"] == "COMPLETED", found["FailureReason"]
    assert found["CreationTime"] <= found["CompilationStartTime"] <= found["CompilationEndTime"]
    assert found["ModelArtifacts"]["S3ModelArtifacts"].endswith("-ml_c5.tar.gz")
    assert re.fullmatch("sha256:[0-9a-f]{64}", found["ModelDigests"]["ArtifactDigest"])
    [summary] = api("ListCompilationJobs", NameContains=name)["CompilationJobSummaries"]
    assert summary["CompilationEndTime"] == found["CompilationEndTime"]
    assert summary["CompilationTargetDevice"] == "ml_c5"
