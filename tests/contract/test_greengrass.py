"""Greengrass through boto3 and the device wire over HTTP: component → deployment → device."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
from botocore.exceptions import ClientError

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET

BUNDLE = bytes(range(256)) * 4096
DIGEST = "sha256:" + hashlib.sha256(BUNDLE).hexdigest()
VERSION = {"Model-Delivery-Edge-Protocol": "1"}


@dataclass
class Agent:
    """A device as the wire sees one."""

    cloud: Any
    thing: str
    key: str = field(default="", repr=False)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers = {**VERSION, **bearer, **options.pop("headers", {})}
        url = self.cloud.url + path
        return httpx.request(method, url, headers=headers, timeout=40, **options)

    def register(self, token: str) -> httpx.Response:
        body = {
            "token": token,
            "architecture": "x86_64",
            "platform": "linux",
            "agent_version": "0.1.0",
        }
        path = f"/edge/v1/devices/{self.thing}/registration"
        answer = self.call("POST", path, json=body)
        if answer.status_code == 201:
            self.key = answer.json()["device_key"]
        return answer

    def desired(self, after: int = 0, wait: float = 0) -> httpx.Response:
        query = {"after": after, "wait": wait}
        return self.call("GET", f"/edge/v1/devices/{self.thing}/desired", params=query)

    def report(self, **changes: Any) -> httpx.Response:
        body = {
            "generation": 0,
            "deployment_id": None,
            "status": "IDLE",
            "running": [],
            "error": None,
            "agent_version": "0.1.0",
            "endpoint": None,
            **changes,
        }
        return self.call("PUT", f"/edge/v1/devices/{self.thing}/reported", json=body)


def token_for(cloud: Any, thing: str) -> str:
    return str(cloud.run("device-token", thing, "--account", ACCOUNT, "--region", "eu-west-1"))


@pytest.fixture
def agent(cloud: Any) -> Agent:
    built = Agent(cloud, f"camera-{uuid4().hex[:8]}")
    assert built.register(token_for(cloud, built.thing)).status_code == 201
    return built


def target(thing: str) -> str:
    return f"arn:aws:iot:eu-west-1:{ACCOUNT}:thing/{thing}"


def recipe(name: str, version: str, uri: str, **changes: Any) -> bytes:
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentType": "aws.greengrass.generic",
        "ComponentPublisher": "model-delivery",
        "ComponentConfiguration": {"DefaultConfiguration": {"modelName": "digits", "threads": 1}},
        "Manifests": [{"Platform": {"os": "linux"}, "Artifacts": [{"Uri": uri}]}],
        **changes,
    }
    return json.dumps(document).encode()


@pytest.fixture
def component(cloud: Any) -> Callable[..., str]:
    name = f"digits-{uuid4().hex[:8]}"

    def make(version: str = "1.0.0") -> str:
        key = f"bundles/{name}-{version}.tar.gz"
        cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=BUNDLE)
        text = recipe(name, version, f"s3://{BUCKET}/{key}")
        cloud.client("greengrassv2").create_component_version(inlineRecipe=text)
        return name

    return make


def deploy(client: Any, thing: str, name: str, version: str = "1.0.0", **wanted: Any) -> str:
    created = client.create_deployment(
        targetArn=target(thing),
        deploymentName="to-the-camera",
        components={name: {"componentVersion": version, **wanted}},
    )
    return str(created["deploymentId"])


def test_a_component_goes_to_a_device_and_the_device_reports_it(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    client = cloud.client("greengrassv2")
    name = component()
    deployment_id = deploy(client, agent.thing, name)
    assert client.get_deployment(deploymentId=deployment_id)["deploymentStatus"] == "ACTIVE"
    state = agent.desired().json()
    assert state["generation"] == 1
    assert state["deployment_id"] == deployment_id
    [wanted] = state["components"]
    assert wanted == {
        "name": name,
        "version": "1.0.0",
        "configuration": {"modelName": "digits", "threads": 1},
        "artifact": {
            "digest": DIGEST,
            "size": len(BUNDLE),
            "path": f"/edge/v1/artifacts/{DIGEST}",
        },
    }
    downloaded = agent.call("GET", wanted["artifact"]["path"])
    assert downloaded.content == BUNDLE
    assert downloaded.headers["etag"] == f'"{DIGEST}"'

    def status() -> str:
        listed = client.list_effective_deployments(coreDeviceThingName=agent.thing)
        return str(listed["effectiveDeployments"][0]["coreDeviceExecutionStatus"])

    assert status() == "QUEUED"
    told = {"generation": 1, "deployment_id": deployment_id}
    assert agent.report(**told, status="IN_PROGRESS").status_code == 204
    assert status() == "IN_PROGRESS"
    running = {"name": name, "version": "1.0.0", "digest": DIGEST, "model_digest": "sha256:00"}
    agent.report(**told, status="SUCCEEDED", running=[running], endpoint="http://127.0.0.1:1")
    assert status() == "SUCCEEDED"
    assert client.get_deployment(deploymentId=deployment_id)["deploymentStatus"] == "COMPLETED"
    device = client.get_core_device(coreDeviceThingName=agent.thing)
    assert (device["status"], device["architecture"]) == ("HEALTHY", "x86_64")
    installed = client.list_installed_components(coreDeviceThingName=agent.thing)
    [item] = installed["installedComponents"]
    assert item["componentVersion"] == "1.0.0"
    assert DIGEST in item["lifecycleStateDetails"]
    things = [
        one["coreDeviceThingName"]
        for page in client.get_paginator("list_core_devices").paginate(status="HEALTHY")
        for one in page["coreDevices"]
    ]
    assert agent.thing in things


def test_a_failing_device_fails_the_deployment_with_its_reason(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    client = cloud.client("greengrassv2")
    deployment_id = deploy(client, agent.thing, component())
    told = {"generation": 1, "deployment_id": deployment_id}
    agent.report(**told, status="FAILED", error="golden output 3 differs by 0.5")
    assert client.get_deployment(deploymentId=deployment_id)["deploymentStatus"] == "FAILED"
    [effective] = client.list_effective_deployments(coreDeviceThingName=agent.thing)[
        "effectiveDeployments"
    ]
    assert effective["reason"] == "golden output 3 differs by 0.5"
    device = client.get_core_device(coreDeviceThingName=agent.thing)
    assert device["status"] == "UNHEALTHY"


def test_a_newer_deployment_replaces_the_older_and_configuration_persists(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    client = cloud.client("greengrassv2")
    name = component("1.0.0")
    component("1.1.0")
    merged = {"configurationUpdate": {"merge": '{"threads": 4, "extra": {"a": 1}}'}}
    first = deploy(client, agent.thing, name, **merged)
    agent.report(generation=1, deployment_id=first, status="SUCCEEDED")
    second = deploy(client, agent.thing, name, "1.1.0")
    state = agent.desired(after=1).json()
    assert state["generation"] == 2
    assert state["components"][0]["configuration"] == {
        "modelName": "digits",
        "threads": 4,
        "extra": {"a": 1},
    }
    assert client.get_deployment(deploymentId=first)["deploymentStatus"] == "INACTIVE"
    third = deploy(client, agent.thing, name, configurationUpdate={"reset": ["/threads"]})
    assert agent.desired().json()["components"][0]["configuration"]["threads"] == 1
    assert client.get_deployment(deploymentId=second)["deploymentStatus"] == "INACTIVE"
    # What the device says about a replaced generation changes nothing any more.
    agent.report(generation=2, deployment_id=second, status="SUCCEEDED")
    assert client.get_deployment(deploymentId=second)["deploymentStatus"] == "INACTIVE"
    listed = client.list_deployments(targetArn=target(agent.thing), historyFilter="ALL")
    assert [one["deploymentId"] for one in listed["deployments"]] == [third, second, first]
    latest = client.list_deployments(targetArn=target(agent.thing))["deployments"]
    assert [one["deploymentId"] for one in latest] == [third]


def test_cancel_sends_the_device_back(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    client = cloud.client("greengrassv2")
    name = component("1.0.0")
    component("2.0.0")
    first = deploy(client, agent.thing, name)
    agent.report(generation=1, deployment_id=first, status="SUCCEEDED")
    second = deploy(client, agent.thing, name, "2.0.0")
    client.cancel_deployment(deploymentId=second)
    assert client.get_deployment(deploymentId=second)["deploymentStatus"] == "CANCELED"
    state = agent.desired(after=2).json()
    assert (state["generation"], state["deployment_id"]) == (3, first)
    assert state["components"][0]["version"] == "1.0.0"
    with pytest.raises(client.exceptions.ConflictException, match="is CANCELED"):
        client.cancel_deployment(deploymentId=second)


def test_the_long_poll_wakes_at_once_and_ends_with_204(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    name = component()
    began = time.monotonic()
    assert agent.desired(wait=1).status_code == 204
    assert 0.9 < time.monotonic() - began < 5
    timer = threading.Timer(0.5, deploy, (cloud.client("greengrassv2"), agent.thing, name))
    began = time.monotonic()
    timer.start()
    answer = agent.desired(wait=20)
    timer.join()
    assert answer.json()["generation"] == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("asked", "status", "part", "content_range"),
    [
        ("bytes=1000-1999", 206, slice(1000, 2000), "bytes 1000-1999/1048576"),
        ("bytes=1048570-", 206, slice(1048570, None), "bytes 1048570-1048575/1048576"),
        ("bytes=-6", 206, slice(1048570, None), "bytes 1048570-1048575/1048576"),
        ("bytes=0-9,20-29", 200, slice(None), None),
        ("bytes=1048576-", 416, slice(0, 0), "bytes */1048576"),
    ],
)
def test_downloads_resume(
    cloud: Any,
    agent: Agent,
    component: Callable[..., str],
    asked: str,
    status: int,
    part: slice,
    content_range: str | None,
) -> None:
    deploy(cloud.client("greengrassv2"), agent.thing, component())
    path = f"/edge/v1/artifacts/{DIGEST}"
    answer = agent.call("GET", path, headers={"Range": asked})
    assert answer.status_code == status
    assert answer.content == BUNDLE[part]
    assert answer.headers.get("content-range") == content_range
    known = agent.call("GET", path, headers={"If-None-Match": f'"{DIGEST}"'})
    assert known.status_code == 304
    other = agent.call("GET", path, headers={"Range": asked, "If-Range": '"sha256:other"'})
    assert (other.status_code, other.content) == (200, BUNDLE)


def test_a_device_gets_only_what_was_deployed_to_it(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    component()
    answer = agent.call("GET", f"/edge/v1/artifacts/{DIGEST}")
    assert answer.status_code == 404


def test_an_artifact_that_was_overwritten_is_not_served(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    name = component()
    deploy(cloud.client("greengrassv2"), agent.thing, name)
    key = f"bundles/{name}-1.0.0.tar.gz"
    cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=b"something else")
    answer = agent.call("GET", f"/edge/v1/artifacts/{DIGEST}")
    assert answer.status_code == 502
    assert "has changed" in answer.json()["error"]


def test_registration_is_for_once_and_for_one_thing(cloud: Any) -> None:
    token = token_for(cloud, "door-1")
    assert Agent(cloud, "door-2").register(token).status_code == 403
    door = Agent(cloud, "door-1")
    assert door.register(token).status_code == 201
    assert Agent(cloud, "door-1").register(token).status_code == 403
    first_key = door.key
    assert door.register(token_for(cloud, "door-1")).status_code == 201
    assert door.desired().status_code == 204
    door.key = first_key
    assert door.desired().status_code == 401


def test_the_wire_refuses_strangers_and_other_versions(cloud: Any, agent: Agent) -> None:
    assert httpx.get(f"{cloud.url}/edge/v1/devices/x/desired").status_code == 426
    other = {"Model-Delivery-Edge-Protocol": "9"}
    old = agent.call("GET", "/edge/v1/devices/x/desired", headers=other)
    assert old.status_code == 426
    assert agent.call("GET", "/edge/v1/devices/another/desired").status_code == 403
    answer = agent.report(status="SLEEPING")
    assert answer.status_code == 400
    assert "status must be one of" in answer.json()["error"]
    assert agent.desired(wait=31).status_code == 400


def test_a_client_token_makes_a_create_call_repeatable(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    client = cloud.client("greengrassv2")
    name = component()
    call = {
        "targetArn": target(agent.thing),
        "components": {name: {"componentVersion": "1.0.0"}},
        "clientToken": uuid4().hex,
    }
    first = client.create_deployment(**call)["deploymentId"]
    assert client.create_deployment(**call)["deploymentId"] == first
    with pytest.raises(client.exceptions.ConflictException, match="already used"):
        client.create_deployment(**{**call, "components": {}})
    assert agent.desired().json()["generation"] == 1


def test_components_are_described_and_made_once(cloud: Any, component: Callable[..., str]) -> None:
    client = cloud.client("greengrassv2")
    name = component()
    arn = f"arn:aws:greengrass:eu-west-1:{ACCOUNT}:components:{name}:versions:1.0.0"
    described = client.describe_component(arn=arn)
    assert described["status"] == {
        "componentState": "DEPLOYABLE",
        "message": f"artifact {DIGEST}",
    }
    assert described["platforms"] == [{"attributes": {"os": "linux"}}]
    got = json.loads(client.get_component(arn=arn)["recipe"])
    assert got["ComponentName"] == name
    (artifact,) = got["Manifests"][0]["Artifacts"]
    assert artifact["Algorithm"] == "SHA-256"
    assert f"sha256:{base64.b64decode(artifact['Digest']).hex()}" == DIGEST
    with pytest.raises(client.exceptions.ConflictException, match="already exists"):
        component()
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_component(arn=arn.replace("1.0.0", "9.0.0"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ComponentVersion": "one"}, "ComponentVersion 'one'"),
        ({"ComponentType": "aws.greengrass.lambda"}, "aws.greengrass.generic"),
        ({"ComponentDependencies": {}}, "ComponentDependencies"),
        ({"Manifests": []}, "exactly one"),
        ({"Manifests": [{"Lifecycle": {}, "Artifacts": []}]}, "Lifecycle"),
    ],
)
def test_recipes_that_are_not_honoured_are_refused_by_name(
    cloud: Any, changes: dict[str, Any], says: str
) -> None:
    client = cloud.client("greengrassv2")
    text = recipe("refused", "1.0.0", f"s3://{BUCKET}/none.tar.gz", **changes)
    with pytest.raises(client.exceptions.ValidationException, match=says):
        client.create_component_version(inlineRecipe=text)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"RecipeFormatVersion": NaN}', b"name: x"])
def test_a_recipe_that_is_no_json_is_refused(cloud: Any, text: bytes) -> None:
    client = cloud.client("greengrassv2")
    with pytest.raises(client.exceptions.ValidationException, match="inlineRecipe is not JSON"):
        client.create_component_version(inlineRecipe=text)


def test_a_missing_artifact_is_refused(cloud: Any) -> None:
    client = cloud.client("greengrassv2")
    text = recipe("absent", "1.0.0", f"s3://{BUCKET}/bundles/none.tar.gz")
    with pytest.raises(client.exceptions.ValidationException, match=r"bundles/none\.tar\.gz"):
        client.create_component_version(inlineRecipe=text)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"targetArn": target("nobody")}, "ResourceNotFoundException", "nobody"),
        (
            {"targetArn": target("x").replace(ACCOUNT, "999999999999")},
            "ValidationException",
            "not in account",
        ),
        (
            {"targetArn": target("x").replace(":thing/", ":thinggroup/")},
            "ResourceNotFoundException",
            "No such thing group",
        ),
        (
            {"components": {"nothing": {"componentVersion": "1.0.0"}}},
            "ResourceNotFoundException",
            "nothing:versions:1.0.0",
        ),
        (
            {"deploymentPolicies": {"configurationValidationPolicy": {"timeoutInSeconds": 0}}},
            "ValidationException",
            "configurationValidationPolicy",
        ),
        (
            {"iotJobConfiguration": {"timeoutConfig": {"inProgressTimeoutInMinutes": 0}}},
            "ValidationException",
            "inProgressTimeoutInMinutes must be from 1",
        ),
        (
            {"components": {"a": {"componentVersion": "1.0.0", "runWith": {"posixUser": "x"}}}},
            "ValidationException",
            "runWith",
        ),
    ],
)
def test_deployments_that_cannot_be_are_refused(
    cloud: Any, agent: Agent, changes: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(ClientError, match=says) as refused:
        cloud.client("greengrassv2").create_deployment(
            **{"targetArn": target(agent.thing), "components": {}, **changes}
        )
    assert refused.value.response["Error"]["Code"] == code


def test_versions_are_listed_from_the_highest_and_deleted(
    cloud: Any, agent: Agent, component: Callable[..., str]
) -> None:
    client = cloud.client("greengrassv2")
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.2"):
        name = component(version)
    arn = f"arn:aws:greengrass:eu-west-1:{ACCOUNT}:components:{name}"

    def versions() -> list[str]:
        pages = client.get_paginator("list_component_versions").paginate(
            arn=arn, PaginationConfig={"PageSize": 1}
        )
        return [one["componentVersion"] for page in pages for one in page["componentVersions"]]

    assert versions() == ["1.10.0", "1.10.0-rc.2", "1.9.0"]
    deployment_id = deploy(client, agent.thing, name, "1.9.0")
    agent.report(generation=1, deployment_id=deployment_id, status="SUCCEEDED")
    client.delete_component(arn=f"{arn}:versions:1.9.0")
    assert versions() == ["1.10.0", "1.10.0-rc.2"]
    # The device keeps what it has.
    assert agent.desired().json()["components"][0]["version"] == "1.9.0"
    with pytest.raises(client.exceptions.ResourceNotFoundException, match=r"1\.9\.0"):
        client.delete_component(arn=f"{arn}:versions:1.9.0")
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="create it first"):
        deploy(client, agent.thing, name, "1.9.0")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.list_component_versions(arn=f"{arn}x")
