"""Compilation jobs: deleting them, and their tags."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

JobRequest = Callable[..., dict[str, Any]]
NEVER = "s3://contract/models/never.tar.gz"


@pytest.fixture
def waiting(cloud: Any, job_request: JobRequest) -> tuple[Any, str, str]:
    """Return a client, and name and ARN of a job that no worker takes: its region has none."""
    client = cloud.client("sagemaker", region_name="sa-east-1")
    request = job_request(NEVER, Tags=[{"Key": "team", "Value": "digits"}])
    arn = client.create_compilation_job(**request)["CompilationJobArn"]
    return client, request["CompilationJobName"], arn


def tags(client: Any, arn: str) -> dict[str, str]:
    pages = client.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def test_only_a_job_that_ended_is_deleted_and_its_name_is_free_again(
    waiting: Any, job_request: JobRequest
) -> None:
    client, name, _arn = waiting
    with pytest.raises(ClientError, match="is in status STARTING: stop it first") as refused:
        client.delete_compilation_job(CompilationJobName=name)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    client.stop_compilation_job(CompilationJobName=name)
    client.delete_compilation_job(CompilationJobName=name)
    with pytest.raises(client.exceptions.ResourceNotFound):
        client.describe_compilation_job(CompilationJobName=name)
    names = client.list_compilation_jobs(NameContains=name)["CompilationJobSummaries"]
    assert names == []
    client.create_compilation_job(**job_request(NEVER, CompilationJobName=name))


def test_tags_are_added_overwritten_listed_in_pages_and_deleted(waiting: Any) -> None:
    client, _name, arn = waiting
    given = [{"Key": f"k{n:02d}", "Value": str(n)} for n in range(49)]
    assert client.add_tags(ResourceArn=arn, Tags=given)["Tags"] == given
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "k00", "Value": "new"}])
    found = tags(client, arn)
    assert len(found) == 50
    assert (found["team"], found["k00"], found["k48"]) == ("digits", "new", "48")
    page = client.list_tags(ResourceArn=arn, MaxResults=50)
    assert len(page["Tags"]) == 50
    assert "NextToken" not in page
    with pytest.raises(ClientError, match="at most 50"):
        client.add_tags(ResourceArn=arn, Tags=[{"Key": "one-more", "Value": ""}])
    client.delete_tags(ResourceArn=arn, TagKeys=["k01", "k02", "not-there"])
    assert len(tags(client, arn)) == 48


def test_tags_of_what_is_not_there_are_refused(waiting: Any) -> None:
    client, _name, arn = waiting
    other = arn.replace("sa-east-1", "eu-west-3")
    for call in (
        lambda: client.list_tags(ResourceArn=other),
        lambda: client.add_tags(ResourceArn=arn + "x", Tags=[]),
        lambda: client.delete_tags(ResourceArn=arn + "x", TagKeys=["team"]),
    ):
        with pytest.raises(ClientError, match="Could not find") as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError, match="reserved"):
        client.add_tags(ResourceArn=arn, Tags=[{"Key": "AWS:x", "Value": ""}])
