"""Validation of input and checking of output against botocore's own shapes."""

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.model import OperationModel
from model_delivery_localcloud.errors import ResponseShapeError, ServiceError
from model_delivery_localcloud.protocol.models import load_service
from model_delivery_localcloud.protocol.serialise import check_output
from model_delivery_localcloud.protocol.validate import validate


def operation(service: str, name: str) -> OperationModel:
    found = load_service(service).operation(name)
    assert found is not None
    return found


def message(params: dict[str, Any], name: str = "CreateCompilationJob") -> str:
    with pytest.raises(ServiceError) as refused:
        validate(params, operation("sagemaker", name).input_shape)
    assert refused.value.code == "ValidationException"
    return refused.value.message


def request(**changes: Any) -> dict[str, Any]:
    valid = {
        "CompilationJobName": "job",
        "RoleArn": "arn:aws:iam::123456789012:role/compiler",
        "OutputConfig": {"S3OutputLocation": "s3://bucket/out"},
        "StoppingCondition": {},
    }
    return {**valid, **changes}


def test_a_valid_request_passes_with_letters_of_any_script_in_tags() -> None:
    tags = [{"Key": "größe", "Value": "漢字"}]
    validate(request(Tags=tags), operation("sagemaker", "CreateCompilationJob").input_shape)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"Tags": [{"Key": "a\n", "Value": ""}]}, "'tags.1.member.key'"),
        ({"Tags": [{"Key": "a", "Value": "b"}] * 51}, "less than or equal to 50"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "greater than or equal to 1"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": True}}, "of type integer"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": "60"}}, "of type integer"),
        ({"OutputConfig": {}}, "Value null at 'outputConfig.s3OutputLocation'"),
        ({"OutputConfig": []}, "of type structure"),
        ({"CompilationJobName": "job\n"}, "regular expression pattern"),
        ({"InputConfig": {"S3Uri": "s3://b/k", "Framework": "ONNX", "Color": 1}}, "'Color'"),
    ],
)
def test_each_constraint_is_named(changes: dict[str, Any], says: str) -> None:
    assert says in message(request(**changes))


def test_all_faults_come_at_once_and_long_values_are_cut() -> None:
    text = message(request(CompilationJobName="x" * 5000, RoleArn="short"))
    assert text.startswith("4 validation errors detected: ")
    assert len(text) < 2000


def test_an_answer_of_ours_is_held_to_its_shape() -> None:
    listing = operation("sagemaker", "ListCompilationJobs")
    summary = {
        "CompilationJobName": "job",
        "CompilationJobArn": "arn",
        "CreationTime": datetime.now(UTC),
        "CompilationJobStatus": "COMPLETED",
    }
    check_output({"CompilationJobSummaries": [summary]}, listing)
    for wrong, says in (
        ({"CompilationJobStatus": "DONE"}, "not in its enum"),
        ({"CreationTime": 12}, "should be a timestamp"),
        ({"Extra": 1}, "unknown members"),
    ):
        with pytest.raises(ResponseShapeError, match=says):
            check_output({"CompilationJobSummaries": [{**summary, **wrong}]}, listing)
    del summary["CompilationJobArn"]
    with pytest.raises(ResponseShapeError, match="CompilationJobArn"):
        check_output({"CompilationJobSummaries": [summary]}, listing)


def test_the_most_literal_template_wins_and_labels_are_decoded() -> None:
    greengrass = load_service("greengrassv2")
    arn = "arn%3Aaws%3Agreengrass%3Aeu-west-1%3A1%3Acomponents%3Aa%3Aversions%3A1.0.0"
    found = greengrass.match("GET", f"/greengrass/v2/components/{arn}/metadata")
    assert found is not None
    assert found[0].name == "DescribeComponent"
    assert found[1]["arn"].startswith("arn:aws:greengrass:")
    assert greengrass.match("PATCH", "/greengrass/v2/deployments") is None
