"""Where a batch inference job of Personalize has its results."""

import pytest
from model_delivery.jobs.service import JobDescription, JobState
from model_delivery.operators.personalize import batch_inference_result


@pytest.mark.parametrize(
    ("source", "results"),
    [
        ("s3://bucket/in/users.json", "s3://bucket/out/users.json.out"),
        ("s3://bucket/in/", "s3://bucket/out/"),
    ],
)
def test_results_are_an_object_or_of_a_folder_a_folder(source: str, results: str) -> None:
    handle = {"arn": "arn", "name": "name", "solution_version_arn": "version"}
    detail = {
        "jobInput": {"s3DataSource": {"path": source}},
        "jobOutput": {"s3DataDestination": {"path": "s3://bucket/out/"}},
    }
    ended = JobDescription(handle, "ACTIVE", next(iter(JobState)), detail=detail)
    assert batch_inference_result(ended)["output_uri"] == results
