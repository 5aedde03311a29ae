"""AWS IoT's registry through boto3 and awscli: things, groups, who is in which, tags."""

import json
import subprocess
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from stack.credentials import ACCOUNT
from tests.contract.conftest import REGION
from tests.local_cloud import Cloud

PLACE = f"arn:aws:iot:{REGION}:{ACCOUNT}"


@pytest.fixture(scope="module")
def cloud(cloud_over_each: Cloud) -> Cloud:
    return cloud_over_each


@pytest.fixture
def iot(cloud: Cloud) -> Any:
    return cloud.client("iot")


@pytest.fixture
def name() -> str:
    return f"n-{uuid4().hex[:8]}"


def payload(*, merge: bool = False, **attributes: str) -> dict[str, Any]:
    return {"attributes": attributes, "merge": merge}


def test_a_thing_is_made_described_changed_and_deleted(iot: Any, name: str) -> None:
    made = iot.create_thing(thingName=name, attributePayload=payload(site="oslo", empty=""))
    assert made["thingArn"] == f"{PLACE}:thing/{name}"
    again = iot.create_thing(thingName=name, attributePayload=payload(site="oslo"))
    assert again["thingId"] == made["thingId"]
    with pytest.raises(iot.exceptions.ResourceAlreadyExistsException) as taken:
        iot.create_thing(thingName=name)
    assert taken.value.response["resourceArn"] == made["thingArn"]
    iot.update_thing(thingName=name, attributePayload=payload(merge=True, ring="1"))
    found = iot.describe_thing(thingName=name)
    assert (found["attributes"], found["version"]) == ({"site": "oslo", "ring": "1"}, 2)
    iot.update_thing(
        thingName=name, attributePayload=payload(merge=True, site=""), expectedVersion=2
    )
    assert iot.describe_thing(thingName=name)["attributes"] == {"ring": "1"}
    with pytest.raises(iot.exceptions.VersionConflictException, match="is 3, not the expected 2"):
        iot.update_thing(thingName=name, attributePayload=payload(), expectedVersion=2)
    with pytest.raises(iot.exceptions.VersionConflictException):
        iot.delete_thing(thingName=name, expectedVersion=2)
    iot.delete_thing(thingName=name)
    iot.delete_thing(thingName=name)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_thing(thingName=name)


def test_what_iot_does_not_take_is_refused_in_its_words(iot: Any, name: str) -> None:
    refused = iot.exceptions.InvalidRequestException
    with pytest.raises(refused, match="pattern"):
        iot.create_thing(thingName="with a space")
    with pytest.raises(refused, match="at most 3 attributes"):
        iot.create_thing(thingName=name, attributePayload=payload(a="1", b="2", c="3", d="4"))
    with pytest.raises(refused, match="thingTypeName"):
        iot.create_thing(thingName=name, thingTypeName="camera")
    with pytest.raises(refused, match="nextToken"):
        iot.list_things(nextToken="made-up")
    with pytest.raises(refused, match="less than or equal to 250"):
        iot.list_things(maxResults=251)


def test_things_are_listed_by_page_and_by_attribute(iot: Any, name: str) -> None:
    for number in range(3):
        values = payload(batch=name, number=f"n{number}")
        iot.create_thing(thingName=f"{name}-{number}", attributePayload=values)

    def names(**wanted: Any) -> list[str]:
        pages = iot.get_paginator("list_things").paginate(
            PaginationConfig={"PageSize": 2}, **wanted
        )
        return [each["thingName"] for page in pages for each in page["things"]]

    assert set(names()) >= {f"{name}-{number}" for number in range(3)}
    mine = {"attributeName": "batch", "attributeValue": name}
    assert names(**mine) == [f"{name}-{number}" for number in range(3)]
    prefix = {"attributeName": "batch", "attributeValue": name[:4]}
    assert names(**prefix) == []
    assert names(**prefix, usePrefixAttributeValue=True)[:1] != []


def test_a_core_device_is_a_thing(cloud: Cloud, iot: Any, name: str) -> None:
    cloud.run("device-token", name, "--account", ACCOUNT, "--region", REGION)
    assert iot.describe_thing(thingName=name)["version"] == 1
    iot.update_thing(thingName=name, attributePayload=payload(site="oslo"))
    assert iot.describe_thing(thingName=name)["attributes"] == {"site": "oslo"}


