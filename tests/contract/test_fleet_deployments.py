"""Deployments to thing groups through boto3 and the device wire, over each database."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET
from tests.contract.conftest import REGION
from tests.contract.test_greengrass import Agent, recipe, target, token_for
from tests.local_cloud import Cloud

BUNDLE = b"a bundle of a fleet" * 100
DIGEST = "sha256:" + hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture(scope="module")
def cloud(cloud_over_each: Cloud) -> Cloud:
    return cloud_over_each


@pytest.fixture
def client(cloud: Cloud) -> Any:
    return cloud.client("greengrassv2")


@pytest.fixture
def iot(cloud: Cloud) -> Any:
    return cloud.client("iot")


@pytest.fixture
def group(iot: Any) -> Callable[..., str]:
    def make(*members: str, **more: Any) -> str:
        name = f"g-{uuid4().hex[:8]}"
        iot.create_thing_group(thingGroupName=name, **more)
        for thing in members:
            iot.add_thing_to_thing_group(thingGroupName=name, thingName=thing)
        return name

    return make


@pytest.fixture
def agents(cloud: Cloud) -> Callable[[int], list[Agent]]:
    def make(number: int) -> list[Agent]:
        found = [Agent(cloud, f"camera-{uuid4().hex[:8]}") for _ in range(number)]
        for agent in found:
            assert agent.register(token_for(cloud, agent.thing)).status_code == 201
        return found

    return make


@pytest.fixture
def component(cloud: Cloud, client: Any) -> Callable[..., str]:
    def make(*versions: str) -> str:
        name = f"digits-{uuid4().hex[:8]}"
        for version in versions or ("1.0.0",):
            key = f"bundles/{name}-{version}.tar.gz"
            cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=BUNDLE)
            text = recipe(name, version, f"s3://{BUCKET}/{key}")
            client.create_component_version(inlineRecipe=text)
        return name

    return make


def group_arn(name: str) -> str:
    return f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/{name}"


def deploy(client: Any, arn: str, *components: str, version: str = "1.0.0", **more: Any) -> str:
    wanted = {name: {"componentVersion": version} for name in components}
    return str(client.create_deployment(targetArn=arn, components=wanted, **more)["deploymentId"])


def wanted(agent: Agent) -> dict[str, str]:
    state = agent.desired()
    if state.status_code == 204:
        return {}
    return {each["name"]: each["version"] for each in state.json()["components"]}


def report(agent: Agent, status: str, error: str | None = None) -> None:
    state = agent.desired().json()
    told = {"generation": state["generation"], "deployment_id": state["deployment_id"]}
    assert agent.report(**told, status=status, error=error).status_code == 204


def effective(client: Any, agent: Agent, deployment_id: str) -> dict[str, Any]:
    pages = client.get_paginator("list_effective_deployments").paginate(
        coreDeviceThingName=agent.thing, PaginationConfig={"PageSize": 1}
    )
    [found] = [
        each
        for page in pages
        for each in page["effectiveDeployments"]
        if each["deploymentId"] == deployment_id
    ]
    return dict(found)


def status(client: Any, agent: Agent, deployment_id: str) -> str:
    return str(effective(client, agent, deployment_id)["coreDeviceExecutionStatus"])


def of(client: Any, deployment_id: str) -> str:
    return str(client.get_deployment(deploymentId=deployment_id)["deploymentStatus"])


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def change(cloud: Cloud, statement: str, **values: Any) -> None:
    """Change the store behind localcloud's back, as if time had passed."""
    with store(cloud).begin() as connection:
        connection.execute(text(statement), values)


def count(cloud: Cloud, query: str, **values: Any) -> int:
    with store(cloud).connect() as connection:
        return int(connection.execute(text(query), values).scalar_one())


def store(cloud: Cloud) -> Engine:
    env = cloud.local.env
    url = make_url(env.get("LOCALCLOUD_DATABASE_URL") or f"sqlite:///{cloud.home}/localcloud.db")
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(url, poolclass=NullPool)


