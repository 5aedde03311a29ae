"""The operators of Personalize over a real localcloud: register, recommend, wait, list, kill."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from airflow.sdk.exceptions import TaskDeferred
from model_delivery.exceptions import InvalidRequestError, JobRefusedError
from model_delivery.hooks.personalize import PersonalizeHook
from model_delivery.jobs.registry import registry
from model_delivery.jobs.trigger import JobTrigger
from model_delivery.links.job import JobLink
from model_delivery.operators.personalize import (
    CreateBatchInferenceJobOperator,
    ListBatchInferenceJobsOperator,
    RegisterSolutionVersionOperator,
)
from model_delivery.sensors.personalize import BatchInferenceJobSensor
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.recommender_bundle import write_recommender_bundle

from stack.airflow import aws_connection
from stack.credentials import REGION
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET
from stack.ports import free_ports
from tests.integration.conftest import S3

ROLE = "arn:aws:iam::000000000000:role/personalize"
USERS = [{"userId": f"u{n}"} for n in range(40)]
SOLUTION = f"arn:aws:personalize:{REGION}:000000000000:solution"


@pytest.fixture(scope="module")
def cloud(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    local = LocalCloud(
        tmp_path_factory.mktemp("localcloud"), s3.credentials, free_ports(1)[0], s3.port
    )
    local.prepare()
    before = dict(os.environ)
    url = f"http://127.0.0.1:{s3.port}"
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(
        aws_connection(s3.credentials, local.url, url)
    )
    # No supervisor looks after these tasks, so nothing waits for a worker's word of a deferral.
    os.environ["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] = "0"
    with local.api():
        yield local
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def worker(cloud: LocalCloud) -> Iterator[None]:
    with cloud.worker():
        yield


@pytest.fixture(scope="module")
def version(cloud: LocalCloud, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> str:
    archive = tmp_path_factory.mktemp("bundle") / "films.tar.gz"
    random = np.random.default_rng(0)
    write_recommender_bundle(
        archive, name="films", recipe=Recipe.USER_PERSONALIZATION,
        users=[each["userId"] for each in USERS], items=[f"i{n}" for n in range(60)],
        user_factors=random.normal(size=(40, 8)), item_factors=random.normal(size=(60, 8)),
        source_uri="file:///none",
    )  # fmt: skip
    s3.client().upload_file(str(archive), BUCKET, "films/bundle.tar.gz")
    register = RegisterSolutionVersionOperator(
        task_id="register", solution_name="films", recipe="user-personalization",
        bundle_uri=f"s3://{BUCKET}/films/bundle.tar.gz",
    )  # fmt: skip
    made = register.execute({})
    assert register.execute({}) == made
    assert made["solution_version_arn"].startswith(f"{SOLUTION}/films/")
    return made["solution_version_arn"]


class Task:
    """What Airflow hands a task: its state store, and what it pushes to XCom."""

    def __init__(self, name: str) -> None:
        self.kept: dict[str, Any] = {}
        self.pushed: dict[str, Any] = {}
        self.ti = SimpleNamespace(
            dag_id="recommend_batch", task_id=name, run_id=uuid4().hex, map_index=-1, try_number=1,
            max_tries=0, task=SimpleNamespace(retries=0), xcom_push=self._push,
            get_task_states=lambda **_filters: {},
        )  # fmt: skip

    def _push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def _keep(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.kept[key] = value

    @property
    def context(self) -> Any:
        store = SimpleNamespace(get=self.kept.get, set=self._keep)
        return {"ti": self.ti, "task_state_store": store}


def operator(s3: S3, version: str, **changes: Any) -> CreateBatchInferenceJobOperator:
    name = uuid4().hex[:10]
    lines = "\n".join(map(json.dumps, [*USERS, {"userId": "nobody"}]))
    s3.client().put_object(Bucket=BUCKET, Key=f"in/{name}.json", Body=lines.encode())
    given = {
        "task_id": "recommend",
        "solution_version_arn": version,
        "role_arn": ROLE,
        "input_uri": f"s3://{BUCKET}/in/{name}.json",
        "output_uri": f"s3://{BUCKET}/out/{name}/",
        "num_results": "7",
        "tags": {"team": "films"},
        "poll_interval": 0.5,
    }
    return CreateBatchInferenceJobOperator(**{**given, **changes})


def lines_of(s3: S3, uri: str) -> list[dict[str, Any]]:
    key = uri.removeprefix(f"s3://{BUCKET}/")
    body = s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return [json.loads(line) for line in body.splitlines()]


async def first_event(trigger: JobTrigger) -> Any:
    async with asyncio.timeout(60):
        (event,) = [event async for event in trigger.run()]
    return event.payload


async def all_events(*triggers: JobTrigger) -> list[Any]:
    """Run triggers to their events, as a triggerer does, and wait until its client is closed."""
    events = await asyncio.gather(*map(first_event, triggers))
    while registry().open_clients:
        await asyncio.sleep(0.01)
    return events


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_job_is_made_waited_for_and_its_results_named(
    s3: S3, cloud: LocalCloud, worker: None, version: str, deferrable: bool
) -> None:
    task, recommend = Task("recommend"), operator(s3, version, deferrable=deferrable)
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            recommend.execute(task.context)
        path, kept = deferred.value.trigger.serialize()
        assert path == "model_delivery.jobs.trigger.JobTrigger"
        [event] = asyncio.run(all_events(JobTrigger(**kept)))
        recommend = operator(s3, version)
        result = recommend.execute_complete(task.context, event)
    else:
        result = recommend.execute(task.context)
    assert result["status"] == "ACTIVE"
    assert task.pushed["job"]["job_arn"] == result["job_arn"]
    page = f"{cloud.url}/jobs/batch-inference/000000000000/{REGION}/{result['job_name']}"
    assert JobLink().get_link(recommend, ti_key=task.ti) == page
    # A task that defers leaves that to Airflow, which keeps what the link says when it does.
    assert task.pushed.get("job_link") == (None if deferrable else page)
    found = lines_of(s3, result["output_uri"])
    assert [len(line["output"]["recommendedItems"]) for line in found[:-1]] == [7] * 40
    assert "User error: userId 'nobody' is unknown to the recommender" in found[-1]["error"]
    hook = PersonalizeHook("aws_default")
    assert hook.tags(result["job_arn"]) == {"team": "films"}
    hook.tag(result["job_arn"], {"more": "x"})
    hook.untag(result["job_arn"], ["team"])
    assert hook.tags(result["job_arn"]) == {"more": "x"}
    assert hook.describe_job(result["job_arn"])["numResults"] == 41
    waiting = BatchInferenceJobSensor(task_id="wait", job_arn=result["job_arn"], deferrable=True)
    assert waiting.execute({}) == result  # type: ignore[arg-type]


def test_several_deferred_waits_share_a_list(s3: S3, cloud: LocalCloud, version: str) -> None:
    tasks = [(Task(f"t{n}"), operator(s3, version, deferrable=True)) for n in range(6)]
    triggers = []
    for task, recommend in tasks:
        with pytest.raises(TaskDeferred) as deferred:
            recommend.execute(task.context)
        triggers.append(JobTrigger(**deferred.value.trigger.serialize()[1]))

    with cloud.worker():
        events = asyncio.run(all_events(*triggers))
    statuses = {event["status"] for event in events}
    assert statuses == {"ACTIVE"}


def test_jobs_are_listed_to_xcom_and_to_storage(
    s3: S3, cloud: LocalCloud, worker: None, version: str
) -> None:
    made = operator(s3, version).execute(Task("once").context)
    listing = f"s3://{BUCKET}/listings/{uuid4().hex}.jsonl"
    every = ListBatchInferenceJobsOperator(
        task_id="list", solution_version_arn=version, status="ACTIVE", listing_uri=listing
    ).execute({})
    assert every["statuses"] == {"ACTIVE": every["jobs"]}
    assert every["job_arns"][0] == made["job_arn"]  # the newest first
    assert len(lines_of(s3, listing)) == every["jobs"] >= 1
    none = ListBatchInferenceJobsOperator(task_id="list", status="CREATE FAILED").execute({})
    assert none["jobs"] == len(none["job_arns"])


def test_a_job_that_failed_says_why(s3: S3, cloud: LocalCloud, worker: None, version: str) -> None:
    failing = operator(s3, version, input_uri=f"s3://{BUCKET}/in/nowhere.json")
    with pytest.raises(JobRefusedError, match=r"CREATE FAILED: ClientError: .*no such object"):
        failing.execute(Task("fails").context)


def test_a_kill_says_that_the_service_has_no_stop(s3: S3, cloud: LocalCloud, version: str) -> None:
    task, recommend = Task("killed"), operator(s3, version, deferrable=True)
    with pytest.raises(TaskDeferred):
        recommend.execute(task.context)
    told: list[str] = []
    recommend._attempt._log = SimpleNamespace(  # type: ignore[union-attr, assignment]
        warning=lambda text, *given: told.append(text % given), info=lambda *_given: None
    )
    recommend.on_kill()
    assert len(told) == 1
    assert "goes on although" in told[0]
    assert "the service has no stop" in told[0]
    arn = task.pushed["job"]["job_arn"]
    with cloud.worker():  # and it does go on
        deadline = time.monotonic() + 60
        while PersonalizeHook("aws_default").describe_job(arn)["status"] != "ACTIVE":
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"solution_version_arn": "films"}, "is not the ARN of a solution version"),
        ({"input_uri": "file:///x.json"}, "input_uri 'file:///x.json' must begin with s3://"),
        ({"output_uri": "s3://b/o"}, "must end with /"),
        ({"num_results": 501}, "num_results is 501: give 1 to 500"),
        ({"num_results": "many"}, "num_results is 'many': give a number"),
        ({"mode": "MAGIC"}, "mode 'MAGIC' is neither"),
        ({"mode": "THEME_GENERATION"}, "give theme_item_name"),
        ({"theme_item_name": "TITLE"}, "give theme_item_name with mode"),
        ({"ranking_influence": {"PRICE": 0.5}}, "ranking_influence PRICE=0.5"),
        ({"ranking_influence": {"FRESHNESS": 1.5}}, "ranking_influence FRESHNESS=1.5"),
        ({"tags": {str(n): "" for n in range(51)}}, "51 tags"),
    ],
)
def test_bad_values_are_refused_before_any_call(
    s3: S3, version: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        operator(s3, version, **changes).build_request()


def test_every_field_reaches_the_request(s3: S3, version: str) -> None:
    key = "arn:aws:kms:us-east-1:000000000000:key/1"
    made = operator(
        s3, version, filter_arn="arn:filter", input_kms_key_arn=key, output_kms_key_arn=key,
        item_exploration_config={"explorationWeight": "0.3"},
        ranking_influence={"POPULARITY": 0.4}, mode="THEME_GENERATION", theme_item_name="TITLE",
    )  # fmt: skip
    request = made.build_request()
    assert request == {
        "solutionVersionArn": version,
        "filterArn": "arn:filter",
        "numResults": 7,
        "jobInput": {"s3DataSource": {"path": made.input_uri, "kmsKeyArn": key}},
        "jobOutput": {"s3DataDestination": {"path": made.output_uri, "kmsKeyArn": key}},
        "roleArn": ROLE,
        "batchInferenceJobConfig": {
            "itemExplorationConfig": {"explorationWeight": "0.3"},
            "rankingInfluence": {"POPULARITY": 0.4},
        },
        "tags": [{"tagKey": "team", "tagValue": "films"}],
        "batchInferenceJobMode": "THEME_GENERATION",
        "themeGenerationConfig": {"fieldsForThemeGeneration": {"itemName": "TITLE"}},
    }
    # The service's own model takes all of it.
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    shape = get_session().get_service_model("personalize").operation_model(
        "CreateBatchInferenceJob"
    ).input_shape  # fmt: skip
    report = ParamValidator().validate({"jobName": "n", **request}, shape)
    assert not report.has_errors(), report.generate_report()


def test_aws_itself_takes_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "aws", "login": "key", "password": "none",
                  "extra": {"region_name": REGION}}  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    register = RegisterSolutionVersionOperator(
        task_id="t", solution_name="films", recipe="related-items", bundle_uri="s3://b/x.tar.gz"
    )
    with pytest.raises(InvalidRequestError, match="trains solution versions itself"):
        register.execute({})
    recommend = CreateBatchInferenceJobOperator(
        task_id="t", solution_version_arn="a:solution/x", role_arn=ROLE, input_uri="s3://b/i.json",
        output_uri="s3://b/o/",
    )  # fmt: skip
    arn = "arn:aws:personalize:eu-west-1:000000000000:batch-inference-job/job-1"
    assert recommend.page_url({"arn": arn, "name": "job-1"}) == (
        "https://eu-west-1.console.aws.amazon.com/personalize/home?region=eu-west-1"
        "#batch-inference-jobs"
    )
