"""Personalize's batch inference over real processes: boto3, aiobotocore, the worker, results."""

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from aiobotocore.session import get_session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.recommender_bundle import write_recommender_bundle

from stack.credentials import ACCOUNT
from stack.object_store import BUCKET

REGION = "eu-west-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/personalize"
TERMINAL = {"ACTIVE", "CREATE FAILED"}
RANDOM = np.random.default_rng(3)
USERS = [f"u{n}" for n in range(1000)]
ITEMS = [f"i{n}" for n in range(200)]
USER_FACTORS = RANDOM.normal(size=(1000, 16)).astype(np.float32)
ITEM_FACTORS = RANDOM.normal(size=(200, 16)).astype(np.float32)
GENRES = ["Comedy", "Drama", "Action|Comedy", "Horror"]


def register(
    cloud: Any, folder: Path, recipe: Recipe, *, items: bool = True, group: str | None = None
) -> str:
    """Put a bundle and its items into the store, register it, return the version's ARN."""
    name = f"films-{uuid4().hex[:8]}"
    archive = folder / f"{name}.tar.gz"
    write_recommender_bundle(
        archive, name=name, recipe=recipe, users=USERS, items=ITEMS, user_factors=USER_FACTORS,
        item_factors=ITEM_FACTORS, source_uri="file:///none",
    )  # fmt: skip
    s3, home = cloud.store.client(), f"s3://{BUCKET}/recommenders/{name}"
    s3.upload_file(str(archive), BUCKET, f"recommenders/{name}/bundle.tar.gz")
    rows = "".join(f"{each},{GENRES[n % 4]},{1990 + n % 10}\n" for n, each in enumerate(ITEMS))
    text = f"ITEM_ID,GENRES,YEAR\n{rows}"
    s3.put_object(Bucket=BUCKET, Key=f"recommenders/{name}/items.csv", Body=text.encode())
    more = [*(["--items", f"{home}/items.csv"] if items else []),
            *(["--dataset-group", group] if group else [])]  # fmt: skip
    told = cloud.run(
        "solution-version", "register", "--solution", name, "--recipe", str(recipe),
        "--bundle", f"{home}/bundle.tar.gz", "--region", REGION, *more,
    )  # fmt: skip
    arn = str(told).strip().splitlines()[-1]
    assert arn.startswith(f"arn:aws:personalize:{REGION}:{ACCOUNT}:solution/{name}/")
    return arn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recommenders")


@pytest.fixture(scope="module")
def version(cloud: Any, folder: Path) -> str:
    return register(cloud, folder, Recipe.USER_PERSONALIZATION, group="films")


@pytest.fixture
def client(cloud: Any) -> Any:
    return cloud.client("personalize")


def job_request(
    cloud: Any, version: str, lines: list[Any] | bytes, **changes: Any
) -> dict[str, Any]:
    """Put lines into the store and return a request for them."""
    name = f"batch-{uuid4().hex[:12]}"
    data = lines if isinstance(lines, bytes) else "\n".join(map(json.dumps, lines)).encode()
    cloud.store.client().put_object(Bucket=BUCKET, Key=f"in/{name}.json", Body=data)
    request = {
        "jobName": name,
        "solutionVersionArn": version,
        "jobInput": {"s3DataSource": {"path": f"s3://{BUCKET}/in/{name}.json"}},
        "jobOutput": {"s3DataDestination": {"path": f"s3://{BUCKET}/out/{name}/"}},
        "roleArn": ROLE,
    }
    return {**request, **changes}


@pytest.fixture
def request_of(cloud: Any) -> Callable[..., dict[str, Any]]:
    return partial(job_request, cloud)


def wait(client: Any, arn: str, seconds: float = 90) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
        if job["status"] in TERMINAL:
            return dict(job)
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


def objects(cloud: Any, name: str) -> dict[str, bytes]:
    s3 = cloud.store.client()
    pages = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"out/{name}/")
    return {
        each["Key"].removeprefix(f"out/{name}/"): s3.get_object(Bucket=BUCKET, Key=each["Key"])[
            "Body"
        ].read()
        for each in pages.get("Contents", [])
    }


def results(cloud: Any, request: dict[str, Any]) -> list[dict[str, Any]]:
    name = request["jobName"]
    return [json.loads(line) for line in objects(cloud, name)[f"{name}.json.out"].splitlines()]


