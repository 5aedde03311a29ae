"""Compilation jobs that no worker has taken yet: lists, pages, filters, stopping."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

JobRequest = Callable[..., dict[str, Any]]
NEVER = "s3://contract/models/never.tar.gz"


def test_list_filters_sorts_and_pages_stably(cloud: Any, job_request: JobRequest) -> None:
    client = cloud.client("sagemaker", region_name="ap-south-1")
    names = [f"page-{index}" for index in (3, 1, 4, 2, 5)]
    for name in names:
        request = job_request(NEVER, CompilationJobName=name)
        client.create_compilation_job(**request)
        time.sleep(0.01)
    everything = client.list_compilation_jobs()["CompilationJobSummaries"]
    assert [job["CompilationJobName"] for job in everything] == names
    first = client.list_compilation_jobs(SortBy="Name", MaxResults=2)
    assert [job["CompilationJobName"] for job in first["CompilationJobSummaries"]] == [
        "page-1", "page-2",
    ]  # fmt: skip
    late = job_request(NEVER, CompilationJobName="page-0")
    client.create_compilation_job(**late)
    rest = client.list_compilation_jobs(SortBy="Name", NextToken=first["NextToken"])
    assert [job["CompilationJobName"] for job in rest["CompilationJobSummaries"]] == [
        "page-3", "page-4", "page-5",
    ]  # fmt: skip
    assert "NextToken" not in rest
    with pytest.raises(ClientError, match="same filters"):
        client.list_compilation_jobs(SortBy="Status", NextToken=first["NextToken"])
    with pytest.raises(ClientError, match="Invalid nextToken"):
        client.list_compilation_jobs(NextToken="made-up")
    newest = client.list_compilation_jobs(SortOrder="Descending", MaxResults=1)
    assert newest["CompilationJobSummaries"][0]["CompilationJobName"] == "page-0"
    third = everything[2]["CreationTime"]
    later = client.list_compilation_jobs(CreationTimeAfter=third, NameContains="page-")
    assert [job["CompilationJobName"] for job in later["CompilationJobSummaries"]] == [
        "page-2", "page-5", "page-0",
    ]  # fmt: skip
    earlier = client.list_compilation_jobs(LastModifiedTimeBefore=third, StatusEquals="STARTING")
    assert [job["CompilationJobName"] for job in earlier["CompilationJobSummaries"]] == names[:2]
    assert client.list_compilation_jobs(StatusEquals="FAILED")["CompilationJobSummaries"] == []
    pages = client.get_paginator("list_compilation_jobs").paginate(PaginationConfig={"PageSize": 4})
    assert len([job for page in pages for job in page["CompilationJobSummaries"]]) == 6


@pytest.mark.parametrize("sort", ["CreationTime", "Name", "Status"])
@pytest.mark.parametrize(
    "key",
    [[], ["x"], [None, None], ["x", 1], [1.5, "a"], [True, "a"], [2**70, "a"], {"a": 1},
     ["\x00", "a"], [5, "\ud800"], ["a" * 2000, "a"], [[1], "a"]],
    ids=repr,
)  # fmt: skip
def test_a_page_token_of_somebodys_own_making_is_refused(
    cloud: Any, job_request: JobRequest, sort: str, key: Any
) -> None:
    client = cloud.client("sagemaker", region_name="sa-east-1")
    for name in ("token-a", "token-b"):
        if name not in str(client.list_compilation_jobs()):
            client.create_compilation_job(**job_request(NEVER, CompilationJobName=name))
    real = client.list_compilation_jobs(SortBy=sort, MaxResults=1)["NextToken"]
    digest, _after = json.loads(base64.urlsafe_b64decode(real))
    forged = base64.urlsafe_b64encode(json.dumps([digest, key]).encode()).decode()
    with pytest.raises(ClientError, match="Invalid nextToken") as refused:
        client.list_compilation_jobs(SortBy=sort, NextToken=forged)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_name_contains_has_no_case(cloud: Any, job_request: JobRequest) -> None:
    client = cloud.client("sagemaker", region_name="me-south-1")
    for name in ("Digits-1", "other"):
        client.create_compilation_job(**job_request(NEVER, CompilationJobName=name))
    found = client.list_compilation_jobs(NameContains="dIGITS")["CompilationJobSummaries"]
    assert [job["CompilationJobName"] for job in found] == ["Digits-1"]


def test_a_job_that_waits_is_stopped_at_once(cloud: Any, job_request: JobRequest) -> None:
    client = cloud.client("sagemaker")
    request = job_request(NEVER)
    name = request["CompilationJobName"]
    client.create_compilation_job(**request)
    assert client.describe_compilation_job(CompilationJobName=name)["CompilationJobStatus"] == (
        "STARTING"
    )
    client.stop_compilation_job(CompilationJobName=name)
    stopped = client.describe_compilation_job(CompilationJobName=name)
    assert stopped["CompilationJobStatus"] == "STOPPED"
    assert "CompilationStartTime" not in stopped
    with pytest.raises(ClientError, match="is in status STOPPED") as refused:
        client.stop_compilation_job(CompilationJobName=name)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
