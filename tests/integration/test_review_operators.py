"""The operators of human review over a real localcloud, with reviewers who sign in and answer."""

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from aiobotocore.client import AioBaseClient
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from model_delivery.exceptions import (
    DeliveryError,
    GateClosedError,
    InvalidRequestError,
    JobFailedError,
    JobRefusedError,
    RequestDiffersError,
    StorageError,
)
from model_delivery.hooks.human_review import HumanLoopHook, HumanReviewHook
from model_delivery.human_loops import worker as loop_worker
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.polls import wait_for_batch
from model_delivery.human_loops.state import LoopState
from model_delivery.human_loops.worker import HumanLoopWorker
from model_delivery.jobs import registry, retries
from model_delivery.jobs.rate import TokenBucket
from model_delivery.jobs.waits import Bounds
from model_delivery.links.job import JOB_LINK_KEY
from model_delivery.operators import human_review
from model_delivery.operators.flow_definitions import (
    CreateFlowDefinitionOperator,
    DeleteFlowDefinitionOperator,
    DescribeFlowDefinitionOperator,
    ListFlowDefinitionsOperator,
)
from model_delivery.operators.human_loops import StartHumanLoopsOperator, StopHumanLoopsOperator
from model_delivery.operators.human_review import HumanReviewOperator
from model_delivery.operators.human_task_uis import (
    CreateHumanTaskUiOperator,
    DeleteHumanTaskUiOperator,
    DescribeHumanTaskUiOperator,
    ListHumanTaskUisOperator,
    RenderUiTemplateOperator,
)
from model_delivery.operators.quality_gate import QualityGateOperator
from model_delivery.sensors.human_review import FlowDefinitionSensor, HumanLoopSensor
from model_delivery.triggers.human_review import SERVICE

from stack.airflow import aws_connection
from stack.credentials import ACCOUNT
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET
from stack.ports import free_ports
from stack.review_desk import Reviewer
from tests.contract.review_world import PASSWORD, TEMPLATE
from tests.integration.conftest import S3

ROLE = f"arn:aws:iam::{ACCOUNT}:role/reviews"
LABELS = ["0", "1", "2"]
UNSURE = {"ConditionType": "ConfidenceCheck", "ConditionParameters": {"ConfidenceLessThan": 60}}
SAMPLED = {"ConditionType": "Sampling", "ConditionParameters": {"RandomSamplingPercentage": 20}}
# How a scripted reviewer answers an item: by its input.
Judge = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def cloud(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    local = LocalCloud(
        tmp_path_factory.mktemp("localcloud"), s3.credentials, free_ports(1)[0], s3.port
    )
    # Reviewers here change nothing that they said: outputs may be written at once.
    local.env["LOCALCLOUD_REVIEW_UNDO_SECONDS"] = "0"
    local.prepare()
    before = dict(os.environ)
    url = f"http://127.0.0.1:{s3.port}"
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(
        aws_connection(s3.credentials, local.url, url)
    )
    # No supervisor looks after these tasks, so nothing waits for a worker's word of a deferral.
    os.environ["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] = "0"
    with local.api(), local.worker():
        yield local
    os.environ.clear()
    os.environ.update(before)


class Task:
    """What Airflow hands a task: its state store, and what it pushes to XCom."""

    def __init__(self, name: str) -> None:
        self.kept: dict[str, Any] = {}
        self.pushed: dict[str, Any] = {}
        self.ti = SimpleNamespace(
            dag_id="review", task_id=name, run_id=uuid4().hex, map_index=-1, try_number=1,
            max_tries=0, task=SimpleNamespace(retries=0), xcom_push=self._push,
            get_task_states=lambda **_filters: {},
        )  # fmt: skip

    def _push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def _keep(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.kept[key] = json.loads(json.dumps(value))

    @property
    def context(self) -> Any:
        store = SimpleNamespace(get=self.kept.get, set=self._keep)
        return {"ti": self.ti, "task_state_store": store}


@dataclass
class Team:
    """A work team, its template, and its reviewers."""

    cloud: LocalCloud
    arn: str
    group: str
    ui: str

    def flow(self, **changes: Any) -> Any:
        """Make a flow definition by the operator; return its XCom."""
        return flow_operator(self, **changes).execute({})

    def reviewer(self) -> Reviewer:
        name = f"reviewer-{uuid4().hex[:8]}"
        self.cloud.run("user", "add", name, "--role", "reviewer", "--group", self.group,
                       secret=PASSWORD)  # fmt: skip
        return Reviewer(self.cloud.url, name, PASSWORD)


def flow_operator(team: Team, **changes: Any) -> CreateFlowDefinitionOperator:
    given = {
        "task_id": "flow",
        "flow_definition_name": f"flow-{uuid4().hex[:10]}",
        "role_arn": ROLE,
        "workteam_arn": team.arn,
        "human_task_ui_arn": team.ui,
        "task_title": "Read the digit",
        "task_description": "Say which digit it is.",
        "output_uri": f"s3://{BUCKET}/answers/",
        "task_count": "2",
        "task_keywords": ["digits"],
        "task_availability_seconds": 3600,
        "tags": {"team": "digits"},
        "poll_interval": 0.2,
    }
    return CreateFlowDefinitionOperator(**{**given, **changes})


@pytest.fixture(scope="module")
def team(cloud: LocalCloud) -> Team:
    ui = CreateHumanTaskUiOperator(
        task_id="ui", human_task_ui_name=f"ui-{uuid4().hex[:10]}", content=TEMPLATE
    )
    return Team(cloud, *make_workteam(), ui.execute({})["human_task_ui_arn"])


def make_workteam() -> tuple[str, str]:
    group = f"group-{uuid4().hex[:8]}"
    made = HumanReviewHook().client.create_workteam(
        WorkteamName=f"team-{uuid4().hex[:8]}",
        MemberDefinitions=[{"OidcMemberDefinition": {"Groups": [group]}}],
        Description="reads digits",
    )
    return str(made["WorkteamArn"]), group


class Reviewing:
    """Reviewers who answer what comes into a flow definition's queue until the block ends."""

    def __init__(self, reviewers: dict[Reviewer, Judge], flow: str) -> None:
        self._over = threading.Event()
        self.failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(who, judge, flow))
            for who, judge in reviewers.items()
        ]

    def __enter__(self) -> "Reviewing":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self.failure is None, self.failure

    def _work(self, who: Reviewer, judge: Judge, flow: str) -> None:
        try:
            with who:
                while not self._over.wait(0.1):
                    queue = who.queue(flow)
                    if queue is not None:
                        self._answer(who, judge, queue["flow"])
        except BaseException as error:
            self.failure = error

    @staticmethod
    def _answer(who: Reviewer, judge: Judge, flow: str) -> None:
        items = who.call(flow, "next")["items"]
        while items:
            answer = {"digit": {"label": judge(items[0]["input"])}}
            items = who.call(flow, "answer", loop=items[0]["loop"], answer=answer, spent_ms=900,
                             next=True).get("items", [])  # fmt: skip


def put_lines(s3: S3, name: str, lines: list[dict[str, Any]]) -> str:
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    s3.client().put_object(Bucket=BUCKET, Key=name, Body=body)
    return f"s3://{BUCKET}/{name}"


def lines_of(s3: S3, uri: str, *, whole: bool = False) -> list[dict[str, Any]]:
    key = uri.removeprefix(f"s3://{BUCKET}/")
    body = s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return [json.loads(line) for line in ([body] if whole else body.splitlines())]


def results(count: int = 30) -> list[dict[str, Any]]:
    """Every third is uncertain; of these every other one is wrong. One record has no answer."""
    made: list[dict[str, Any]] = []
    for n in range(count):
        truth, doubtful = n % 3, n % 3 == 0
        best = (truth + 1) % 3 if doubtful and n % 2 else truth
        scores = [0.25, 0.25, 0.25] if doubtful else [0.05, 0.05, 0.05]
        scores[best] = 0.5 if doubtful else 0.9
        record = {"id": f"item-{n}", "label": truth, "taskObject": f"s3://{BUCKET}/{n}.png"}
        made.append({"input": record, "output": {"probabilities": scores}, "error": None})
    made.append({"input": {"id": "bad"}, "output": None, "error": {"reason": "no image"}})
    return made


def review(s3: S3, flow: str, **changes: Any) -> HumanReviewOperator:
    name = uuid4().hex[:10]
    given = {
        "task_id": "review",
        "results_uri": put_lines(s3, f"{name}/results.jsonl", results()),
        "output_uri": f"s3://{BUCKET}/{name}/review",
        "flow_definition_arn": flow,
        "conditions": {"Conditions": [UNSURE, SAMPLED]},
        "score_output": "probabilities",
        "labels": LABELS,
        "hidden_fields": ["label"],
        "task_object_field": "taskObject",
        "poll_interval": 0.3,
        "max_poll_interval": 0.5,
        "deferrable": False,
    }
    return HumanReviewOperator(**{**given, **changes})


def truth(content: dict[str, Any]) -> str:
    return str(int(content["item"].rpartition("-")[2]) % 3)


def always(label: str) -> Judge:
    return lambda _content: label


async def event_of(trigger: Any) -> Any:
    async with asyncio.timeout(60):
        (event,) = [event async for event in trigger.run()]
    # A triggerer's loop goes on; this one must not end before the client is closed.
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=10)
    return event.payload