def test_a_thousand_users_get_what_numpy_says(
    cloud: Any, client: Any, version: str, request_of: Any, worker: None
) -> None:
    request = request_of(version, [{"userId": user} for user in USERS],
                         tags=[{"tagKey": "team", "tagValue": "films"}])  # fmt: skip
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    assert arn == f"arn:aws:personalize:{REGION}:{ACCOUNT}:batch-inference-job/{request['jobName']}"
    job = wait(client, arn)
    assert job["status"] == "ACTIVE", job
    kept = ("jobName", "solutionVersionArn", "jobInput", "jobOutput", "roleArn")
    assert {name: job[name] for name in kept} == {name: request[name] for name in kept}
    assert (job["numResults"], job["batchInferenceJobMode"]) == (1000, "BATCH_INFERENCE")
    assert job["creationDateTime"] <= job["lastUpdatedDateTime"]
    tags = client.list_tags_for_resource(resourceArn=arn)["tags"]
    assert tags == [{"tagKey": "team", "tagValue": "films"}]
    scores = USER_FACTORS @ ITEM_FACTORS.T
    for n, line in enumerate(results(cloud, request)):
        order = np.argsort(-scores[n], kind="stable")[:25]
        assert line["input"] == {"userId": USERS[n]}
        assert line["error"] is None
        assert line["output"]["recommendedItems"] == [ITEMS[i] for i in order]
        np.testing.assert_allclose(line["output"]["scores"], scores[n][order], rtol=1e-4, atol=1e-5)
    left = objects(cloud, request["jobName"])
    name = f"{request['jobName']}.json.out"
    assert set(left) == {name, f"{name}.errors", f"{name}.manifest.json"}  # and no parts
    manifest = json.loads(left[f"{name}.manifest.json"])
    assert (manifest["records"], manifest["ok"], manifest["errors"]) == (1000, 1000, 0)


def test_related_items_and_rankings(
    cloud: Any, client: Any, folder: Path, request_of: Any, worker: None
) -> None:
    related = register(cloud, folder, Recipe.RELATED_ITEMS)
    asked = request_of(related, [{"itemId": item} for item in ITEMS[:50]], numResults=5)
    first = client.create_batch_inference_job(**asked)["batchInferenceJobArn"]
    ranking = register(cloud, folder, Recipe.PERSONALIZED_RANKING)
    lists = [{"userId": "u3", "itemList": ITEMS[n : n + 40]} for n in range(10)]
    ranked = request_of(ranking, lists)
    second = client.create_batch_inference_job(**ranked)["batchInferenceJobArn"]
    assert [wait(client, arn)["status"] for arn in (first, second)] == ["ACTIVE", "ACTIVE"]
    unit = ITEM_FACTORS / np.linalg.norm(ITEM_FACTORS, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -2)
    for n, line in enumerate(results(cloud, asked)):
        assert line["output"]["recommendedItems"] == [ITEMS[i] for i in np.argsort(-alike[n])[:5]]
    scores = USER_FACTORS[3] @ ITEM_FACTORS.T
    for n, line in enumerate(results(cloud, ranked)):
        order = np.argsort(-scores[n : n + 40]) + n
        assert line["output"]["recommendedItems"] == [ITEMS[i] for i in order]


def test_unknown_users_and_malformed_lines_become_error_lines(
    cloud: Any, client: Any, version: str, request_of: Any, worker: None
) -> None:
    bad = [b'{"userId":"nobody"}', b"nonsense", b"", b'{"userId":7}', b"\xff\xfe"]
    data = b'{"userId":"u1"}\r\n' + b"\n".join(bad) + b'\n{"userId":"u2"}'
    request = request_of(version, data)
    job = wait(client, client.create_batch_inference_job(**request)["batchInferenceJobArn"])
    assert (job["status"], job["numResults"]) == ("ACTIVE", 6)
    lines = results(cloud, request)
    assert [line["error"] is None for line in lines] == [True, False, False, False, False, True]
    uri = request["jobInput"]["s3DataSource"]["path"]
    assert lines[1] == {
        "input": {"userId": "nobody"},
        "output": {"recommendedItems": []},  # as the service has it
        "error": f"User error: userId 'nobody' is unknown to the recommender ({uri}, byte 17)",
    }
    # The errors are themselves an input: put right, they are answered.
    name = request["jobName"]
    errors = objects(cloud, name)[f"{name}.json.out.errors"]
    assert json.loads(errors.splitlines()[0]) == {
        "input": {"userId": "nobody"},
        "output": None,
        "error": {
            "reason": "userId 'nobody' is unknown to the recommender", "uri": uri, "offset": 17,
        },
    }  # fmt: skip
    again = request_of(version, errors.replace(b'"nobody"', b'"u9"'))
    job = wait(client, client.create_batch_inference_job(**again)["batchInferenceJobArn"])
    answered = [line for line in results(cloud, again) if line["error"] is None]
    assert [line["input"] for line in answered] == [{"userId": "u9"}]


