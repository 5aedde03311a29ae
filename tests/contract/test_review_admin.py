"""The administrators' page of human review over HTTP."""

import re
import time
from html import unescape
from typing import Any
from uuid import uuid4

import pytest

from stack.credentials import ACCOUNT
from stack.localcloud import PORTAL_USER
from stack.review_desk import Reviewer
from tests.contract.review_world import PASSWORD, TEMPLATE, Flow, flow_request, make_flow, task_ui

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(scope="module")
def flow(cloud: Any) -> Flow:
    return make_flow(cloud)


def rows(who: Reviewer) -> dict[str, str]:
    """Return the text of each row of the page's tables by what stands first in it."""
    page = who.http.get("/teams")
    assert page.status_code == 200, page.text
    found = {}
    for row in re.findall(r"<tr>\s*<th scope=\"row\">(.*?)</tr>", page.text, re.DOTALL):
        text = " ".join(unescape(re.sub(r"<[^>]+>", " ", row)).split())
        found[text.split()[0]] = text
    return found


def test_an_admin_sees_queues_teams_and_people(cloud: Any, flow: Flow) -> None:
    for number in range(3):
        flow.start(f"admin-{number}-{uuid4().hex[:6]}")
    idle = f"idle-{uuid4().hex[:8]}"
    cloud.run("user", "add", idle, "--role", "reviewer", secret=PASSWORD)
    with (
        flow.reviewer() as busy,
        Reviewer(cloud.url, PORTAL_USER, cloud.password) as admin,
    ):
        item = busy.take(flow.id)
        busy.call(flow.id, "answer", loop=item["loop"], answer={"digit": {"label": "1"}})
        busy.take(flow.id)
        found = rows(admin)
        team = flow.team.rpartition("/")[2]
        # Of three items with a slot each, one is answered and one is held.
        assert re.search(rf" Active 1 \d+ s 1 {team} \S+ 1$", found[flow.name]), found[flow.name]
        assert found[team].endswith(f"{flow.group} {busy.name} {flow.name}")
        assert re.search(rf" reviewer {flow.group} {team} 1 \d s ago 1$", found[busy.name])
        assert found[idle].endswith(" none: no queue to work on 0 never 0")


def test_a_flow_definition_that_failed_says_why(cloud: Any, flow: Flow) -> None:
    output = {"S3OutputPath": "s3://no-such-bucket-there/reviews"}
    request = flow_request(cloud, flow.team, task_ui(cloud, TEMPLATE), OutputConfig=output)
    cloud.client("sagemaker").create_flow_definition(**request)
    deadline = time.monotonic() + 30
    with Reviewer(cloud.url, PORTAL_USER, cloud.password) as admin:
        while "no-such-bucket-there" not in (said := rows(admin)[request["FlowDefinitionName"]]):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        assert " Failed " in said


def test_a_queue_is_found_by_its_flow_definitions_name(cloud: Any, flow: Flow) -> None:
    path = f"/queues/{ACCOUNT}/eu-west-1/{flow.name}"
    with flow.reviewer() as member, make_flow(cloud).reviewer() as stranger:
        answer = member.http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/review/{flow.id}")
        assert stranger.http.get(path).status_code == 404
        assert member.http.get(f"{path}x").status_code == 404


def test_nobody_else_sees_it(flow: Flow) -> None:
    for role in ("reviewer", "lead"):
        with flow.reviewer(role) as who:
            assert who.http.get("/teams").status_code == 403
            assert "/teams" not in who.http.get("/review").text