async def killed(trigger: Any) -> None:
    await trigger.on_kill()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=10)


def run(operator: HumanReviewOperator, task: Task) -> Any:
    """Run a task to its end through as many deferrals as it makes."""
    step: Callable[[], Any] = lambda: operator.execute(task.context)  # noqa: E731
    while True:
        try:
            return step()
        except TaskDeferred as deferred:
            event = asyncio.run(event_of(deferred.trigger))
            step = lambda event=event: operator.execute_complete(task.context, event)  # noqa: E731


def test_flow_definitions_and_task_uis_are_made_described_listed_and_deleted(team: Team) -> None:
    operator = flow_operator(team)
    made = operator.execute({})
    assert operator.execute({}) == made, "the same request again is the same flow definition"
    name = made["flow_definition_name"]
    assert made["status"] == "Active"
    assert (
        DescribeFlowDefinitionOperator(task_id="d", flow_definition_name=name).execute({}) == made
    )
    listed = ListFlowDefinitionsOperator(task_id="l", sort_order="Descending").execute({})
    assert name in listed["names"]
    waited = FlowDefinitionSensor(task_id="s", flow_definition_name=name, deferrable=True)
    assert waited.execute({}) == made
    with pytest.raises(RequestDiffersError, match=r"HumanLoopConfig.TaskCount: ours 1, theirs 2"):
        flow_operator(team, flow_definition_name=name, task_count=1).execute({})
    delete = DeleteFlowDefinitionOperator(task_id="x", flow_definition_name=name)
    assert delete.execute({})["deleted"]
    deadline = time.monotonic() + 20
    while delete.execute({})["deleted"]:
        assert time.monotonic() < deadline


def test_a_task_ui_of_the_same_name_must_have_the_same_content(cloud: LocalCloud) -> None:
    name = f"ui-{uuid4().hex[:10]}"
    create = CreateHumanTaskUiOperator(task_id="c", human_task_ui_name=name, content=TEMPLATE)
    made = create.execute({})
    assert create.execute({}) == made
    assert DescribeHumanTaskUiOperator(task_id="d", human_task_ui_name=name).execute({}) == made
    assert name in ListHumanTaskUisOperator(task_id="l").execute({})["names"]
    create.content = TEMPLATE.replace("Which", "What")
    with pytest.raises(RequestDiffersError, match=f"{name} exists with another content"):
        create.execute({})
    delete = DeleteHumanTaskUiOperator(task_id="x", human_task_ui_name=name)
    assert delete.execute({})["deleted"]
    assert not delete.execute({})["deleted"]