def test_filters_leave_items_out(
    cloud: Any, client: Any, version: str, request_of: Any, worker: None
) -> None:
    group = f"arn:aws:personalize:{REGION}:{ACCOUNT}:dataset-group/films"
    name = f"no-comedy-{uuid4().hex[:8]}"
    expression = 'EXCLUDE ItemID WHERE Items.GENRES IN ("Comedy") OR Items.YEAR < 1995'
    created = client.create_filter(
        name=name, datasetGroupArn=group, filterExpression=expression,
        tags=[{"tagKey": "a", "tagValue": "b"}],
    )["filterArn"]  # fmt: skip
    told = client.describe_filter(filterArn=created)["filter"]
    assert (told["filterExpression"], told["status"]) == (expression, "ACTIVE")
    listed = client.list_filters(datasetGroupArn=group)["Filters"]
    assert created in [each["filterArn"] for each in listed]
    request = request_of(version, [{"userId": "u4"}], filterArn=created, numResults=100)
    job = wait(client, client.create_batch_inference_job(**request)["batchInferenceJobArn"])
    assert (job["status"], job["filterArn"]) == ("ACTIVE", created)
    allowed = [n for n in range(200) if n % 4 in {1, 3} and n % 10 >= 5]
    scores = USER_FACTORS[4] @ ITEM_FACTORS.T
    [line] = results(cloud, request)
    expected = sorted(allowed, key=lambda n: -scores[n])
    assert line["output"]["recommendedItems"] == [ITEMS[n] for n in expected]
    client.delete_filter(filterArn=created)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_filter(filterArn=created)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        (
            'EXCLUDE ItemID WHERE Items.PRICE IN ("1")',
            "have no field PRICE; they have GENRES, YEAR",
        ),
        ('EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click")', "is not supported"),
        ("nonsense", "expected INCLUDE or EXCLUDE"),
    ],
)
def test_a_filter_that_cannot_work_is_refused(
    client: Any, version: str, expression: str, says: str
) -> None:
    with pytest.raises(client.exceptions.InvalidInputException, match=says):
        client.create_filter(
            name="never", filterExpression=expression,
            datasetGroupArn=f"arn:aws:personalize:{REGION}:{ACCOUNT}:dataset-group/films",
        )  # fmt: skip


KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"batchInferenceJobMode": "THEME_GENERATION"}, "InvalidInput",
         "does not support batchInferenceJobMode THEME_GENERATION"),
        ({"themeGenerationConfig": {"fieldsForThemeGeneration": {"itemName": "TITLE"}}},
         "InvalidInput", "does not support themeGenerationConfig"),
        ({"batchInferenceJobConfig": {"rankingInfluence": {"POPULARITY": 0.5}}}, "InvalidInput",
         "does not support batchInferenceJobConfig.rankingInfluence"),
        ({"batchInferenceJobConfig": {"itemExplorationConfig": {"explorationWeight": "0.3"}}},
         "InvalidInput", "itemExplorationConfig"),
        ({"jobInput": {"s3DataSource": {"path": "s3://b/x.json", "kmsKeyArn": KEY}}},
         "InvalidInput", "does not support jobInput.s3DataSource.kmsKeyArn"),
        ({"jobOutput": {"s3DataDestination": {"path": "s3://b/o/", "kmsKeyArn": KEY}}},
         "InvalidInput", "does not support jobOutput.s3DataDestination.kmsKeyArn"),
        ({"jobInput": {"s3DataSource": {"path": "s3://b/folder/"}}}, "InvalidInput",
         "takes one object as jobInput, not a folder"),
        ({"jobOutput": {"s3DataDestination": {"path": "s3://b/o"}}}, "InvalidInput",
         "must be a folder and end with /"),
        ({"numResults": 501}, "InvalidInput", "numResults is 501: give 1 to 500"),
        ({"numResults": 0}, "InvalidInput", "numResults is 0"),
        ({"jobName": "no spaces"}, "Validation", "regular expression pattern"),
        ({"roleArn": "me"}, "Validation", "'roleArn' failed to satisfy constraint"),
        ({"filterArn": f"arn:aws:personalize:{REGION}:{ACCOUNT}:filter/none"},
         "ResourceNotFound", "filter/none"),
        ({"solutionVersionArn": f"arn:aws:personalize:{REGION}:{ACCOUNT}:solution/none/12345678"},
         "ResourceNotFound", "solution/none"),
        ({"solutionVersionArn": f"arn:aws:personalize:{REGION}:{ACCOUNT}:solution/none"},
         "InvalidInput", "is not the ARN of a solution"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    client: Any, version: str, request_of: Any, changes: dict[str, Any], code: str, says: str
) -> None:
    request = request_of(version, [{"userId": "u1"}], **changes)
    with pytest.raises(ClientError, match=says) as refused:
        client.create_batch_inference_job(**request)
    assert refused.value.response["Error"]["Code"] == f"{code}Exception"