def test_a_device_runs_what_its_thing_and_its_groups_have(
    client: Any, iot: Any, group: Any, agents: Any, component: Any
) -> None:
    [agent] = agents(1)
    parent = group()
    child, other = group(agent.thing, parentGroupName=parent), group(agent.thing)
    one, two, three = component(), component(), component()
    first = deploy(client, target(agent.thing), one)
    report(agent, "SUCCEEDED")
    second = deploy(client, group_arn(parent), two)
    third = deploy(client, group_arn(other), three)
    # One at a time: what fails is known to be what failed.
    assert wanted(agent) == {one: "1.0.0", two: "1.0.0"}
    report(agent, "IN_PROGRESS")
    assert (status(client, agent, second), status(client, agent, third)) == (
        "IN_PROGRESS", "QUEUED",
    )  # fmt: skip
    report(agent, "SUCCEEDED")
    assert wanted(agent) == {one: "1.0.0", two: "1.0.0", three: "1.0.0"}
    report(agent, "SUCCEEDED")
    assert [of(client, each) for each in (first, second, third)] == [
        "COMPLETED", "ACTIVE", "ACTIVE",
    ]  # fmt: skip
    found = client.list_core_devices(thingGroupArn=group_arn(other))["coreDevices"]
    assert [each["coreDeviceThingName"] for each in found] == [agent.thing]
    assert client.list_core_devices(thingGroupArn=group_arn(child))["coreDevices"] == []
    iot.remove_thing_from_thing_group(thingGroupName=child, thingName=agent.thing)
    assert wanted(agent) == {one: "1.0.0", three: "1.0.0"}
    iot.delete_thing_group(thingGroupName=other)
    assert wanted(agent) == {one: "1.0.0"}
    assert of(client, third) == "INACTIVE"


def test_who_joins_gets_the_deployment_and_who_leaves_loses_it(
    client: Any, iot: Any, group: Any, agents: Any, component: Any
) -> None:
    early, later = agents(2)
    name, fleet = component("1.0.0", "2.0.0"), group()
    deployment = deploy(client, group_arn(fleet), name)
    assert of(client, deployment) == "ACTIVE"
    for agent in (early, later):
        assert wanted(agent) == {}
        iot.add_thing_to_thing_group(thingGroupName=fleet, thingName=agent.thing)
        assert wanted(agent) == {name: "1.0.0"}
    report(early, "SUCCEEDED")
    iot.remove_thing_from_thing_group(thingGroupName=fleet, thingName=later.thing)
    assert (status(client, later, deployment), wanted(later)) == ("CANCELED", {})
    assert "left" in effective(client, later, deployment)["reason"]
    newer = deploy(client, group_arn(fleet), name, version="2.0.0")
    assert (of(client, deployment), of(client, newer)) == ("INACTIVE", "ACTIVE")
    report(early, "FAILED", "golden output 3 differs")
    assert (status(client, early, newer), of(client, newer)) == ("FAILED", "ACTIVE")
    iot.remove_thing_from_thing_group(thingGroupName=fleet, thingName=early.thing)
    assert wanted(early) == {}
    iot.add_thing_to_thing_group(thingGroupName=fleet, thingName=later.thing)
    assert wanted(later) == {name: "2.0.0"}


def test_another_version_for_another_target_is_a_conflict(
    client: Any, group: Any, agents: Any, component: Any
) -> None:
    [agent] = agents(1)
    a, b = group(agent.thing), group(agent.thing)
    name = component("1.0.0", "2.0.0")
    first = deploy(client, group_arn(a), name)
    report(agent, "SUCCEEDED")
    second = deploy(client, group_arn(b), name, version="2.0.0")
    failed = effective(client, agent, second)
    assert failed["coreDeviceExecutionStatus"] == "FAILED"
    assert f"{name}: 2.0.0 is wanted" in failed["reason"]
    assert failed["statusDetails"]["errorStack"][-1] == "COMPONENT_VERSION_REQUIREMENTS_NOT_MET"
    assert wanted(agent) == {name: "1.0.0"}
    third = deploy(client, group_arn(b), name)
    report(agent, "SUCCEEDED")
    assert [status(client, agent, each) for each in (first, third)] == ["SUCCEEDED"] * 2


