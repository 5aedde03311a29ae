"""Personalize through the AWS command line: made, described, listed, tagged, filtered, refused."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from model_delivery_engine.batch.recipes import Recipe

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET
from tests.contract.test_awscli import Done, answer, refusal
from tests.contract.test_personalize import REGION, ROLE, register, results


@pytest.fixture(scope="module")
def version(cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    return register(cloud, folder, Recipe.USER_PERSONALIZATION, group="cli")


@pytest.fixture
def create(
    cloud: Any, aws: Callable[..., Done], version: str
) -> Callable[..., tuple[dict[str, Any], Done]]:  # fmt: skip
    def make(*more: str) -> tuple[dict[str, Any], Done]:
        name = f"cli-{uuid4().hex[:10]}"
        body = b'{"userId":"u1"}\n{"userId":"nobody"}\n{"userId":"u2"}\n'
        cloud.store.client().put_object(Bucket=BUCKET, Key=f"in/{name}.json", Body=body)
        made = aws(
            "personalize", "create-batch-inference-job", "--job-name", name,
            "--solution-version-arn", version, "--role-arn", ROLE,
            "--job-input", f"s3DataSource={{path=s3://{BUCKET}/in/{name}.json}}",
            "--job-output", f"s3DataDestination={{path=s3://{BUCKET}/out/{name}/}}", *more,
        )  # fmt: skip
        return {"jobName": name}, made

    return make


def test_a_job_is_made_listed_and_described_until_it_is_active(
    cloud: Any, aws: Callable[..., Done], create: Any, version: str
) -> None:  # fmt: skip
    request, made = create("--num-results", "4", "--tags", "tagKey=team,tagValue=films")
    arn = answer(made)["batchInferenceJobArn"]
    assert arn == f"arn:aws:personalize:{REGION}:{ACCOUNT}:batch-inference-job/{request['jobName']}"
    listed = answer(
        aws("personalize", "list-batch-inference-jobs", "--solution-version-arn", version)
    )["batchInferenceJobs"]
    assert arn in [each["batchInferenceJobArn"] for each in listed]
    deadline = time.monotonic() + 90
    with cloud.worker():
        while True:
            told = answer(
                aws("personalize", "describe-batch-inference-job", "--batch-inference-job-arn", arn)
            )["batchInferenceJob"]
            if told["status"] == "ACTIVE":
                break
            assert told["status"] in {"PENDING", "IN PROGRESS"}, told
            assert time.monotonic() < deadline
    assert told["numResults"] == 3
    assert [len((line["output"] or {}).get("recommendedItems", [])) for line in
            results(cloud, request)] == [4, 0, 4]  # fmt: skip
    tags = answer(aws("personalize", "list-tags-for-resource", "--resource-arn", arn))["tags"]
    assert tags == [{"tagKey": "team", "tagValue": "films"}]
    aws("personalize", "untag-resource", "--resource-arn", arn, "--tag-keys", "team")
    assert answer(aws("personalize", "list-tags-for-resource", "--resource-arn", arn))["tags"] == []


def test_the_command_line_follows_the_pages_of_jobs(
    cloud: Any, aws: Callable[..., Done], create: Any, version: str
) -> None:  # fmt: skip
    made = [answer(create()[1])["batchInferenceJobArn"] for _ in range(3)]
    listed = answer(aws(
        "personalize", "list-batch-inference-jobs", "--solution-version-arn", version,
        "--page-size", "1", "--max-items", "3",
    ))  # fmt: skip
    found = [each["batchInferenceJobArn"] for each in listed["batchInferenceJobs"]]
    assert found == made[::-1]


def test_a_filter_is_made_described_listed_and_deleted(
    cloud: Any, aws: Callable[..., Done], version: str
) -> None:  # fmt: skip
    group = f"arn:aws:personalize:{REGION}:{ACCOUNT}:dataset-group/cli"
    expression = "INCLUDE ItemID WHERE Items.YEAR >= 1995"
    made = answer(aws(
        "personalize", "create-filter", "--name", f"new-{uuid4().hex[:8]}",
        "--dataset-group-arn", group, "--filter-expression", expression,
    ))["filterArn"]  # fmt: skip
    told = answer(aws("personalize", "describe-filter", "--filter-arn", made))["filter"]
    assert told["filterExpression"] == expression
    listed = answer(aws("personalize", "list-filters", "--dataset-group-arn", group))["Filters"]
    assert made in [each["filterArn"] for each in listed]
    assert answer(aws("personalize", "delete-filter", "--filter-arn", made)) is None
    told = refusal(aws("personalize", "describe-filter", "--filter-arn", made))
    assert "(ResourceNotFoundException) when calling the DescribeFilter operation" in told


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--batch-inference-job-mode", "THEME_GENERATION"), "does not support"),
        (("--num-results", "501"), "numResults is 501: give 1 to 500"),
        (
            ("--batch-inference-job-config", json.dumps({"rankingInfluence": {"FRESHNESS": 0.5}})),
            "does not support batchInferenceJobConfig.rankingInfluence",
        ),
    ],
    ids=["themes", "results", "influence"],
)
def test_what_is_not_supported_is_refused_by_name(
    create: Any, more: tuple[str, ...], says: str
) -> None:
    _request, made = create(*more)
    told = refusal(made)
    assert "(InvalidInputException) when calling the CreateBatchInferenceJob operation" in told
    assert says in told


def test_an_unknown_job_and_operation_are_said(aws: Callable[..., Done]) -> None:
    arn = f"arn:aws:personalize:{REGION}:{ACCOUNT}:batch-inference-job/nobodys"
    told = refusal(
        aws("personalize", "describe-batch-inference-job", "--batch-inference-job-arn", arn)
    )
    assert "(ResourceNotFoundException)" in told
    assert arn in told
    told = refusal(aws("personalize", "list-campaigns"))
    assert "personalize ListCampaigns is not built in localcloud" in told


def test_the_bundle_of_a_version_may_not_change(
    cloud: Any, aws: Callable[..., Done], create: Any, tmp_path: Path
) -> None:  # fmt: skip
    changed = register(cloud, tmp_path, Recipe.USER_PERSONALIZATION)
    key = f"recommenders/{changed.split('/')[1]}/bundle.tar.gz"
    cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=b"another")
    _request, made = create("--solution-version-arn", changed)
    arn = answer(made)["batchInferenceJobArn"]
    deadline = time.monotonic() + 60
    with cloud.worker():
        while True:
            told = answer(
                aws("personalize", "describe-batch-inference-job", "--batch-inference-job-arn", arn)
            )["batchInferenceJob"]
            if told["status"] == "CREATE FAILED":
                break
            assert time.monotonic() < deadline
    assert "has changed since it was registered" in told["failureReason"]