def test_groups_nest_and_keep_what_an_update_does_not_name(iot: Any, name: str) -> None:
    made = iot.create_thing_group(
        thingGroupName=name,
        thingGroupProperties={
            "thingGroupDescription": "all of them",
            "attributePayload": payload(state="RUNNING"),
        },
        tags=[{"Key": "team", "Value": "vision"}],
    )
    for below, parent in ((f"{name}-a", name), (f"{name}-b", f"{name}-a")):
        iot.create_thing_group(thingGroupName=below, parentGroupName=parent)
    wish = {"attributePayload": payload(merge=True, wish="pause")}
    updated = iot.update_thing_group(
        thingGroupName=name, thingGroupProperties=wish, expectedVersion=1
    )
    assert updated["version"] == 2
    found = iot.describe_thing_group(thingGroupName=name)
    assert found["thingGroupId"] == made["thingGroupId"]
    assert found["thingGroupProperties"] == {
        "thingGroupDescription": "all of them",
        "attributePayload": {"attributes": {"state": "RUNNING", "wish": "pause"}},
    }
    with pytest.raises(iot.exceptions.VersionConflictException):
        iot.update_thing_group(thingGroupName=name, thingGroupProperties=wish, expectedVersion=1)
    deep = iot.describe_thing_group(thingGroupName=f"{name}-b")["thingGroupMetadata"]
    assert deep["parentGroupName"] == f"{name}-a"
    assert [each["groupName"] for each in deep["rootToParentThingGroups"]] == [name, f"{name}-a"]

    def listed(**wanted: Any) -> list[str]:
        pages = iot.get_paginator("list_thing_groups").paginate(
            PaginationConfig={"PageSize": 1}, **wanted
        )
        return [each["groupName"] for page in pages for each in page["thingGroups"]]

    assert listed(namePrefixFilter=name) == [name, f"{name}-a", f"{name}-b"]
    assert listed(parentGroup=name, recursive=True) == [f"{name}-a", f"{name}-b"]
    assert listed(parentGroup=name, recursive=False) == [f"{name}-a"]
    assert listed(namePrefixFilter=name, recursive=False) == [name]
    with pytest.raises(iot.exceptions.InvalidRequestException, match="child groups"):
        iot.delete_thing_group(thingGroupName=name)
    for each in (f"{name}-b", f"{name}-a", name, name):
        iot.delete_thing_group(thingGroupName=each)
    assert listed(namePrefixFilter=name) == []


def test_things_join_and_leave_groups(iot: Any, name: str) -> None:
    for group, parent in ((name, {}), (f"{name}-a", {"parentGroupName": name})):
        iot.create_thing_group(thingGroupName=group, **parent)
    iot.create_thing_group(thingGroupName=f"{name}-z")
    things = [f"{name}-{number}" for number in range(3)]
    for thing in things:
        iot.create_thing(thingName=thing)
        for _ in range(2):
            iot.add_thing_to_thing_group(thingGroupName=f"{name}-a", thingName=thing)

    def inside(group: str, **wanted: Any) -> list[str]:
        pages = iot.get_paginator("list_things_in_thing_group").paginate(
            thingGroupName=group, PaginationConfig={"PageSize": 2}, **wanted
        )
        return [thing for page in pages for thing in page["things"]]

    assert inside(f"{name}-a") == things
    assert inside(name) == []
    assert inside(name, recursive=True) == things
    with pytest.raises(iot.exceptions.InvalidRequestException, match="same hierarchy"):
        iot.add_thing_to_thing_group(thingGroupName=name, thingName=things[0])
    by_arn = {"thingGroupArn": f"{PLACE}:thinggroup/{name}-z",
              "thingArn": f"{PLACE}:thing/{things[0]}"}  # fmt: skip
    iot.add_thing_to_thing_group(**by_arn)
    found = iot.list_thing_groups_for_thing(thingName=things[0])["thingGroups"]
    assert [each["groupName"] for each in found] == [f"{name}-a", f"{name}-z"]
    for _ in range(2):
        iot.remove_thing_from_thing_group(**by_arn)
    iot.delete_thing(thingName=things[2])
    assert inside(f"{name}-a") == things[:2]
    iot.delete_thing_group(thingGroupName=f"{name}-a")
    assert iot.list_thing_groups_for_thing(thingName=things[0])["thingGroups"] == []
    for wrong in ({"thingName": "nobody"}, {"thingName": things[0], "thingGroupName": "none"}):
        with pytest.raises(iot.exceptions.ResourceNotFoundException):
            iot.add_thing_to_thing_group(**{"thingGroupName": name, **wrong})


def test_groups_are_tagged(iot: Any, name: str) -> None:
    arn = iot.create_thing_group(thingGroupName=name, tags=[{"Key": "a", "Value": "1"}])[
        "thingGroupArn"
    ]
    iot.tag_resource(resourceArn=arn, tags=[{"Key": "b", "Value": "2"}])
    iot.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert iot.list_tags_for_resource(resourceArn=arn)["tags"] == [{"Key": "b", "Value": "2"}]
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.list_tags_for_resource(resourceArn=arn + "x")


def test_the_command_line_sets_a_wish(
    iot: Any, aws: Callable[..., "subprocess.CompletedProcess[str]"], name: str
) -> None:
    iot.create_thing_group(thingGroupName=name)
    done = aws(
        "iot", "update-thing-group", "--thing-group-name", name, "--expected-version", "1",
        "--thing-group-properties", "attributePayload={attributes={wish=pause},merge=true}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"version": 2}
    told = json.loads(aws("iot", "describe-thing-group", "--thing-group-name", name).stdout)
    attributes = told["thingGroupProperties"]["attributePayload"]["attributes"]
    assert attributes == {"wish": "pause"}
    refused = aws("iot", "describe-thing", "--thing-name", "nobodys")
    assert "(ResourceNotFoundException) when calling the DescribeThing" in refused.stderr
