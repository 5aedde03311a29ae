"""The AWS command line against localcloud: what it sends, prints and exits with, unpatched."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET

REGION = "eu-west-1"
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method. Consult the service documentation "
    "for details."
)
Done = subprocess.CompletedProcess[str]


def answer(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def refusal(done: Done) -> str:
    assert done.returncode == 255, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout == ""
    return done.stderr.strip()


def create_job(aws: Callable[..., Done], request: dict[str, Any]) -> str:
    created = answer(aws(
        "sagemaker", "create-compilation-job",
        "--compilation-job-name", request["CompilationJobName"],
        "--role-arn", request["RoleArn"],
        "--input-config", json.dumps(request["InputConfig"]),
        "--output-config", json.dumps(request["OutputConfig"]),
        "--stopping-condition", "MaxRuntimeInSeconds=300",
    ))  # fmt: skip
    return str(created["CompilationJobArn"])


def describe_job(aws: Callable[..., Done], name: str) -> dict[str, Any]:
    told = aws("sagemaker", "describe-compilation-job", "--compilation-job-name", name)
    return dict(answer(told))


def wait_for_status(aws: Callable[..., Done], name: str, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 90
    while (found := describe_job(aws, name))["CompilationJobStatus"] != status:
        assert found["CompilationJobStatus"] != "FAILED", found["FailureReason"]
        assert time.monotonic() < deadline, found
    return found


def test_caller_identity(cloud: Any, aws: Callable[..., Done]) -> None:
    assert answer(aws("sts", "get-caller-identity")) == {
        "UserId": cloud.access_key_id,
        "Account": ACCOUNT,
        "Arn": f"arn:aws:iam::{ACCOUNT}:user/{cloud.access_key_id}",
    }


def test_a_compilation_job_is_created_listed_and_described_until_it_is_done(
    cloud: Any, aws: Callable[..., Done], put: Any, archive: Any, job_request: Any
) -> None:
    request = job_request(put(archive()))
    name = request["CompilationJobName"]
    arn = create_job(aws, request)
    assert arn == f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:compilation-job/{name}"
    with cloud.worker():
        done = wait_for_status(aws, name, "COMPLETED")
    assert done["CompilationJobArn"] == arn
    assert done["InputConfig"] == request["InputConfig"]
    uri = done["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/compiled/{name}/digits-ml_c5.tar.gz"
    listed = answer(aws("sagemaker", "list-compilation-jobs", "--name-contains", name))
    [summary] = listed["CompilationJobSummaries"]
    assert summary["CompilationJobStatus"] == "COMPLETED"
    assert summary["CompilationTargetDevice"] == "ml_c5"


def test_the_command_line_follows_the_pages_of_a_list(
    aws: Callable[..., Done], job_request: Any
) -> None:
    prefix = f"paged-{uuid4().hex[:8]}"
    names = [f"{prefix}-{index}" for index in range(3)]
    for name in names:
        uri = f"s3://{BUCKET}/models/never.tar.gz"
        create_job(aws, {**job_request(uri), "CompilationJobName": name})
    listed = answer(aws(
        "sagemaker", "list-compilation-jobs", "--name-contains", prefix, "--page-size", "1",
        "--sort-by", "Name", "--sort-order", "Ascending",
    ))  # fmt: skip
    assert [job["CompilationJobName"] for job in listed["CompilationJobSummaries"]] == names


def test_a_waiting_job_is_stopped(aws: Callable[..., Done], job_request: Any) -> None:
    request = job_request(f"s3://{BUCKET}/models/never.tar.gz")
    name = request["CompilationJobName"]
    create_job(aws, request)
    assert describe_job(aws, name)["CompilationJobStatus"] == "STARTING"
    stop = aws("sagemaker", "stop-compilation-job", "--compilation-job-name", name)
    assert answer(stop) is None
    assert describe_job(aws, name)["CompilationJobStatus"] == "STOPPED"


def test_an_unknown_job_is_named(aws: Callable[..., Done]) -> None:
    for command in ("describe", "stop"):
        told = refusal(
            aws("sagemaker", f"{command}-compilation-job", "--compilation-job-name", "nobodys")
        )
        operation = f"{command.title()}CompilationJob"
        assert f"(ResourceNotFound) when calling the {operation} operation" in told
        assert f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:compilation-job/nobodys" in told


@pytest.mark.parametrize(
    ("command", "operation", "code"),
    [
        (("sts", "get-caller-identity"), "GetCallerIdentity", "SignatureDoesNotMatch"),
        (
            ("sagemaker", "list-compilation-jobs"),
            "ListCompilationJobs",
            "InvalidSignatureException",
        ),
        (("greengrassv2", "list-core-devices"), "ListCoreDevices", "InvalidSignatureException"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_wrong_secret_is_refused_in_aws_words(
    aws: Callable[..., Done], command: tuple[str, ...], operation: str, code: str
) -> None:
    told = refusal(aws(*command, AWS_SECRET_ACCESS_KEY="not-the-secret-of-this-key"))
    assert f"An error occurred ({code}) when calling the {operation} operation" in told
    assert MISMATCH in told


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sts", "get-caller-identity"), "MissingAuthenticationToken"),
        (("sagemaker", "list-compilation-jobs"), "MissingAuthenticationTokenException"),
        (("greengrassv2", "list-core-devices"), "MissingAuthenticationTokenException"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_an_unsigned_request_is_refused(
    aws: Callable[..., Done], command: tuple[str, ...], code: str
) -> None:
    told = refusal(aws(*command, "--no-sign-request"))
    assert f"({code})" in told
    assert "Missing Authentication Token" in told


@pytest.fixture
def component(cloud: Any, aws: Callable[..., Done], tmp_path: Path) -> str:
    """Register version 1.0.0 of a component over the command line; return its name."""
    name = f"digits-{uuid4().hex[:8]}"
    key = f"bundles/{name}.tar.gz"
    cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=b"bundle of " + name.encode())
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": "1.0.0",
        "ComponentType": "aws.greengrass.generic",
        "Manifests": [
            {"Platform": {"os": "linux"}, "Artifacts": [{"Uri": f"s3://{BUCKET}/{key}"}]}
        ],
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    created = answer(aws(
        "greengrassv2", "create-component-version", "--inline-recipe", "fileb://recipe.json"
    ))  # fmt: skip
    assert created["arn"].endswith(f":components:{name}:versions:1.0.0")
    assert created["status"]["componentState"] == "DEPLOYABLE"
    return name


class Device:
    """A registered core device, as the device wire sees one."""

    def __init__(self, cloud: Any) -> None:
        self.thing = f"camera-{uuid4().hex[:8]}"
        self.url = f"{cloud.url}/edge/v1/devices/{self.thing}"
        self.facts = {"agent_version": "0.1.0"}
        self.headers = {"Model-Delivery-Edge-Protocol": "1"}
        token = cloud.run("device-token", self.thing, "--account", ACCOUNT, "--region", REGION)
        told = {"token": token, "architecture": "x86_64", "platform": "linux"}
        registered = httpx.post(
            f"{self.url}/registration", json={**self.facts, **told}, headers=self.headers
        )
        assert registered.status_code == 201, registered.text
        self.headers["Authorization"] = f"Bearer {registered.json()['device_key']}"

    def report(self, deployment_id: str, status: str) -> None:
        told = {"generation": 1, "deployment_id": deployment_id, "status": status}
        rest: dict[str, Any] = {"running": [], "error": None, "endpoint": None}
        reported = httpx.put(
            f"{self.url}/reported", json={**self.facts, **told, **rest}, headers=self.headers
        )
        assert reported.status_code == 204, reported.text


def test_a_component_is_deployed_and_the_device_is_seen(
    cloud: Any, aws: Callable[..., Done], component: str
) -> None:
    device = Device(cloud)
    target = f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/{device.thing}"
    created = answer(aws(
        "greengrassv2", "create-deployment", "--target-arn", target,
        "--deployment-name", "to-the-camera",
        "--components", json.dumps({component: {"componentVersion": "1.0.0"}}),
    ))  # fmt: skip
    deployment = ("--deployment-id", created["deploymentId"])
    found = answer(aws("greengrassv2", "get-deployment", *deployment))
    assert found["deploymentStatus"] == "ACTIVE"
    assert found["targetArn"] == target
    assert found["components"][component]["componentVersion"] == "1.0.0"
    device.report(created["deploymentId"], "SUCCEEDED")
    thing = ("--core-device-thing-name", device.thing)
    [effective] = answer(aws("greengrassv2", "list-effective-deployments", *thing))[
        "effectiveDeployments"
    ]
    assert effective["deploymentId"] == created["deploymentId"]
    assert effective["coreDeviceExecutionStatus"] == "SUCCEEDED"
    found = answer(aws("greengrassv2", "get-deployment", *deployment))
    assert found["deploymentStatus"] == "COMPLETED"
    seen = answer(aws("greengrassv2", "get-core-device", *thing))
    assert (seen["status"], seen["platform"]) == ("HEALTHY", "linux")


def test_an_unknown_device_and_deployment_are_refused(aws: Callable[..., Done]) -> None:
    told = refusal(aws("greengrassv2", "get-core-device", "--core-device-thing-name", "nobodys"))
    assert "(ResourceNotFoundException) when calling the GetCoreDevice operation" in told
    told = refusal(aws("greengrassv2", "get-deployment", "--deployment-id", str(uuid4())))
    assert "(ResourceNotFoundException) when calling the GetDeployment operation" in told