def test_a_cancelled_deployment_leaves_alone_who_has_it(
    client: Any, group: Any, agents: Any, component: Any
) -> None:
    done, open_one = agents(2)
    name = component("1.0.0", "2.0.0")
    fleet = group(done.thing, open_one.thing)
    deploy(client, group_arn(fleet), name)
    report(done, "SUCCEEDED")
    report(open_one, "SUCCEEDED")
    newer = deploy(client, group_arn(fleet), name, version="2.0.0")
    report(done, "SUCCEEDED")
    report(open_one, "IN_PROGRESS")
    client.cancel_deployment(deploymentId=newer)
    assert of(client, newer) == "CANCELED"
    assert (status(client, done, newer), wanted(done)) == ("SUCCEEDED", {name: "2.0.0"})
    assert (status(client, open_one, newer), wanted(open_one)) == ("CANCELED", {name: "1.0.0"})


def test_a_deployment_is_described_with_its_job_and_policies(
    client: Any, group: Any, component: Any
) -> None:
    policies = {
        "failureHandlingPolicy": "DO_NOTHING",
        "componentUpdatePolicy": {"action": "SKIP_NOTIFY_COMPONENTS", "timeoutInSeconds": 5},
    }
    fleet = group()
    made = client.create_deployment(
        targetArn=group_arn(fleet), components={}, deploymentPolicies=policies,
        iotJobConfiguration={"jobExecutionsRolloutConfig": {"maximumPerMinute": 5}},
        tags={"model-delivery:rollout": "r1"},
    )  # fmt: skip
    found = client.get_deployment(deploymentId=made["deploymentId"])
    assert found["iotJobArn"] == made["iotJobArn"]
    assert found["deploymentPolicies"]["failureHandlingPolicy"] == "DO_NOTHING"
    assert found["deploymentPolicies"]["configurationValidationPolicy"] == {"timeoutInSeconds": 30}
    assert found["iotJobConfiguration"]["jobExecutionsRolloutConfig"] == {"maximumPerMinute": 5}
    arn = f"arn:aws:greengrass:{REGION}:{ACCOUNT}:deployments:{made['deploymentId']}"
    client.tag_resource(resourceArn=arn, tags={"model-delivery:stage": "1", "x": "y"})
    client.untag_resource(resourceArn=arn, tagKeys=["x", "model-delivery:rollout"])
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == {"model-delivery:stage": "1"}


def test_a_part_of_a_group_has_a_deployment_of_its_own(
    client: Any, group: Any, agents: Any, component: Any
) -> None:
    canary, other = agents(2)
    name = component("1.0.0", "2.0.0")
    fleet = group(canary.thing, other.thing)
    deploy(client, group_arn(fleet), name)
    for agent in (canary, other):
        report(agent, "SUCCEEDED")
    parent = {"parentTargetArn": group_arn(fleet)}
    part = deploy(client, target(canary.thing), name, version="2.0.0", **parent)
    assert (wanted(canary), wanted(other)) == ({name: "2.0.0"}, {name: "1.0.0"})
    listed = client.list_deployments(**parent)["deployments"]
    assert [each["deploymentId"] for each in listed] == [part]
    assert listed[0]["parentTargetArn"] == group_arn(fleet)
    [stranger] = agents(1)
    with pytest.raises(client.exceptions.ValidationException, match="no part of"):
        deploy(client, target(stranger.thing), name, **parent)


def test_a_core_device_is_deleted_and_comes_back(
    cloud: Cloud, client: Any, iot: Any, group: Any, agents: Any, component: Any
) -> None:
    [agent] = agents(1)
    name, fleet = component(), group(agent.thing)
    deploy(client, group_arn(fleet), name)
    with pytest.raises(iot.exceptions.InvalidRequestException, match="principals"):
        iot.delete_thing(thingName=agent.thing)
    client.delete_core_device(coreDeviceThingName=agent.thing)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_core_device(coreDeviceThingName=agent.thing)
    assert agent.desired().status_code == 401
    assert iot.describe_thing(thingName=agent.thing)["thingName"] == agent.thing
    assert agent.register(token_for(cloud, agent.thing)).status_code == 201
    with cloud.worker():
        until(lambda: wanted(agent) == {name: "1.0.0"})


