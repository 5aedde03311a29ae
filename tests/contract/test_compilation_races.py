"""Compilation jobs over both databases: what several do at once is done one after the other."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import jobs
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.workers.kinds import WORK
from model_delivery_localcloud.workers.work import Outcome

from tests.local_cloud import Cloud

JobRequest = Callable[..., dict[str, Any]]
NEVER = "s3://contract/models/never.tar.gz"


@pytest.fixture(scope="module")
def cloud(cloud_over_each: Cloud) -> Cloud:
    """Return localcloud over each database, without a worker: the test is the worker."""
    return cloud_over_each


def test_a_stop_that_meets_the_jobs_end_comes_too_late(
    cloud: Cloud, job_request: JobRequest
) -> None:
    client = cloud.client("sagemaker")
    request = job_request(NEVER)
    name = request["CompilationJobName"]
    client.create_compilation_job(**request)
    database = Database(Settings.from_environment(cloud.local.env).database_url)
    with database.write() as session:
        lease = jobs.take_lease(session, "test", 60)
        assert lease is not None
        assert lease.name == name
        WORK[lease.kind].begin(session, lease)
    refused: list[ClientError] = []

    def stop() -> None:
        with pytest.raises(ClientError) as error:
            client.stop_compilation_job(CompilationJobName=name)
        refused.append(error.value)

    stopping = threading.Thread(target=stop)
    with database.write() as session:
        jobs.finish(session, lease)
        WORK[lease.kind].end(session, lease, Outcome("ClientError", "no such model"), False)
        session.flush()
        stopping.start()
        stopping.join(0.5)  # it waits for this transaction, having found the job at work
        assert stopping.is_alive()
    stopping.join(10)
    database.close()
    assert "is in status FAILED" in str(refused[0])
    found = client.describe_compilation_job(CompilationJobName=name)
    assert found["CompilationJobStatus"] == "FAILED"
    client.delete_compilation_job(CompilationJobName=name)


def test_no_tag_is_lost_of_those_added_at_once(cloud: Cloud, job_request: JobRequest) -> None:
    client = cloud.client("sagemaker")
    arn = client.create_compilation_job(**job_request(NEVER))["CompilationJobArn"]
    keys = [f"k{number:02d}" for number in range(40)]
    with ThreadPoolExecutor(10) as threads:
        list(
            threads.map(
                lambda key: client.add_tags(ResourceArn=arn, Tags=[{"Key": key, "Value": "1"}]),
                keys,
            )
        )
    pages = client.get_paginator("list_tags").paginate(ResourceArn=arn)
    assert {tag["Key"] for page in pages for tag in page["Tags"]} >= set(keys)


@pytest.mark.parametrize(
    ("member", "field", "text"),
    [
        ("OutputConfig", "CompilerOptions", '{"calibration": "ftp://a/\\u0000"}'),
        ("OutputConfig", "CompilerOptions", '{"calibration": "ftp://a/\\ud800"}'),
        ("OutputConfig", "CompilerOptions", '{"dtype": {"x\\u0000": "int64"}}'),
        ("OutputConfig", "S3OutputLocation", "s3://bucket/a\0b"),
        ("InputConfig", "DataInputConfig", '{"x\\u0000y": [1, 64]}'),
        ("InputConfig", "S3Uri", "s3://bucket/a\0b.tar.gz"),
    ],
)
def test_a_text_that_no_database_stores_is_refused_by_its_fields_name(
    cloud: Cloud, job_request: JobRequest, member: str, field: str, text: str
) -> None:
    request = job_request("s3://bucket/model.tar.gz")
    request[member][field] = text
    with pytest.raises(ClientError, match=rf"{member}\.{field} has a NUL") as refused:
        cloud.client("sagemaker").create_compilation_job(**request)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