def test_a_template_is_rendered_before_a_reviewer_meets_it(s3: S3, team: Team) -> None:
    uri = f"s3://{BUCKET}/{uuid4().hex}/page.html"
    render = RenderUiTemplateOperator(
        task_id="render", role_arn=ROLE, human_task_ui_arn=team.ui, output_uri=uri,
        task_input={"labels": LABELS, "taskObject": f"s3://{BUCKET}/1.png"},
    )  # fmt: skip
    assert render.execute({})["output_uri"] == uri
    page = s3.client().get_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"))
    assert b"<crowd-classifier" in page["Body"].read()
    render.task_input = '{"labels": [], "taskObject": "https://elsewhere.example/1.png"}'
    with pytest.raises(InvalidRequestError, match=r"cannot be rendered: .*not the URI of an obj"):
        render.execute({})
    render.content = TEMPLATE
    with pytest.raises(InvalidRequestError, match="and not both"):
        render.execute({})


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_review_corrects_the_results_and_says_what_it_knows_of_the_rest(
    s3: S3, team: Team, deferrable: bool
) -> None:
    flow = team.flow()
    operator, task = review(s3, flow["flow_definition_arn"], deferrable=deferrable), Task("review")
    both = {team.reviewer(): truth, team.reviewer(): truth}
    with Reviewing(both, flow["flow_definition_name"]):
        result = run(operator, task)
    assert result["results"] == 30
    assert result["corrected"] == 5
    assert result["agreement"] == 1.0
    assert result["answers"] == 2 * result["loops"]
    assert result["confirmed"] + 5 + result["unreviewed"] == 30
    lines = lines_of(s3, result["output_uri"])
    assert [line["input"]["id"] for line in lines] == [f"item-{n}" for n in range(30)] + ["bad"]
    doubtful = {n: lines[n]["review"] for n in range(0, 30, 3)}
    assert all(found["label"] == "0" for found in doubtful.values())
    assert [n for n, found in doubtful.items() if found["status"] == "corrected"] == [
        3,
        9,
        15,
        21,
        27,
    ]
    (report,) = lines_of(s3, result["report_uri"], whole=True)
    assert report["estimate"]["items"] == 30
    assert len(report["reviewers"]) == 2
    assert result["model_accuracy"] == pytest.approx(25 / 30)
    assert result["corrected_accuracy"] == 1.0
    low, high = result["unreviewed_errors_interval"]
    assert low == 0.0 < high <= 1.0
    # A retry after the end starts nothing anew.
    assert review_again(operator, task) == result


def review_again(operator: HumanReviewOperator, task: Task) -> Any:
    return operator.execute(task.context)


def test_reviewers_are_shown_the_reason_and_not_the_label(s3: S3, team: Team) -> None:
    flow = team.flow(task_count=1)
    seen: list[dict[str, Any]] = []

    def look(content: dict[str, Any]) -> str:
        seen.append(content)
        return truth(content)

    with Reviewing({team.reviewer(): look}, flow["flow_definition_name"]):
        run(review(s3, flow["flow_definition_arn"]), Task("review"))
    first = next(each for each in seen if each["item"] == "item-3")
    assert "label" not in first["input"]
    assert first["initialValue"] == "1"
    assert first["confidence"] == 0.5
    checked, sampled = first["humanTaskActivationConditionResults"]["Conditions"]
    assert checked["EvaluationResult"] is True
    assert sampled["ConditionType"] == "Sampling"


def test_disagreement_goes_to_one_more_reviewer_and_then_to_the_adjudicator(
    s3: S3, team: Team
) -> None:
    flow = team.flow()
    leads = Team(team.cloud, *make_workteam(), team.ui)
    tie_break, adjudication = leads.flow(task_count=1), leads.flow(task_count=1)
    operator = review(
        s3, flow["flow_definition_arn"], conditions={"Conditions": [UNSURE]},
        tie_break_flow_definition_arn=tie_break["flow_definition_arn"],
        adjudication_flow_definition_arn=adjudication["flow_definition_arn"],
    )  # fmt: skip

    def third(content: dict[str, Any]) -> str:
        return "0" if content["item"] != "item-6" else "2"

    with (
        Reviewing({team.reviewer(): truth, team.reviewer(): always("1")},
                  flow["flow_definition_name"]),
        Reviewing({leads.reviewer(): third}, tie_break["flow_definition_name"]),
        Reviewing({leads.reviewer(): always("0")}, adjudication["flow_definition_name"]),
    ):  # fmt: skip
        result = run(operator, Task("review"))
    assert (result["corrected"], result["confirmed"], result["undecided"]) == (5, 5, 0)
    assert result["loops"] == 10 + 10 + 1
    lines = {line["input"]["id"]: line["review"] for line in lines_of(s3, result["output_uri"])}
    assert lines["item-3"]["methods"] == ["majority"]
    assert lines["item-6"] == {
        "status": "confirmed", "label": "0", "support": pytest.approx(1 / 3, abs=1e-5),
        "methods": ["adjudicator"],
    }  # fmt: skip


def test_a_tie_break_in_the_same_team_goes_to_who_has_not_answered(s3: S3, team: Team) -> None:
    same = Team(team.cloud, *make_workteam(), team.ui)
    flow, tie_break = same.flow(), same.flow(task_count=1)
    operator = review(
        s3, flow["flow_definition_arn"], conditions={"Conditions": [UNSURE]},
        tie_break_flow_definition_arn=tie_break["flow_definition_arn"],
    )  # fmt: skip
    first, second = same.reviewer(), same.reviewer()

    def slowly(content: dict[str, Any]) -> str:
        time.sleep(0.3)  # the other two would have taken all of them by then
        return truth(content)

    with (
        Reviewing({first: truth, second: always("1")}, flow["flow_definition_name"]),
        Reviewing(
            {Reviewer(team.cloud.url, first.name, PASSWORD): always("2"),
             Reviewer(team.cloud.url, second.name, PASSWORD): always("2"),
             same.reviewer(): slowly},
            tie_break["flow_definition_name"],
        ),
    ):  # fmt: skip
        result = run(operator, Task("review"))
    assert (result["corrected"], result["confirmed"], result["undecided"]) == (5, 5, 0)
    assert (result["loops"], result["answers"]) == (20, 30)