def test_failures_abort_and_open_devices_go_back(
    cloud: Cloud, client: Any, group: Any, agents: Any, component: Any
) -> None:
    fleet_of = agents(4)
    fleet, name = group(*(each.thing for each in fleet_of)), component("1.0.0", "2.0.0")
    deploy(client, group_arn(fleet), name)
    for agent in fleet_of:
        report(agent, "SUCCEEDED")
    criterion = {
        "failureType": "FAILED", "action": "CANCEL",
        "thresholdPercentage": 50.0, "minNumberOfExecutedThings": 3,
    }  # fmt: skip
    config = {"abortConfig": {"criteriaList": [criterion]}}
    newer = deploy(client, group_arn(fleet), name, version="2.0.0", iotJobConfiguration=config)
    report(fleet_of[0], "FAILED", "NaN")
    report(fleet_of[1], "SUCCEEDED")
    report(fleet_of[3], "IN_PROGRESS")
    with cloud.worker():
        assert of(client, newer) == "ACTIVE"
        report(fleet_of[2], "FAILED", "NaN")
        until(lambda: of(client, newer) == "CANCELED")
        until(lambda: status(client, fleet_of[3], newer) == "CANCELED")
    assert "2 of 3 devices FAILED" in effective(client, fleet_of[3], newer)["reason"]
    assert wanted(fleet_of[3]) == {name: "1.0.0"}
    assert wanted(fleet_of[1]) == {name: "2.0.0"}


def test_a_device_that_takes_too_long_is_timed_out(
    cloud: Cloud, client: Any, agents: Any, component: Any
) -> None:
    [agent] = agents(1)
    name = component("1.0.0", "2.0.0")
    deploy(client, target(agent.thing), name)
    report(agent, "SUCCEEDED")
    config = {"timeoutConfig": {"inProgressTimeoutInMinutes": 1}}
    newer = deploy(client, target(agent.thing), name, version="2.0.0", iotJobConfiguration=config)
    report(agent, "IN_PROGRESS")
    late = agent.desired().json()
    change(
        cloud,
        "UPDATE deployment_executions SET deadline = deadline - 60000 WHERE deployment_id = :id",
        id=newer,
    )
    with cloud.worker():
        until(lambda: status(client, agent, newer) == "TIMED_OUT")
    assert (of(client, newer), wanted(agent)) == ("FAILED", {name: "1.0.0"})
    told = {"generation": late["generation"], "deployment_id": newer}
    agent.report(**told, status="SUCCEEDED")
    assert status(client, agent, newer) == "TIMED_OUT"


def test_a_rate_is_kept_by_two_workers_of_which_one_is_killed(
    cloud: Cloud, client: Any, iot: Any, group: Any, component: Any
) -> None:
    fleet, name = group(), component()
    things = [f"t-{uuid4().hex[:8]}" for _ in range(12)]
    for thing in things:
        iot.create_thing(thingName=thing)
        iot.add_thing_to_thing_group(thingGroupName=fleet, thingName=thing)
    config = {"jobExecutionsRolloutConfig": {"maximumPerMinute": 240}}
    began = time.monotonic()
    deployment = deploy(client, group_arn(fleet), name, iotJobConfiguration=config)

    def reached() -> int:
        query = "SELECT count(*) FROM deployment_executions WHERE deployment_id = :id"
        return count(cloud, query, id=deployment)

    assert reached() == 1
    with cloud.worker(), cloud.worker() as other:
        until(lambda: reached() >= 4)
        os.kill(other.pid, signal.SIGKILL)
        until(lambda: reached() == 12)
    # Eleven more, a quarter of a second apart.
    assert time.monotonic() - began > 2.5


def test_the_command_line_deploys_to_a_group(
    client: Any, aws: Any, group: Any, agents: Any, component: Any
) -> None:
    [agent] = agents(1)
    fleet, name = group(agent.thing), component()
    job = {
        "jobExecutionsRolloutConfig": {
            "exponentialRate": {
                "baseRatePerMinute": 5,
                "incrementFactor": 1.5,
                "rateIncreaseCriteria": {"numberOfSucceededThings": 1},
            },
            "maximumPerMinute": 50,
        }
    }
    made = aws(
        "greengrassv2", "create-deployment", "--target-arn", group_arn(fleet),
        "--components", json.dumps({name: {"componentVersion": "1.0.0"}}),
        "--iot-job-configuration", json.dumps(job), "--tags", "model-delivery:rollout=r9",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    deployment = json.loads(made.stdout)["deploymentId"]
    assert status(client, agent, deployment) == "QUEUED"
    listed = aws("greengrassv2", "list-deployments", "--target-arn", group_arn(fleet))
    assert [each["deploymentId"] for each in json.loads(listed.stdout)["deployments"]] == [
        deployment
    ]
