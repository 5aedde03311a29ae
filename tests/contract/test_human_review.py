"""Flow definitions, task UIs and work teams through boto3."""

import io
import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from botocore.exceptions import ClientError
from PIL import Image

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET
from tests.contract.review_world import (
    ROLE,
    TEMPLATE,
    Flow,
    flow_request,
    make_flow,
    task_ui,
    wait_for_flow,
    workteam,
)

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def sagemaker(cloud: Any) -> Any:
    return cloud.client("sagemaker")


def refusal(call: Any, **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as refused:
        call(**request)
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_flow_definition_becomes_active_and_describes_its_request(
    cloud: Any, sagemaker: Any
) -> None:
    team, _ = workteam(cloud)
    config = {
        "TaskCount": 3,
        "TaskAvailabilityLifetimeInSeconds": 3600,
        "TaskTimeLimitInSeconds": 60,
        "TaskKeywords": ["digits", "hand written"],
    }
    request = flow_request(cloud, team, task_ui(cloud), config=config)
    arn = sagemaker.create_flow_definition(**request)["FlowDefinitionArn"]
    name = request["FlowDefinitionName"]
    assert arn == f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:flow-definition/{name}"
    found = wait_for_flow(sagemaker, name)
    for member in ("HumanLoopConfig", "OutputConfig", "RoleArn"):
        assert found[member] == request[member]
    assert found["CreationTime"] - datetime.now(UTC) < timedelta(seconds=30)
    assert "FailureReason" not in found


def test_a_flow_definition_without_its_bucket_fails_and_says_why(
    cloud: Any, sagemaker: Any
) -> None:
    team, _ = workteam(cloud)
    output = {"S3OutputPath": "s3://no-such-bucket-here/reviews"}
    request = flow_request(cloud, team, task_ui(cloud), OutputConfig=output)
    sagemaker.create_flow_definition(**request)
    found = wait_for_flow(sagemaker, request["FlowDefinitionName"], "Failed")
    assert "no-such-bucket-here" in found["FailureReason"]
    code, message = refusal(
        cloud.client("sagemaker-a2i-runtime").start_human_loop,
        HumanLoopName="never",
        FlowDefinitionArn=found["FlowDefinitionArn"],
        HumanLoopInput={"InputContent": "{}"},
    )
    assert code == "ValidationException"
    assert "is Failed" in message


def test_the_same_name_again_is_in_use(cloud: Any, sagemaker: Any) -> None:
    team, _ = workteam(cloud)
    request = flow_request(cloud, team, task_ui(cloud))
    sagemaker.create_flow_definition(**request)
    assert refusal(sagemaker.create_flow_definition, **request)[0] == "ResourceInUse"


REKOGNITION = "AWS/Rekognition/DetectModerationLabels/Image/V3"
CONDITIONS = '{"Conditions": []}'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OutputConfig": {"S3OutputPath": "https://x/y"}}, "must be an s3:// URI"),
        ({"OutputConfig": {"S3OutputPath": "s3://x/y", "KmsKeyId": "k"}}, "OutputConfig.KmsKeyId"),
        ({"config": {"TaskCount": 4}}, "less than or equal to 3"),
        ({"config": {"TaskAvailabilityLifetimeInSeconds": 10**9}}, "365 days"),
        ({"config": {"WorkteamArn": "arn:aws:sagemaker:eu-west-1:394669845002:workteam/public-crowd/default"}}, "HumanLoopConfig.WorkteamArn"),  # noqa: E501
        ({"config": {"PublicWorkforceTaskPrice": {"AmountInUsd": {"Cents": 36}}}}, "PublicWorkforceTaskPrice"),  # noqa: E501
        ({"HumanLoopActivationConfig": {"HumanLoopActivationConditionsConfig": {"HumanLoopActivationConditions": CONDITIONS}}}, "needs HumanLoopRequestSource"),  # noqa: E501
        ({"HumanLoopRequestSource": {"AwsManagedHumanLoopRequestSource": REKOGNITION}, "HumanLoopActivationConfig": {"HumanLoopActivationConditionsConfig": {"HumanLoopActivationConditions": "{"}}}, "no JSON"),  # noqa: E501
        ({"Tags": [{"Key": "aws:x", "Value": "y"}]}, "reserved"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_by_name(
    cloud: Any, sagemaker: Any, changes: dict[str, Any], said: str
) -> None:
    team, _ = workteam(cloud)
    request = flow_request(cloud, team, task_ui(cloud), **changes)
    code, message = refusal(sagemaker.create_flow_definition, **request)
    assert code == "ValidationException"
    assert said in message


def test_team_and_ui_must_be_there(cloud: Any, sagemaker: Any) -> None:
    team, _ = workteam(cloud)
    ui = task_ui(cloud)
    for wrong in ((team + "x", ui), (team, ui + "x")):
        code, message = refusal(sagemaker.create_flow_definition, **flow_request(cloud, *wrong))
        assert code == "ValidationException"
        assert "create it first" in message


def test_lists_are_paged_by_creation_time(cloud: Any) -> None:
    client = cloud.client("sagemaker", region_name="ap-south-1")
    names = []
    for number in range(5):
        names.append(f"ui-{number}-{uuid4().hex[:8]}")
        client.create_human_task_ui(HumanTaskUiName=names[-1], UiTemplate={"Content": TEMPLATE})
        time.sleep(0.002)
    pages = client.get_paginator("list_human_task_uis")

    def listed(**options: Any) -> list[str]:
        found = pages.paginate(PaginationConfig={"PageSize": 2}, **options)
        return [ui["HumanTaskUiName"] for page in found for ui in page["HumanTaskUiSummaries"]]

    assert listed() == names
    assert listed(SortOrder="Descending") == names[::-1]
    middle = client.list_human_task_uis()["HumanTaskUiSummaries"][2]["CreationTime"]
    assert listed(CreationTimeAfter=middle) == names[3:]
    assert listed(CreationTimeBefore=middle) == names[:2]
    assert refusal(client.list_human_task_uis, NextToken="made-up")[0] == "ValidationException"


def test_a_task_ui_keeps_the_digest_of_its_template(cloud: Any, sagemaker: Any) -> None:
    arn = task_ui(cloud)
    name = arn.rpartition("/")[2]
    found = sagemaker.describe_human_task_ui(HumanTaskUiName=name)
    assert len(found["UiTemplate"]["ContentSha256"]) == 64
    assert found["HumanTaskUiStatus"] == "Active"
    sagemaker.delete_human_task_ui(HumanTaskUiName=name)
    assert refusal(sagemaker.describe_human_task_ui, HumanTaskUiName=name)[0] == "ResourceNotFound"


def test_a_template_is_rendered_for_a_task(cloud: Any, sagemaker: Any) -> None:
    image = io.BytesIO()
    Image.new("L", (3, 2)).save(image, "PNG")
    cloud.store.client().put_object(Bucket=BUCKET, Key="render/1.png", Body=image.getvalue())
    task = {"Input": json.dumps({"taskObject": f"s3://{BUCKET}/render/1.png", "labels": ["<1>"]})}
    given = sagemaker.render_ui_template(
        UiTemplate={"Content": TEMPLATE}, Task=task, RoleArn=ROLE
    )  # fmt: skip
    assert given["Errors"] == []
    (source,) = re.findall(r'<img src="([^"]+)"', given["RenderedContent"])
    assert httpx.get(source).content == image.getvalue()
    assert "&lt;1&gt;" in given["RenderedContent"] or "\\u003c1" in given["RenderedContent"]
    stored = sagemaker.render_ui_template(HumanTaskUiArn=task_ui(cloud), Task=task, RoleArn=ROLE)
    assert "crowd-classifier" in stored["RenderedContent"]


def test_what_keeps_a_template_from_being_rendered_is_said(cloud: Any, sagemaker: Any) -> None:
    def errors(content: str) -> list[dict[str, str]]:
        found = sagemaker.render_ui_template(
            UiTemplate={"Content": content}, Task={"Input": "{}"}, RoleArn=ROLE
        )
        assert found["RenderedContent"] == ""
        return list(found["Errors"])

    (error,) = errors("<crowd-form><crowd-slider></crowd-slider></crowd-form>")
    assert "no element <crowd-slider>" in error["Message"]
    (error,) = errors("<crowd-form>{{ 'file:///etc/passwd' | grant_read_access }}</crowd-form>")
    assert "is not the URI of an object" in error["Message"]
    arn = task_ui(cloud)
    for request, code, said in (
        ({"Task": {"Input": "{}"}}, "ValidationException", "exactly one of"),
        ({"Task": {"Input": "{x"}, "HumanTaskUiArn": arn}, "ValidationException", "no JSON"),
        ({"Task": {"Input": "{}"}, "HumanTaskUiArn": arn + "x"}, "ResourceNotFound", "human-task"),
    ):
        assert said in refusal(sagemaker.render_ui_template, RoleArn=ROLE, **request)[1]
        assert refusal(sagemaker.render_ui_template, RoleArn=ROLE, **request)[0] == code


@pytest.fixture
def flow(cloud: Any) -> Flow:
    return make_flow(cloud)


def test_what_a_flow_definition_uses_is_not_deleted(flow: Flow, sagemaker: Any) -> None:
    found = sagemaker.describe_flow_definition(FlowDefinitionName=flow.name)["HumanLoopConfig"]
    ui, team = (found[key].rpartition("/")[2] for key in ("HumanTaskUiArn", "WorkteamArn"))
    assert refusal(sagemaker.delete_human_task_ui, HumanTaskUiName=ui)[0] == "ResourceInUse"
    assert refusal(sagemaker.delete_workteam, WorkteamName=team)[0] == "ResourceInUse"


def test_a_flow_definition_is_deleted_once_no_loop_is_in_progress(
    flow: Flow, sagemaker: Any
) -> None:
    loop = flow.start()
    code, message = refusal(sagemaker.delete_flow_definition, FlowDefinitionName=flow.name)
    assert (code, "stop them first" in message) == ("ResourceInUse", True)
    flow.runtime.stop_human_loop(HumanLoopName=loop)
    sagemaker.delete_flow_definition(FlowDefinitionName=flow.name)
    deadline = time.monotonic() + 20
    while (
        sagemaker.list_flow_definitions(SortOrder="Descending", MaxResults=1)[
            "FlowDefinitionSummaries"
        ][0]["FlowDefinitionName"]
        == flow.name
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert flow.status(loop) == "Stopped"


def test_work_teams_are_groups_of_users(cloud: Any, sagemaker: Any) -> None:
    arn, group = workteam(cloud)
    name = arn.rpartition("/")[2]
    assert arn.startswith(f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:workteam/private-crowd/")
    found = sagemaker.describe_workteam(WorkteamName=name)["Workteam"]
    assert found["MemberDefinitions"] == [{"OidcMemberDefinition": {"Groups": [group]}}]
    changed = sagemaker.update_workteam(WorkteamName=name, Description="reads more")["Workteam"]
    assert changed["Description"] == "reads more"
    assert name in {
        team["WorkteamName"] for team in sagemaker.list_workteams(MaxResults=100)["Workteams"]
    }
    assert sagemaker.delete_workteam(WorkteamName=name)["Success"]
    member = {"UserPool": "eu-west-1_abc", "UserGroup": "g", "ClientId": "c"}
    code, message = refusal(
        sagemaker.create_workteam,
        WorkteamName=name,
        MemberDefinitions=[{"CognitoMemberDefinition": member}],
        Description="d",
    )
    assert (code, "no Cognito" in message) == ("ValidationException", True)


def test_tags_of_each_resource(flow: Flow, sagemaker: Any) -> None:
    found = sagemaker.describe_flow_definition(FlowDefinitionName=flow.name)["HumanLoopConfig"]
    for arn in (flow.arn, found["HumanTaskUiArn"], found["WorkteamArn"]):
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "stage", "Value": "test"}])
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "stage", "Value": "test"}]
        sagemaker.delete_tags(ResourceArn=arn, TagKeys=["stage"])
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == []


def test_another_region_has_none_of_it(flow: Flow, cloud: Any) -> None:
    elsewhere = cloud.client("sagemaker", region_name="us-west-2")
    assert refusal(
        elsewhere.describe_flow_definition, FlowDefinitionName=flow.name
    )[0] == "ResourceNotFound"  # fmt: skip
    runtime = cloud.client("sagemaker-a2i-runtime", region_name="us-west-2")
    code, message = refusal(
        runtime.start_human_loop,
        HumanLoopName="elsewhere",
        FlowDefinitionArn=flow.arn,
        HumanLoopInput={"InputContent": "{}"},
    )
    assert (code, "FlowDefinitionArn" in message) == ("ValidationException", True)