def test_a_template_that_cannot_be_used_stops_the_task_before_any_loop(s3: S3, team: Team) -> None:
    boxes = TEMPLATE.replace("crowd-classifier", "crowd-bounding-box")
    boxes = boxes.replace("categories=", "labels=")
    ui = CreateHumanTaskUiOperator(
        task_id="ui", human_task_ui_name=f"ui-{uuid4().hex[:10]}", content=boxes
    ).execute({})["human_task_ui_arn"]
    good = team.flow()["flow_definition_arn"]
    without_label = Team(team.cloud, team.arn, team.group, ui).flow()["flow_definition_arn"]
    elsewhere = [
        {**line, "input": {**line["input"], "taskObject": "https://elsewhere.example/1.png"}}
        for line in results()
    ]
    uri = put_lines(s3, f"{uuid4().hex}/results.jsonl", elsewhere)
    gone = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:flow-definition/gone"
    for changes, error, said in [
        ({"results_uri": uri}, InvalidRequestError, "names no object|not the URI of an object"),
        ({"tie_break_flow_definition_arn": without_label}, InvalidRequestError, "answers a label"),
        ({"adjudication_flow_definition_arn": gone}, JobRefusedError, "gone does not exist"),
    ]:
        with pytest.raises(error, match=said):
            review(s3, good, **changes).execute(Task("review").context)
    assert list(HumanLoopHook().list_loops(good)) == []


