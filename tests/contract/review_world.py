"""What the tests of human review make: a work team, a task UI, a flow definition, loops."""

import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import uuid4

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET
from stack.review_desk import Reviewer

ROLE = f"arn:aws:iam::{ACCOUNT}:role/reviews"
PASSWORD = "correct-horse-battery"
TEMPLATE = """
<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>
<crowd-form>
  <crowd-classifier name="digit" categories="{{ task.input.labels | to_json | escape }}"
      header="Which digit is this?">
    <classification-target>
      <img src="{{ task.input.taskObject | grant_read_access }}" alt="the digit">
    </classification-target>
    <full-instructions header="How to tell">Look at the strokes.</full-instructions>
    <short-instructions>Choose the digit.</short-instructions>
  </crowd-classifier>
</crowd-form>
"""
LABELS = [str(digit) for digit in range(10)]


@dataclass
class Flow:
    """An active flow definition and what it names."""

    cloud: Any
    name: str
    arn: str
    team: str
    group: str

    @property
    def runtime(self) -> Any:
        """A client of the runtime."""
        return self.cloud.client("sagemaker-a2i-runtime")

    def start(self, name: str | None = None, **content: Any) -> str:
        """Start a loop and return its name."""
        name = name or f"loop-{uuid4().hex[:12]}"
        given = {"taskObject": f"s3://{BUCKET}/digits/1.png", "labels": LABELS, **content}
        self.runtime.start_human_loop(
            HumanLoopName=name,
            FlowDefinitionArn=self.arn,
            HumanLoopInput={"InputContent": json.dumps(given)},
        )
        return name

    def status(self, loop: str) -> str:
        """Return a loop's status."""
        return str(self.runtime.describe_human_loop(HumanLoopName=loop)["HumanLoopStatus"])

    def wait(self, loop: str, status: str = "Completed", seconds: float = 30) -> dict[str, Any]:
        """Wait for a loop's status and return its description."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.runtime.describe_human_loop(HumanLoopName=loop)
            if found["HumanLoopStatus"] == status:
                return dict(found)
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def output(self, loop: str) -> dict[str, Any]:
        """Return the output of a completed loop."""
        uri = self.wait(loop)["HumanLoopOutput"]["OutputS3Uri"]
        return dict(json.loads(read(self.cloud, uri)))

    def reviewer(self, role: str = "reviewer") -> Reviewer:
        """Add a member of the flow's team and sign them in."""
        name = f"{role}-{uuid4().hex[:8]}"
        self.cloud.run("user", "add", name, "--role", role, "--group", self.group, secret=PASSWORD)
        return Reviewer(self.cloud.url, name, PASSWORD)

    @cached_property
    def id(self) -> str:
        """The id that the portal calls this flow definition by."""
        with Reviewer(self.cloud.url, "admin", self.cloud.password) as admin:
            queue = admin.queue(self.name)
        assert queue, f"the portal shows no queue {self.name}"
        return str(queue["flow"])


def read(cloud: Any, uri: str) -> bytes:
    """Return an object of the store."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bytes(cloud.store.client().get_object(Bucket=bucket, Key=key)["Body"].read())


def task_ui(cloud: Any, content: str = TEMPLATE) -> str:
    """Make a human task UI and return its ARN."""
    made = cloud.client("sagemaker").create_human_task_ui(
        HumanTaskUiName=f"ui-{uuid4().hex[:12]}", UiTemplate={"Content": content}
    )
    return str(made["HumanTaskUiArn"])


def workteam(cloud: Any) -> tuple[str, str]:
    """Make a work team of a group of its own; return its ARN and the group."""
    group = f"group-{uuid4().hex[:8]}"
    made = cloud.client("sagemaker").create_workteam(
        WorkteamName=f"team-{uuid4().hex[:8]}",
        MemberDefinitions=[{"OidcMemberDefinition": {"Groups": [group]}}],
        Description="reads digits",
    )
    return str(made["WorkteamArn"]), group


def flow_request(cloud: Any, team: str, ui: str, **changes: Any) -> dict[str, Any]:
    """Return a CreateFlowDefinition request; `config` changes its HumanLoopConfig."""
    config = {
        "WorkteamArn": team,
        "HumanTaskUiArn": ui,
        "TaskTitle": "Read the digit",
        "TaskDescription": "Say which digit the picture shows.",
        "TaskCount": 1,
        **changes.pop("config", {}),
    }
    return {
        "FlowDefinitionName": f"flow-{uuid4().hex[:12]}",
        "RoleArn": ROLE,
        "HumanLoopConfig": config,
        "OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/reviews/"},
        **changes,
    }


def make_flow(cloud: Any, content: str = TEMPLATE, **changes: Any) -> Flow:
    """Make a flow definition and wait until it is active."""
    team, group = workteam(cloud)
    request = flow_request(cloud, team, task_ui(cloud, content), **changes)
    client = cloud.client("sagemaker")
    arn = client.create_flow_definition(**request)["FlowDefinitionArn"]
    name = request["FlowDefinitionName"]
    wait_for_flow(client, name)
    return Flow(cloud, name, arn, team, group)


def wait_for_flow(client: Any, name: str, status: str = "Active") -> dict[str, Any]:
    """Wait until a flow definition has a status."""
    deadline = time.monotonic() + 30
    while True:
        found = client.describe_flow_definition(FlowDefinitionName=name)
        if found["FlowDefinitionStatus"] == status:
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
