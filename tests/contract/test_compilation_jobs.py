"""SageMaker compilation jobs through boto3: real archives, real compiling, real refusals."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from model_delivery_engine.bundle import open_bundle

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET

MODEL_PACKAGE = "arn:aws:sagemaker:eu-west-1:000000000000:model-package/m/1"
Put = Callable[[bytes], str]
Archive = Callable[..., bytes]
JobRequest = Callable[..., dict[str, Any]]
Wait = Callable[..., dict[str, Any]]
Change = Callable[[dict[str, Any]], dict[str, Any]]


def outputs(cloud: Any, request: dict[str, Any]) -> list[str]:
    prefix = request["OutputConfig"]["S3OutputLocation"].removeprefix(f"s3://{BUCKET}/")
    listed = cloud.store.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"] for item in listed.get("Contents", [])]


def test_a_model_is_compiled_to_a_bundle(
    cloud: Any, worker: None, put: Put, archive: Archive, job_request: JobRequest, wait: Wait,
    tmp_path: Path,
) -> None:  # fmt: skip
    client = cloud.client("sagemaker")
    request = job_request(put(archive()), Tags=[{"Key": "team", "Value": "digits"}])
    created = client.create_compilation_job(**request)
    name = request["CompilationJobName"]
    arn = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:compilation-job/{name}"
    assert created["CompilationJobArn"] == arn
    done = wait(client, name)
    assert done["CompilationJobStatus"] == "COMPLETED", done["FailureReason"]
    assert done["FailureReason"] == ""
    assert done["InputConfig"] == request["InputConfig"]
    assert done["CreationTime"] <= done["CompilationStartTime"] <= done["CompilationEndTime"]
    uri = done["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/compiled/{name}/digits-ml_c5.tar.gz"
    bundle = tmp_path / "bundle.tar.gz"
    cloud.store.client().download_file(BUCKET, uri.removeprefix(f"s3://{BUCKET}/"), str(bundle))
    digest = "sha256:" + hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert done["ModelDigests"]["ArtifactDigest"] == digest
    manifest = open_bundle(bundle, tmp_path / "opened").manifest
    assert manifest.source.uri == request["InputConfig"]["S3Uri"]
    assert manifest.inputs[0].shape == (4, 8)
    tags = client.list_tags(ResourceArn=arn)["Tags"]
    assert tags == [{"Key": "team", "Value": "digits"}]


def with_input(**changes: Any) -> Change:
    return lambda request: {**request, "InputConfig": {**request["InputConfig"], **changes}}


def with_output(**changes: Any) -> Change:
    return lambda request: {**request, "OutputConfig": {**request["OutputConfig"], **changes}}


@pytest.mark.parametrize("config", [None, "{}", " "])
def test_shapes_that_are_not_given_are_derived(
    cloud: Any, worker: None, put: Put, archive: Archive, job_request: JobRequest, wait: Wait,
    config: str | None,
) -> None:  # fmt: skip
    client = cloud.client("sagemaker")
    request = job_request(put(archive()))
    del request["InputConfig"]["DataInputConfig"]
    if config:
        request["InputConfig"]["DataInputConfig"] = config
    client.create_compilation_job(**request)
    done = wait(client, request["CompilationJobName"])
    assert done["CompilationJobStatus"] == "COMPLETED", done["FailureReason"]
    derived = json.loads(done["DerivedInformation"]["DerivedDataInputConfig"])
    assert derived == {"pixels": [-1, 8]}


@pytest.mark.parametrize(
    ("data", "change", "says"),
    [
        (lambda a: a(), with_input(S3Uri=f"s3://{BUCKET}/models/none.tar.gz"), "none.tar.gz"),
        (lambda a: a(), with_input(S3Uri="s3://nobodys-bucket/m.tar.gz"), "nobodys-bucket"),
        (lambda a: a(), with_output(S3OutputLocation="s3://nobodys-bucket/o"), "nobodys"),
        (lambda a: a()[:-200], lambda request: request, "digits.tar.gz"),
        (lambda a: a(member="../model.onnx"), lambda request: request, "../model.onnx"),
        (lambda a: a(member="/model.onnx"), lambda request: request, "/model.onnx"),
        (lambda a: a(), with_input(DataInputConfig='{"pixels": [4, 9]}'), "pixels"),
        (lambda a: a(), with_input(DataInputConfig='{"images": [4, 8]}'), "images"),
        (lambda a: a(), with_input(DataInputConfig="not json"), "DataInputConfig"),
        (lambda a: a(), with_input(Framework="KERAS"), "MODEL_MISSING: the archive has no Keras"),
    ],
    ids=[
        "missing object", "missing bucket", "missing output bucket", "truncated", "dot-dot member",
        "absolute member", "wrong shape", "wrong input name", "no JSON", "framework",
    ],
)  # fmt: skip
def test_the_users_faults_are_client_errors_that_name_the_thing(
    cloud: Any,
    worker: None,
    put: Put,
    archive: Archive,
    job_request: JobRequest,
    wait: Wait,
    data: Callable[[Archive], bytes],
    change: Change,
    says: str,
) -> None:
    client = cloud.client("sagemaker")
    request = change(job_request(put(data(archive))))
    client.create_compilation_job(**request)
    done = wait(client, request["CompilationJobName"])
    assert done["CompilationJobStatus"] == "FAILED"
    assert done["FailureReason"].startswith("ClientError: ")
    assert says in done["FailureReason"]
    assert done["ModelArtifacts"]["S3ModelArtifacts"] == ""
    if "nobodys" not in request["OutputConfig"]["S3OutputLocation"]:
        assert outputs(cloud, request) == []


def test_a_name_is_used_once(cloud: Any, job_request: JobRequest) -> None:
    client = cloud.client("sagemaker")
    request = job_request(f"s3://{BUCKET}/models/never.tar.gz")
    client.create_compilation_job(**request)
    with pytest.raises(ClientError, match="already exists") as refused:
        client.create_compilation_job(**request)
    assert refused.value.response["Error"]["Code"] == "ResourceInUse"
    # The same name is free in another region: the region is part of every key.
    cloud.client("sagemaker", region_name="eu-west-2").create_compilation_job(**request)


def test_an_unknown_job_is_not_found(cloud: Any) -> None:
    client = cloud.client("sagemaker")
    for call in (
        client.describe_compilation_job, client.stop_compilation_job, client.delete_compilation_job,
    ):  # fmt: skip
        with pytest.raises(client.exceptions.ResourceNotFound, match="nobody-made-this"):
            call(CompilationJobName="nobody-made-this")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: {**r, "CompilationJobName": "-x"}, "regular expression pattern"),
        (lambda r: {**r, "CompilationJobName": "x" * 64}, "less than or equal to 63"),
        (with_input(Framework="CAFFE"), "enum value set"),
        (with_input(S3Uri=f"s3://{BUCKET}/model.zip"), r"\.tar\.gz"),
        (with_input(S3Uri="https://example.com/m.tar.gz"), "s3://"),
        (with_input(FrameworkVersion="1.8"), "ONNX has no versions"),
        (with_input(Framework="PYTORCH", FrameworkVersion="9.9"), "newer than"),
        (with_input(DataInputConfig="x" * 16_385), "less than or equal to 16384"),
        (with_output(CompilerOptions="{}"), "greater than or equal to 3"),
        (with_output(TargetPlatform={"Os": "BEOS", "Arch": "X86_64"}), "enum value set"),
        (lambda r: {**r, "Tags": [{"Key": "a", "Value": "1"}] * 2}, "given twice"),
        (lambda r: {**r, "Tags": [{"Key": "aws:a", "Value": "1"}]}, "reserved"),
        (lambda r: {**r, "Tags": [{"Key": str(n), "Value": ""} for n in range(51)]}, "50"),
        (lambda r: {**r, "RoleArn": "arn:aws:iam::1:user/nobody-here"}, "roleArn"),
        (
            lambda r: {
                **r,
                "ModelPackageVersionArn": MODEL_PACKAGE,
            },
            "ModelPackageVersionArn",
        ),
        (lambda r: {**r, "StoppingCondition": {"MaxPendingTimeInSeconds": 1800}}, "MaxPending"),
        (lambda r: {**r, "StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "greater than"),
        (with_output(TargetDevice="ml_quantum"), "enum value set"),
        (with_output(TargetDevice="ml_inf1"), "Neuron"),
        (with_output(TargetPlatform={"Os": "LINUX", "Arch": "X86_64"}), "exactly one of"),
        (with_output(KmsKeyId="key"), "OutputConfig.KmsKeyId"),
        (
            lambda r: {**r, "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}},
            "VpcConfig",
        ),
        (lambda r: {**r, "StoppingCondition": {"MaxRuntimeInSeconds": 2_419_201}}, "28 days"),
        (lambda r: {**r, "StoppingCondition": {"MaxWaitTimeInSeconds": 60}}, "MaxWaitTime"),
        (lambda r: {k: v for k, v in r.items() if k != "InputConfig"}, "InputConfig is required"),
    ],
)
def test_bad_requests_are_validation_errors(
    cloud: Any, job_request: JobRequest, change: Change, says: str
) -> None:
    # What the client itself would refuse has to be refused by the service too.
    client = cloud.client("sagemaker", config=Config(parameter_validation=False))
    request = change(job_request(f"s3://{BUCKET}/models/never.tar.gz"))
    with pytest.raises(ClientError, match=says) as refused:
        client.create_compilation_job(**request)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def post(cloud: Any, body: str) -> httpx.Response:
    headers = {"X-Amz-Target": "SageMaker.CreateCompilationJob"}
    request = AWSRequest("POST", cloud.url + "/", data=body, headers=headers)
    SigV4Auth(Credentials(cloud.access_key_id, cloud.secret), "sagemaker", "eu-west-1").add_auth(
        request
    )
    prepared = request.prepare()
    return httpx.post(prepared.url, content=body, headers=dict(prepared.headers))


def test_what_a_client_would_never_send_is_refused_by_name(cloud: Any) -> None:
    faults = post(cloud, '{"CompilationJobName": 7, "Color": "red"}').json()
    assert faults["__type"] == "ValidationException"
    for expected in (
        "5 validation errors detected",
        "Unknown member 'Color'",
        "'7' at 'compilationJobName' failed to satisfy constraint: Member must be of type string",
        "Value null at 'roleArn' failed to satisfy constraint: Member must not be null",
    ):
        assert expected in faults["message"]
    assert post(cloud, "{nonsense").json()["__type"] == "SerializationException"