def test_a_public_crowd_is_shown_nothing_that_may_be_personal(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = team.flow(task_count=1)["flow_definition_arn"]
    described = HumanReviewHook.describe_flow_definition

    def public(hook: HumanReviewHook, name: str) -> dict[str, Any]:
        # localcloud's teams are private: all but the team's ARN is what it says.
        found = described(hook, name)
        crowd = "arn:aws:sagemaker:us-east-1:394669845002:workteam/public-crowd/default"
        return {**found, "HumanLoopConfig": {**found["HumanLoopConfig"], "WorkteamArn": crowd}}

    monkeypatch.setattr(HumanReviewHook, "describe_flow_definition", public)
    content = {"item": "x", "labels": LABELS, "taskObject": f"s3://{BUCKET}/1.png"}
    inputs = put_lines(s3, f"{uuid4().hex}/inputs.jsonl", [{"item": "x", "content": content}])
    start: dict[str, Any] = {
        "task_id": "start", "flow_definition_arn": arn, "inputs_uri": inputs,
        "manifest_uri": inputs.replace("inputs", "loops"),
    }  # fmt: skip
    for given in (None, ["FreeOfAdultContent"]):
        with pytest.raises(InvalidRequestError, match="must have FreeOfPersonallyIdentifiable"):
            review(s3, arn, content_classifiers=given).execute(Task("review").context)
        operator = StartHumanLoopsOperator(**start, content_classifiers=given)
        with pytest.raises(InvalidRequestError, match="must have FreeOfPersonallyIdentifiable"):
            operator.execute(Task("start").context)
    assert list(HumanLoopHook().list_loops(arn)) == []
    both = ["FreeOfPersonallyIdentifiableInformation", "FreeOfAdultContent"]
    operator = StartHumanLoopsOperator(**start, content_classifiers=both)
    started = operator.execute(Task("start").context)
    with closing(sqlite3.connect(team.cloud.home / "localcloud.db")) as store:
        (kept,) = store.execute(
            "SELECT attributes FROM human_loop_inputs JOIN human_loops ON id = loop_id "
            "WHERE name LIKE ?", (f"{started['loop_prefix']}%",)
        ).fetchone()  # fmt: skip
    assert json.loads(kept) == {"ContentClassifiers": both}


def test_expired_loops_fail_the_task_whose_retry_asks_for_these_again(s3: S3, team: Team) -> None:
    short = team.flow(task_count=1, task_availability_seconds=1)
    operator, task = review(s3, short["flow_definition_arn"]), Task("review")
    with pytest.raises(JobFailedError, match=r"human loops ended without their answers .* Failed"):
        run(operator, task)
    lasting = team.flow(task_count=1)
    operator.flow_definition_arn = lasting["flow_definition_arn"]
    with Reviewing({team.reviewer(): truth}, lasting["flow_definition_name"]):
        result = run(operator, task)
    assert (result["corrected"], result["undecided"]) == (5, 0)


def test_a_tie_break_that_expires_is_asked_again_by_the_retry(s3: S3, team: Team) -> None:
    flow = team.flow()
    leads = Team(team.cloud, *make_workteam(), team.ui)
    short = leads.flow(task_count=1, task_availability_seconds=1)
    operator = review(
        s3, flow["flow_definition_arn"], conditions={"Conditions": [UNSURE]},
        tie_break_flow_definition_arn=short["flow_definition_arn"],
    )  # fmt: skip
    task = Task("review")
    with (
        Reviewing({team.reviewer(): truth, team.reviewer(): always("1")},
                  flow["flow_definition_name"]),
        pytest.raises(JobFailedError, match="a retry asks for these again"),
    ):  # fmt: skip
        run(operator, task)
    lasting = leads.flow(task_count=1)
    operator.tie_break_flow_definition_arn = lasting["flow_definition_arn"]
    with Reviewing({leads.reviewer(): truth}, lasting["flow_definition_name"]):
        result = run(operator, task)
    assert (result["corrected"], result["confirmed"], result["undecided"]) == (5, 5, 0)


def test_expired_loops_count_against_the_model_where_they_may_be_left(s3: S3, team: Team) -> None:
    flow = team.flow(task_count=1)
    operator = review(s3, flow["flow_definition_arn"], expired="unreviewed", review_timeout=0.5,
                      conditions={"Conditions": [UNSURE]})  # fmt: skip
    result = run(operator, Task("review"))
    assert (result["undecided"], result["confirmed"], result["answers"]) == (10, 0, 0)
    assert result["model_accuracy_interval"] == [0.0, 1.0]
    statuses = {line["review"]["status"] for line in lines_of(s3, result["output_uri"])
                if line["review"]}  # fmt: skip
    assert statuses == {"undecided"}


def test_loops_that_do_not_stop_in_time_have_ended_without_answers(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = team.flow(task_count=1)
    operator = review(s3, flow["flow_definition_arn"], review_timeout=0.5,
                      conditions={"Conditions": [UNSURE]})  # fmt: skip
    task = Task("review")
    with monkeypatch.context() as patched:
        patched.setattr(human_review, "STOP_SECONDS", 0.5)
        patched.setattr(HumanLoopWorker, "stop", lambda _worker, _names: 0)
        with pytest.raises(JobFailedError, match=r"10 of 10 .* Open: asked to stop, it goes on"):
            run(operator, task)
    operator.review_timeout = None
    with Reviewing({team.reviewer(): truth}, flow["flow_definition_name"]):
        result = run(operator, task)
    assert (result["loops"], result["answers"], result["undecided"]) == (20, 10, 0)


def test_results_that_are_written_anew_are_not_joined_with_reviews_of_others(
    s3: S3, team: Team
) -> None:
    flow = team.flow(task_count=1)
    operator, task = review(s3, flow["flow_definition_arn"]), Task("review")
    name = operator.results_uri.removeprefix(f"s3://{BUCKET}/")

    def meanwhile(content: dict[str, Any]) -> str:
        put_lines(s3, name, results()[::-1])
        return truth(content)

    with (
        Reviewing({team.reviewer(): meanwhile}, flow["flow_definition_name"]),
        pytest.raises(StorageError, match="was written anew while people reviewed it"),
    ):
        run(operator, task)
    # Nobody is asked again once they are back.
    put_lines(s3, name, results())
    assert run(operator, task)["corrected"] == 5


def start_operator(s3: S3, flow_definition_arn: str, count: int) -> StartHumanLoopsOperator:
    content = {"labels": LABELS, "taskObject": "x"}
    lines = [{"item": f"item-{n}", "content": {**content, "item": f"item-{n}"}}
             for n in range(count)]  # fmt: skip
    inputs = put_lines(s3, f"{uuid4().hex}/inputs.jsonl", lines)
    return StartHumanLoopsOperator(
        task_id="start", flow_definition_arn=flow_definition_arn, inputs_uri=inputs,
        manifest_uri=inputs.replace("inputs", "loops"),
    )  # fmt: skip


def test_a_batch_of_loops_is_started_once_waited_for_and_stopped(s3: S3, team: Team) -> None:
    flow = team.flow(task_count=1)
    start = start_operator(s3, flow["flow_definition_arn"], 250)
    task = Task("start")
    started = start.execute(task.context)
    assert start.execute(task.context) == started
    loops = list(HumanLoopHook().list_loops(flow["flow_definition_arn"]))
    manifest = lines_of(s3, started["manifest_uri"])
    assert sorted(each["HumanLoopName"] for each in loops) == [each["loop"] for each in manifest]
    assert len(loops) == started["loops"] == 250
    name = flow["flow_definition_name"]
    link = f"{team.cloud.url}/queues/{ACCOUNT}/us-east-1/{name}"
    assert task.pushed[JOB_LINK_KEY] == link
    sensor = HumanLoopSensor(task_id="wait", started=started, deferrable=True, poke_interval=0.3)
    waiting = Task("wait").context
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(waiting)
    stopped = StopHumanLoopsOperator(task_id="stop", started=started).execute({})
    assert stopped["stopped"] == 250
    event = asyncio.run(event_of(deferred.value.trigger))
    assert event["statuses"] == {"Stopped": 250}
    with pytest.raises(JobFailedError, match="250 of 250 human loops ended without"):
        sensor.execute_complete(waiting, event)
    sensor.expired = "keep"
    assert sensor.execute_complete(waiting, event)["statuses"] == {"Stopped": 250}


def test_waits_of_several_flows_share_one_request_rate_and_those_of_one_flow_its_list(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets: list[TokenBucket] = []

    def bucket() -> TokenBucket:
        buckets.append(TokenBucket())
        return buckets[-1]

    monkeypatch.setattr(registry, "TokenBucket", bucket)
    batches = []
    for flow in [team.flow(task_count=1), team.flow(task_count=1)]:
        for _ in range(2):
            start = start_operator(s3, flow["flow_definition_arn"], 5)
            batches.append(LoopBatch.read(start.execute(Task(uuid4().hex).context)))

    async def wait_for_all() -> list[dict[str, int]]:
        settings = {"aws_conn_id": "aws_default", "region_name": None, "verify": None,
                    "botocore_config": None}  # fmt: skip
        polls, bounds = registry.registry(), Bounds(0.2, 0.5, 60.0)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            waits = [
                group.create_task(wait_for_batch(polls, SERVICE, settings, "", batch, bounds))
                for batch in batches
            ]
            while len(polls._polls) < 2:
                await asyncio.sleep(0.05)
            assert (len(polls._polls), polls.open_clients) == (2, 1)
            worker = HumanLoopWorker(HumanLoopHook)
            for batch in batches:
                await asyncio.to_thread(worker.stop, batch)
        assert not polls._polls
        return [each.result() for each in waits]

    assert asyncio.run(wait_for_all()) == [{"Stopped": 5}] * 4
    assert len(buckets) == 1


def test_a_killed_deferred_review_stops_its_loops(s3: S3, team: Team) -> None:
    flow = team.flow(task_count=1)
    with pytest.raises(TaskDeferred) as deferred:
        review(s3, flow["flow_definition_arn"], deferrable=True).execute(Task("review").context)
    asyncio.run(killed(deferred.value.trigger))
    statuses = {each["HumanLoopStatus"]
                for each in HumanLoopHook().list_loops(flow["flow_definition_arn"])}  # fmt: skip
    assert statuses == {"Stopped"}


def test_a_loop_that_cannot_be_stopped_keeps_no_other_open_in_the_triggerer(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = team.flow(task_count=1)["flow_definition_arn"]
    with pytest.raises(TaskDeferred) as deferred:
        review(s3, arn, deferrable=True).execute(Task("review").context)
    kept = next(HumanLoopHook().list_loops(arn))["HumanLoopName"]
    call = AioBaseClient._make_api_call

    async def denied(client: Any, operation: str, parameters: Any) -> Any:
        if operation == "StopHumanLoop" and parameters["HumanLoopName"] == kept:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, operation)
        return await call(client, operation, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", denied)
    asyncio.run(killed(deferred.value.trigger))
    open_still = [each["HumanLoopName"] for each in HumanLoopHook().list_loops(arn)
                  if each["HumanLoopStatus"] == "InProgress"]  # fmt: skip
    assert open_still == [kept]


def loop_statuses(flow_definition_arn: str) -> set[str]:
    return {each["HumanLoopStatus"] for each in HumanLoopHook().list_loops(flow_definition_arn)}


def test_execution_timeout_counts_over_deferrals_and_stops_what_is_open(s3: S3, team: Team) -> None:
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task("review")
    limit = timedelta(seconds=60)
    operator = review(s3, arn, deferrable=True, execution_timeout=limit)
    task.ti.start_date = datetime.now(UTC) - timedelta(seconds=20)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(task.context)
    assert deferred.value.timeout is not None
    assert deferred.value.timeout <= timedelta(seconds=40)
    assert loop_statuses(arn) == {"InProgress"}
    task.ti.start_date = datetime.now(UTC) - limit
    with pytest.raises(AirflowTaskTimeout, match="is over: stopped 13 of 13 human loops"):
        operator.execute_complete(task.context, {"error": "TaskDeferralTimeout"})
    assert loop_statuses(arn) == {"Stopped"}


def test_a_killed_worker_stops_its_loops_and_starts_no_more(s3: S3, team: Team) -> None:
    arn = team.flow(task_count=1)["flow_definition_arn"]
    operator = review(s3, arn)
    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(operator.execute, Task("review").context)
        while len(list(HumanLoopHook().list_loops(arn))) < 13:
            assert not running.done(), running.result()
            time.sleep(0.1)
        operator.on_kill()
        assert loop_statuses(arn) == {"Stopped"}
        with pytest.raises(JobFailedError, match=r"the task was killed|Stopped"):
            running.result(30)
    with pytest.raises(DeliveryError, match="killed"):
        operator.execute(Task("review").context)
    assert len(list(HumanLoopHook().list_loops(arn))) == 13


def test_an_evicted_worker_leaves_its_loops_to_the_next_try(s3: S3, team: Team) -> None:
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task("review")
    operator, task.ti.max_tries = review(s3, arn), 1
    task.ti.get_task_states = lambda **_: {task.ti.run_id: {"review": "running"}}
    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(operator.execute, task.context)
        while len(list(HumanLoopHook().list_loops(arn))) < 13:
            assert not running.done(), running.result()
            time.sleep(0.1)
        operator.on_kill()
        with pytest.raises(DeliveryError, match="the task was killed"):
            running.result(30)
    assert loop_statuses(arn) == {"InProgress"}
    task.ti.try_number = 2
    with pytest.raises(TaskDeferred):
        review(s3, arn, deferrable=True).execute(task.context)
    assert len(list(HumanLoopHook().list_loops(arn))) == 13


class Gate:
    """Lets some loops be started, and then none until it opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self._passed = iter(range(100_000))
        self._after = after
        self.reached, self.opened = threading.Event(), threading.Event()
        start = HumanLoopWorker._start

        def held(worker: HumanLoopWorker, request: Any, item: str) -> None:
            if next(self._passed) >= self._after:
                self.reached.set()
                assert self.opened.wait(60)
            start(worker, request, item)

        monkeypatch.setattr(HumanLoopWorker, "_start", held)


@pytest.mark.parametrize("kind", ["start", "review"])
def test_a_kill_while_loops_are_started_leaves_none_open(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    arn = team.flow(task_count=1)["flow_definition_arn"]
    operator = start_operator(s3, arn, 40) if kind == "start" else review(s3, arn)
    gate = Gate(monkeypatch, after=5)
    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(operator.execute, Task(kind).context)
        assert gate.reached.wait(60)
        operator.on_kill()
        # What was on its way reaches the service when the handler has returned.
        gate.opened.set()
        with pytest.raises(DeliveryError, match="the task was killed"):
            running.result(60)
    started = list(HumanLoopHook().list_loops(arn))
    assert 5 < len(started) < 13
    assert {each["HumanLoopStatus"] for each in started} == {"Stopped"}


def test_a_start_that_is_evicted_leaves_its_loops_to_the_next_try(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task("start")
    operator, task.ti.max_tries = start_operator(s3, arn, 40), 1
    task.ti.get_task_states = lambda **_: {task.ti.run_id: {"start": "running"}}
    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as worker:
        gate = Gate(patched, after=5)
        running = worker.submit(operator.execute, task.context)
        assert gate.reached.wait(60)
        operator.on_kill()
        gate.opened.set()
        with pytest.raises(DeliveryError, match="the task was killed"):
            running.result(60)
    assert loop_statuses(arn) == {"InProgress"}
    task.ti.try_number = 2
    again = start_operator(s3, arn, 40)
    again.inputs_uri, again.manifest_uri = operator.inputs_uri, operator.manifest_uri
    assert again.execute(task.context)["loops"] == 40
    assert len(list(HumanLoopHook().list_loops(arn))) == 40
    # They are the next task's now: whatever ends this process ends none of them.
    again.on_kill()
    assert loop_statuses(arn) == {"InProgress"}


@pytest.mark.parametrize("kind", ["start", "review"])
def test_a_kill_before_anything_is_taken_up_starts_nothing(s3: S3, team: Team, kind: str) -> None:
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task(kind)
    operator = start_operator(s3, arn, 3) if kind == "start" else review(s3, arn)
    operator.on_kill()
    with pytest.raises(DeliveryError, match="killed"):
        operator.execute(task.context)
    assert list(HumanLoopHook().list_loops(arn)) == []


def test_a_look_that_is_denied_for_a_moment_costs_the_review_nothing(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = team.flow(task_count=1)
    monkeypatch.setattr(retries, "backoff", lambda _failures: 0.05)
    call, denials = BaseClient._make_api_call, iter(range(3))

    def denied(client: Any, operation: str, parameters: Any) -> Any:
        if operation == "ListHumanLoops" and next(denials, None) is not None:
            answer = {"Error": {"Code": "AccessDeniedException", "Message": "not yet"}}
            raise ClientError(answer, operation)
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", denied)
    with Reviewing({team.reviewer(): truth}, flow["flow_definition_name"]):
        result = run(review(s3, flow["flow_definition_arn"]), Task("review"))
    assert (result["corrected"], result["undecided"]) == (5, 0)
    assert next(denials, None) is None


def test_rights_that_are_gone_fail_the_try_and_name_the_next_step(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, task = team.flow(task_count=1), Task("review")
    task.ti.max_tries = 1
    task.ti.get_task_states = lambda **_: {task.ti.run_id: {"review": "running"}}
    monkeypatch.setattr(retries, "backoff", lambda _failures: 0.05)
    call = BaseClient._make_api_call

    def denied(client: Any, operation: str, parameters: Any) -> Any:
        if operation == "ListHumanLoops":
            answer = {"Error": {"Code": "AccessDeniedException", "Message": "no more"}}
            raise ClientError(answer, operation)
        return call(client, operation, parameters)

    with monkeypatch.context() as patched:
        patched.setattr(BaseClient, "_make_api_call", denied)
        with pytest.raises(DeliveryError, match=r"no more: check the rights .* a retry goes on"):
            run(review(s3, flow["flow_definition_arn"]), task)
    assert loop_statuses(flow["flow_definition_arn"]) == {"InProgress"}


def test_the_try_after_an_execution_timeout_asks_again(s3: S3, team: Team) -> None:
    flow, task = team.flow(task_count=1), Task("review")
    arn, limit = flow["flow_definition_arn"], timedelta(seconds=60)
    operator, task.ti.max_tries = review(s3, arn, execution_timeout=limit), 1
    task.ti.start_date = datetime.now(UTC) - limit
    with pytest.raises(AirflowTaskTimeout, match="is over: stopped 13 of 13"):
        operator.execute(task.context)
    assert loop_statuses(arn) == {"Stopped"}
    task.ti.try_number, task.ti.start_date = 2, datetime.now(UTC)
    with Reviewing({team.reviewer(): truth}, flow["flow_definition_name"]):
        result = run(review(s3, arn, results_uri=operator.results_uri,
                            output_uri=operator.output_uri, execution_timeout=limit),
                     task)  # fmt: skip
    assert (result["loops"], result["corrected"], result["undecided"]) == (26, 5, 0)


def test_a_flow_definition_that_is_being_deleted_is_left_to_the_retry(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = flow_operator(team)
    operator.execute({})
    call = BaseClient._make_api_call
    status: list[str | None] = ["Deleting", None]

    def deleting(client: Any, operation: str, parameters: Any) -> Any:
        answer = call(client, operation, parameters)
        if operation != "DescribeFlowDefinition":
            return answer
        # How long SageMaker takes from the one to the other is its own affair.
        if status[0] is None:
            raise ClientError({"Error": {"Code": "ResourceNotFound", "Message": "gone"}}, operation)
        return {**answer, "FlowDefinitionStatus": status[0]}

    monkeypatch.setattr(retries, "backoff", lambda _failures: 0.05)
    with monkeypatch.context() as patched:
        patched.setattr(BaseClient, "_make_api_call", deleting)
        for _ in range(2):
            with pytest.raises(DeliveryError, match="is being deleted: a retry makes it anew"):
                operator.execute({})
            status.pop(0)
            status.append(None)
    DeleteFlowDefinitionOperator(
        task_id="delete", flow_definition_name=operator.flow_definition_name
    ).execute({})
    made = None
    while made is None:  # until localcloud's worker has deleted it
        with suppress(DeliveryError):
            made = operator.execute({})
    assert made["status"] == "Active"


def test_a_review_that_fails_for_good_leaves_no_open_loop(
    s3: S3, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task("review")
    checked = iter(range(100))

    def check(given: loop_worker.LoopInput) -> None:
        if next(checked) == 6:
            raise InvalidRequestError(f"the input of item {given.item} is too large")

    monkeypatch.setattr(loop_worker, "_check_size", check)
    task.ti.max_tries = 1
    with pytest.raises(InvalidRequestError, match="too large"):
        review(s3, arn).execute(task.context)
    assert loop_statuses(arn) == {"Stopped"}


def test_a_time_out_in_the_triggerer_sends_no_later_wait_to_a_worker(s3: S3, team: Team) -> None:
    """A round's time is over by the scheduler's clock, and not yet by the worker's."""
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task("review")
    operator = review(s3, arn, deferrable=True, review_timeout=600)
    with pytest.raises(TaskDeferred):
        operator.execute(task.context)
    over = {"error": TriggerFailureReason.TRIGGER_TIMEOUT}
    with pytest.raises(TaskDeferred):
        operator.resume_execution("__fail__", over, task.context)


def test_a_trigger_that_cannot_run_leaves_the_wait_to_the_worker(s3: S3, team: Team) -> None:
    arn, task = team.flow(task_count=1)["flow_definition_arn"], Task("review")
    with pytest.raises(TaskDeferred):
        review(s3, arn, deferrable=True).execute(task.context)
    operator = review(s3, arn, deferrable=True)
    failed = {"error": "ImportError", "traceback": None}
    with ThreadPoolExecutor(1) as worker:
        running = worker.submit(operator.resume_execution, "__fail__", failed, task.context)
        with pytest.raises(TimeoutError):
            running.exception(3)  # TaskDeferred, if it deferred again
        operator.on_kill()
        with pytest.raises(JobFailedError, match="the task was killed"):
            running.result(30)


@pytest.mark.parametrize(
    ("max_tries", "retries", "clear_number", "is_anew"),
    [(0, 0, 0, False), (1, 0, 1, True), (0, 1, 1, True), (0, 1, 0, False), (0, 0, 1, False)],
)
def test_a_clear_of_a_finished_review_is_told_from_a_retry(
    max_tries: int, retries: int, clear_number: int, is_anew: bool
) -> None:
    task = Task("review")
    LoopState(task.context).save(done=True)
    task.ti.max_tries, task.ti.task.retries = max_tries, retries
    run = SimpleNamespace(clear_number=clear_number)
    again = LoopState({**task.context, "dag_run": run})
    assert (again.get("done") is None) == is_anew


def test_a_key_that_was_replaced_is_looked_up_again(cloud: LocalCloud, team: Team) -> None:
    good = os.environ["AIRFLOW_CONN_AWS_DEFAULT"]
    old = {**json.loads(good), "password": "no longer valid"}
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(old)
    try:
        worker = HumanLoopWorker(HumanLoopHook)
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = good
        assert worker.stop(["nobody-started-this"]) == 0
    finally:
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = good


def test_the_gate_goes_by_what_reviewers_found(s3: S3, team: Team) -> None:
    flow = team.flow()
    both = {team.reviewer(): truth, team.reviewer(): truth}
    with Reviewing(both, flow["flow_definition_name"]):
        found = run(review(s3, flow["flow_definition_arn"]), Task("review"))
    given: dict[str, Any] = {
        "task_id": "gate", "results_uri": found["output_uri"], "review": found,
        "score_output": "probabilities", "max_error_fraction": 0.1, "min_accuracy": 0.3,
    }  # fmt: skip
    verdict = QualityGateOperator(**given, min_agreement=0.9).execute({})
    assert verdict["accuracy"] == found["model_accuracy"]
    labelled = QualityGateOperator(**given, label_field="label", labels=LABELS).execute({})
    assert (labelled["records"], labelled["accuracy"]) == (30, 25 / 30)
    with pytest.raises(GateClosedError, match="unreviewed"):
        QualityGateOperator(**given, max_unreviewed_error=0.01).execute({})
    with pytest.raises(GateClosedError, match="corrected accuracy"):
        QualityGateOperator(**given, min_corrected_accuracy=0.999).execute({})
    with pytest.raises(GateClosedError, match=r"accuracy 0\.8333"):
        QualityGateOperator(**{**given, "min_accuracy": 0.84}).execute({})


def test_what_the_service_could_not_do_is_refused_before_any_call(s3: S3, team: Team) -> None:
    for changes, message in [
        ({"task_price": "0.036"}, "no public work team"),
        ({"activation_conditions": {"Conditions": [SAMPLED]}}, "need a request_source"),
        ({"task_time_limit_seconds": 29}, "task_time_limit_seconds is 29: give at least 30"),
        ({"task_keywords": ["a"] * 6}, "at most 5"),
        ({"task_keywords": ["no-hyphen"]}, "'no-hyphen' is none"),
        ({"task_title": "x" * 129}, "TaskTitle has a length of 129, at most 128"),
        ({"task_count": 4}, "TaskCount is 4, at most 3"),
        ({"output_uri": "https://bucket/key"}, "must begin with s3://"),
        ({"request_source": "AWS/Other"}, "request_source is 'AWS/Other'"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            flow_operator(team, **changes).execute({})
    arn = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:flow-definition/none"
    for changes, message in [
        ({"method": "coin"}, "method is 'coin'"),
        ({"score_output": ""}, "score_output is missing"),
        ({"max_loops": 3}, "more than 3 items"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            review(s3, arn, **changes).execute(Task("review").context)


def test_a_clear_stops_the_loops_of_a_start_that_was_cut_off(s3: S3, team: Team) -> None:
    flow = team.flow(task_count=1)
    operator, task = review(s3, flow["flow_definition_arn"], deferrable=True), Task("review")
    with pytest.raises(TaskDeferred):
        operator.execute(task.context)
    before = {
        each["HumanLoopName"] for each in HumanLoopHook().list_loops(operator.flow_definition_arn)
    }
    # The process died between the last start and its being noted; then somebody cleared the task.
    (key,) = task.kept
    del task.kept[key][-1]["rounds"][0]["batch"]
    task.ti.max_tries = 1
    with pytest.raises(TaskDeferred):
        review(s3, flow["flow_definition_arn"], deferrable=True).execute(task.context)
    loops = {each["HumanLoopName"]: each["HumanLoopStatus"]
             for each in HumanLoopHook().list_loops(operator.flow_definition_arn)}  # fmt: skip
    assert {loops[name] for name in before} == {"Stopped"}
    assert {status for name, status in loops.items() if name not in before} == {"InProgress"}
    # Each further try leaves them alone.
    assert list(LoopState(task.context).superseded()) == []


def test_a_start_that_was_cut_off_goes_on_at_the_retry(s3: S3, team: Team) -> None:
    flow = team.flow(task_count=1)
    operator, task = review(s3, flow["flow_definition_arn"], deferrable=True), Task("review")
    with pytest.raises(TaskDeferred):
        operator.execute(task.context)
    (key,) = task.kept
    del task.kept[key][-1]["rounds"][0]["batch"]
    with pytest.raises(TaskDeferred):
        operator.execute(task.context)
    loops = list(HumanLoopHook().list_loops(flow["flow_definition_arn"]))
    assert len(loops) == 13