def test_a_name_is_taken_for_ever(client: Any, version: str, request_of: Any) -> None:
    request = request_of(version, [{"userId": "u1"}])
    client.create_batch_inference_job(**request)
    with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
        client.create_batch_inference_job(**request)


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("in/none.json", "out", "no such object"),
        ("in/empty.json", None, None),
        (None, "s3://no-such-bucket/o/", "cannot open the bucket of"),
    ],
)
def test_where_storage_is_wrong_the_job_fails_with_a_reason(
    cloud: Any, client: Any, version: str, request_of: Any, worker: None,
    source: str | None, target: str | None, says: str | None,
) -> None:  # fmt: skip
    cloud.store.client().put_object(Bucket=BUCKET, Key="in/empty.json", Body=b"")
    request = request_of(version, [{"userId": "u1"}])
    if source:
        request["jobInput"] = {"s3DataSource": {"path": f"s3://{BUCKET}/{source}"}}
    if target and target.startswith("s3"):
        request["jobOutput"] = {"s3DataDestination": {"path": target}}
    job = wait(client, client.create_batch_inference_job(**request)["batchInferenceJobArn"])
    if says is None:
        assert (job["status"], job["numResults"]) == ("ACTIVE", 0)
    else:
        assert job["status"] == "CREATE FAILED"
        assert says in job["failureReason"]


def test_jobs_are_listed_by_solution_version_page_by_page(
    cloud: Any, client: Any, folder: Path, request_of: Any
) -> None:
    mine = register(cloud, folder, Recipe.USER_PERSONALIZATION)
    made = [
        client.create_batch_inference_job(**request_of(mine, [{"userId": "u1"}]))
        for _ in range(5)
    ]  # fmt: skip
    arns = [each["batchInferenceJobArn"] for each in made]
    pages = list(
        client.get_paginator("list_batch_inference_jobs").paginate(
            solutionVersionArn=mine, maxResults=2
        )
    )
    assert [len(page["batchInferenceJobs"]) for page in pages] == [2, 2, 1]
    found = [each for page in pages for each in page["batchInferenceJobs"]]
    assert [each["batchInferenceJobArn"] for each in found] == arns[::-1]
    assert {each["solutionVersionArn"] for each in found} == {mine}
    assert {each["status"] for each in found} <= {"PENDING", "IN PROGRESS", "ACTIVE"}
    with pytest.raises(client.exceptions.InvalidNextTokenException):
        client.list_batch_inference_jobs(solutionVersionArn=mine, nextToken="nonsense")
    with pytest.raises(client.exceptions.InvalidNextTokenException):
        client.list_batch_inference_jobs(nextToken=pages[0]["nextToken"])
    version = client.describe_solution_version(solutionVersionArn=mine)["solutionVersion"]
    assert version["recipeArn"] == "arn:aws:personalize:::recipe/aws-user-personalization"
    listed = client.list_solution_versions(solutionArn=version["solutionArn"])["solutionVersions"]
    assert [each["solutionVersionArn"] for each in listed] == [mine]


def test_tags_come_and_go(client: Any, version: str, request_of: Any) -> None:
    request = request_of(version, [{"userId": "u1"}])
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == []
    client.tag_resource(resourceArn=arn, tags=[{"tagKey": "a", "tagValue": "1"},
                                               {"tagKey": "b", "tagValue": "2"}])  # fmt: skip
    client.untag_resource(resourceArn=arn, tagKeys=["a"])
    tags = client.list_tags_for_resource(resourceArn=arn)["tags"]
    assert tags == [{"tagKey": "b", "tagValue": "2"}]
    many = [{"tagKey": f"k{n}", "tagValue": "v"} for n in range(51)]
    with pytest.raises(client.exceptions.TooManyTagsException):
        client.tag_resource(resourceArn=arn, tags=many)
    with pytest.raises(client.exceptions.TooManyTagsException):
        client.create_batch_inference_job(**request_of(version, [], tags=many))
    for key in ("b", "AWS:mine"):
        twice = [{"tagKey": key, "tagValue": value} for value in "12"]
        with pytest.raises(client.exceptions.InvalidInputException, match=rf"tags: '{key}' "):
            client.tag_resource(resourceArn=arn, tags=twice)


