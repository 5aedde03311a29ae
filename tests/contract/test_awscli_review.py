"""Human review as the AWS command line drives it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.review_world import Flow, make_flow

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(scope="module")
def flow(cloud: Any) -> Flow:
    return make_flow(cloud)


def test_a_loop_from_start_to_delete(flow: Flow, aws: Callable[..., Any]) -> None:
    runtime = "sagemaker-a2i-runtime"
    content = json.dumps({"InputContent": json.dumps({"labels": ["1", "2"]})})
    started = aws(
        runtime, "start-human-loop", "--human-loop-name", "from-the-cli",
        "--flow-definition-arn", flow.arn, "--human-loop-input", content,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    listed = aws(runtime, "list-human-loops", "--flow-definition-arn", flow.arn)
    (summary,) = json.loads(listed.stdout)["HumanLoopSummaries"]
    assert (summary["HumanLoopName"], summary["HumanLoopStatus"]) == ("from-the-cli", "InProgress")
    # The model wants ISO 8601 here, where JSON 1.1 has seconds.
    assert summary["CreationTime"][:2] == "20"
    for operation in ("stop-human-loop", "describe-human-loop", "delete-human-loop"):
        done = aws(runtime, operation, "--human-loop-name", "from-the-cli")
        assert done.returncode == 0, done.stderr
    gone = aws(runtime, "describe-human-loop", "--human-loop-name", "from-the-cli")
    assert "ResourceNotFoundException" in gone.stderr


def test_resources_are_described(flow: Flow, aws: Callable[..., Any]) -> None:
    found = aws("sagemaker", "describe-flow-definition", "--flow-definition-name", flow.name)
    config = json.loads(found.stdout)["HumanLoopConfig"]
    names = {key: config[key].rpartition("/")[2] for key in ("HumanTaskUiArn", "WorkteamArn")}
    described = aws(
        "sagemaker", "describe-human-task-ui", "--human-task-ui-name", names["HumanTaskUiArn"]
    )
    assert json.loads(described.stdout)["HumanTaskUiStatus"] == "Active"
    team = aws("sagemaker", "describe-workteam", "--workteam-name", names["WorkteamArn"])
    assert json.loads(team.stdout)["Workteam"]["WorkteamArn"] == config["WorkteamArn"]
