"""Where a task's link leads, and which datasets it tells OpenLineage of."""

import json
from typing import Any

import pytest
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.jobs.service import JobDescription
from model_delivery.lineage import dataset_name
from model_delivery.links.job import console_url, is_aws
from model_delivery.operators.compilation import CreateCompilationJobOperator
from model_delivery.operators.edge import CreateDeploymentOperator
from model_delivery.operators.inference import BatchInferenceOperator

ARN = "arn:aws:sagemaker:eu-west-1:123456789012:compilation-job/name-1"
HANDLE = {"name": "name-1", "arn": ARN}
MODEL = "s3://models/digits/model.tar.gz"


def operator(cls: Any, **given: Any) -> Any:
    return cls(task_id="t", **given)


def compile_operator() -> Any:
    return operator(
        CreateCompilationJobOperator, role_arn="r", model_uri=MODEL, framework="ONNX",
        data_input_config={"image": [1, 64]}, output_uri="s3://out/compiled",
    )  # fmt: skip


def connect(monkeypatch: pytest.MonkeyPatch, region: str, endpoint: str | None) -> None:
    connection = {
        "conn_type": "aws", "login": "key", "password": "not-a-secret",
        "extra": {"region_name": region, **({"endpoint_url": endpoint} if endpoint else {})},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))


@pytest.mark.parametrize(
    ("region", "endpoint", "page"),
    [
        (
            "eu-west-1", None,
            "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1"
            "#/compilation-jobs/name-1",
        ),
        (
            "eu-west-1", "http://127.0.0.1:4000",
            "http://127.0.0.1:4000/jobs/compilation/123456789012/eu-west-1/name-1",
        ),
    ],
    ids=["AWS", "localcloud"],
)  # fmt: skip
def test_the_link_of_a_compilation_job_follows_the_connections_endpoint(
    monkeypatch: pytest.MonkeyPatch, region: str, endpoint: str | None, page: str
) -> None:
    connect(monkeypatch, region, endpoint)
    assert compile_operator().page_url(HANDLE) == page


@pytest.mark.parametrize(
    ("endpoint", "page"),
    [
        (
            None,
            "https://eu-west-1.console.aws.amazon.com/iot/home?region=eu-west-1"
            "#/greengrass/v2/deployments/d-1",
        ),
        ("http://127.0.0.1:4000", "http://127.0.0.1:4000/devices"),
    ],
    ids=["AWS", "localcloud"],
)
def test_the_link_of_a_deployment_follows_the_connections_endpoint(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, page: str
) -> None:
    connect(monkeypatch, "eu-west-1", endpoint)
    deploy = operator(CreateDeploymentOperator, thing_name="edge-1", components={"c": "1.0.0"})
    assert deploy.page_url({"id": "d-1", "name": "n", "thing": "edge-1"}) == page


@pytest.mark.parametrize(
    ("endpoint", "region", "domain"),
    [
        ("https://api.sagemaker.us-east-1.amazonaws.com", "us-east-1", "console.aws.amazon.com"),
        ("https://api.sagemaker.cn-north-1.amazonaws.com.cn", "cn-north-1", "console.amazonaws.cn"),
        (
            "https://api.sagemaker.us-gov-west-1.amazonaws.com", "us-gov-west-1",
            "console.amazonaws-us-gov.com",
        ),
    ],
    ids=["aws", "aws-cn", "aws-us-gov"],
)  # fmt: skip
def test_each_partition_has_its_console(endpoint: str, region: str, domain: str) -> None:
    assert is_aws(endpoint)
    url = console_url(endpoint, region, "sagemaker")
    assert url == f"https://{region}.{domain}/sagemaker/home?region={region}"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:4000", "https://amazonaws.com.evil.test"])
def test_another_endpoint_is_not_aws(endpoint: str) -> None:
    assert not is_aws(endpoint)


def test_openlineage_is_told_model_bundle_and_job() -> None:
    compiling = compile_operator()
    made = "s3://out/compiled/model-ml_c5.tar.gz"
    detail = {"ModelArtifacts": {"S3ModelArtifacts": made}}
    state = CompilationJobs.statuses.state("COMPLETED", "x")
    compiling._ended = JobDescription(HANDLE, "COMPLETED", state, detail=detail)
    told = compiling.get_openlineage_facets_on_complete(None)
    assert [(each.namespace, each.name) for each in told.inputs] == [
        ("s3://models", "digits/model.tar.gz")
    ]
    assert [(each.namespace, each.name) for each in told.outputs] == [
        ("s3://out", "compiled/model-ml_c5.tar.gz")
    ]
    assert told.run_facets["externalQuery"].externalQueryId == ARN


def test_openlineage_is_told_bundle_and_records_of_a_shard() -> None:
    shard = {"index": 3, "uri": "wasbs://c@account.blob.core.windows.net/in/records.jsonl"}
    inferring = operator(
        BatchInferenceOperator, shard=shard, bundle_uri="s3://b/bundle.tar.gz",
        output_uri="file:///results/",
    )  # fmt: skip
    told = inferring.get_openlineage_facets_on_complete(None)
    assert [(each.namespace, each.name) for each in told.inputs] == [
        ("s3://b", "bundle.tar.gz"),
        ("wasbs://c@account.blob.core.windows.net", "in/records.jsonl"),
    ]
    assert [(each.namespace, each.name) for each in told.outputs] == [
        ("file", "/results/_parts/shard-00003")
    ]


def test_a_path_is_a_dataset_of_the_file_namespace() -> None:
    assert dataset_name("/data/a.jsonl") == ("file", "/data/a.jsonl")