def test_a_filter_has_as_many_tags_as_a_job(client: Any, version: str) -> None:
    request = {
        "name": f"filter-{uuid4().hex[:8]}",
        "datasetGroupArn": f"arn:aws:personalize:{REGION}:{ACCOUNT}:dataset-group/films",
        "filterExpression": "EXCLUDE ItemID WHERE Items.YEAR = 1990",
    }
    tags = [{"tagKey": f"k{n}", "tagValue": "v"} for n in range(51)]
    with pytest.raises(client.exceptions.TooManyTagsException):
        client.create_filter(**request, tags=tags)
    made = client.create_filter(**request, tags=tags[:50])["filterArn"]
    client.delete_filter(filterArn=made)


@pytest.mark.parametrize("path", ["s3://bucket", "s3:///key"])
def test_a_path_that_names_no_object_is_refused(
    client: Any, version: str, request_of: Any, path: str
) -> None:
    request = request_of(version, [{"userId": "u1"}])
    request["jobInput"]["s3DataSource"]["path"] = path
    with pytest.raises(client.exceptions.InvalidInputException, match="must be s3://bucket/key"):
        client.create_batch_inference_job(**request)


def test_a_solutions_versions_come_in_pages(cloud: Any, client: Any, folder: Path) -> None:
    first = register(cloud, folder, Recipe.USER_PERSONALIZATION, items=False)
    solution = first.rpartition("/")[0]
    name = solution.rpartition("/")[2]
    archive = folder / "another.tar.gz"
    write_recommender_bundle(
        archive, name=name, recipe=Recipe.USER_PERSONALIZATION, users=USERS[:9], items=ITEMS,
        user_factors=USER_FACTORS[:9], item_factors=ITEM_FACTORS, source_uri="file:///none",
    )  # fmt: skip
    cloud.store.client().upload_file(str(archive), BUCKET, f"recommenders/{name}/2.tar.gz")
    cloud.run(
        "solution-version", "register", "--solution", name, "--recipe", "user-personalization",
        "--bundle", f"s3://{BUCKET}/recommenders/{name}/2.tar.gz", "--region", REGION,
    )  # fmt: skip
    pages = list(
        client.get_paginator("list_solution_versions").paginate(
            solutionArn=solution, PaginationConfig={"PageSize": 1}
        )
    )
    found = [each["solutionVersionArn"] for page in pages for each in page["solutionVersions"]]
    assert [len(page["solutionVersions"]) for page in pages] == [1, 1]
    assert found[0] == first
    assert len(set(found)) == 2


def test_a_failed_job_leaves_no_parts(
    cloud: Any, client: Any, folder: Path, request_of: Any, worker: None
) -> None:
    """Its filter leaves no item, which its processes find once it is begun."""
    mine = register(cloud, folder, Recipe.USER_PERSONALIZATION)
    name = mine.rpartition("/")[0].rpartition("/")[2]
    group = f"arn:aws:personalize:{REGION}:{ACCOUNT}:dataset-group/{name}"
    made = client.create_filter(
        name=f"filter-{uuid4().hex[:8]}", datasetGroupArn=group,
        filterExpression="INCLUDE ItemID WHERE Items.YEAR = 1500",
    )["filterArn"]  # fmt: skip
    request = request_of(mine, [{"userId": "u1"}], filterArn=made)
    job = wait(client, client.create_batch_inference_job(**request)["batchInferenceJobArn"])
    assert job["status"] == "CREATE FAILED"
    assert "the filter leaves no item to recommend" in job["failureReason"]
    assert objects(cloud, request["jobName"]) == {}


def test_another_accounts_and_regions_jobs_are_unknown(
    cloud: Any, client: Any, version: str, request_of: Any
) -> None:
    request = request_of(version, [{"userId": "u1"}])
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    elsewhere = cloud.client("personalize", region_name="us-west-2")
    with pytest.raises(elsewhere.exceptions.ResourceNotFoundException):
        elsewhere.describe_batch_inference_job(batchInferenceJobArn=arn)
    assert elsewhere.list_batch_inference_jobs()["batchInferenceJobs"] == []


async def _aio(cloud: Any, arn: str) -> dict[str, Any]:
    async with get_session().create_client(
        "personalize", endpoint_url=cloud.url, region_name=REGION,
        aws_access_key_id=cloud.access_key_id, aws_secret_access_key=cloud.secret,
    ) as client:  # fmt: skip
        answer = await client.describe_batch_inference_job(batchInferenceJobArn=arn)
        return dict(answer["batchInferenceJob"])


def test_aiobotocore_reads_the_same(cloud: Any, client: Any, version: str, request_of: Any) -> None:
    request = request_of(version, [{"userId": "u1"}], numResults=7)
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    job = asyncio.run(_aio(cloud, arn))
    assert job["jobName"] == request["jobName"]
    assert job["jobInput"] == request["jobInput"]


def signed(cloud: Any, body: bytes, secret: str | None = None) -> httpx.Response:
    url = f"{cloud.url}/personalize/v1/solution-versions"
    request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    key = Credentials(cloud.access_key_id, secret or cloud.secret)
    SigV4Auth(key, "personalize", REGION).add_auth(request)
    return httpx.post(url, content=body, headers=dict(request.headers.items()), timeout=30)


def test_registration_over_http_is_the_same_version(cloud: Any, client: Any, folder: Path) -> None:
    arn = register(cloud, folder, Recipe.RELATED_ITEMS, items=False)
    name = arn.split("/")[1]
    uri = f"s3://{BUCKET}/recommenders/{name}/bundle.tar.gz"
    given = {"solutionName": name, "recipe": "related-items", "bundleUri": uri}
    again = signed(cloud, json.dumps(given).encode())
    assert (again.status_code, again.json()) == (201, {"solutionVersionArn": arn})
    other = signed(cloud, json.dumps({**given, "datasetGroupName": "other"}).encode()).json()
    assert other["solutionVersionArn"] != arn
    assert signed(cloud, json.dumps(given).encode(), secret="wrong" * 8).status_code == 403
    assert httpx.post(f"{cloud.url}/personalize/v1/solution-versions").status_code == 403


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": "user-personalization"}, "is a recommender of recipe related-items, not user"),
        ({"recipe": "magic"}, "recipe 'magic' is unknown"),
        ({"bundleUri": f"s3://{BUCKET}/none.tar.gz"}, "no such object"),
        ({"itemsUri": f"s3://{BUCKET}/in/empty.json"}, "is empty"),
        ({"solutionName": "no spaces"}, "solutionName 'no spaces' does not match"),
        ({"extra": "x"}, "unknown member extra"),
        ({"recipe": 3}, "must be a JSON object of strings"),
    ],
)
def test_what_cannot_be_registered_is_refused(
    cloud: Any, folder: Path, changes: dict[str, Any], says: str
) -> None:
    cloud.store.client().put_object(Bucket=BUCKET, Key="in/empty.json", Body=b"")
    arn = register(cloud, folder, Recipe.RELATED_ITEMS, items=False)
    uri = f"s3://{BUCKET}/recommenders/{arn.split('/')[1]}/bundle.tar.gz"
    given = {"solutionName": "films", "recipe": "related-items", "bundleUri": uri, **changes}
    refused = signed(cloud, json.dumps(given).encode())
    assert refused.status_code == 400
    assert says in refused.json()["message"]


def test_the_portal_shows_a_job(
    cloud: Any, client: Any, version: str, request_of: Any, worker: None
) -> None:
    from stack.localcloud import PORTAL_USER
    from tests.contract.test_portal import sign_in

    request = request_of(version, [{"userId": "u1"}, {"userId": "nobody"}])
    arn = client.create_batch_inference_job(**request)["batchInferenceJobArn"]
    wait(client, arn)
    with httpx.Client(base_url=cloud.url, timeout=20) as browser:
        path = f"/jobs/batch-inference/{ACCOUNT}/{REGION}/{request['jobName']}"
        assert browser.get(path).status_code == 303
        sign_in(browser, PORTAL_USER, cloud.password)
        assert request["jobName"] in browser.get("/jobs/batch-inference").text
        page = browser.get(path).text
        assert "ACTIVE" in page
        assert "<dt>Failed</dt><dd>1, in" in page
        assert "records/s" in page  # the log
        assert browser.get(path + "x").status_code == 404
