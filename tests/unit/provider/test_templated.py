"""What a template renders is read as a number or a word, or refused by the field's name."""

import pytest
from model_delivery.exceptions import InvalidRequestError
from model_delivery.operators.inference import PlanShardsOperator, error_budget
from model_delivery.operators.personalize import CreateBatchInferenceJobOperator
from model_delivery.templated import number, whole_number, word
from model_delivery_engine.batch.formats import OutputFormat


@pytest.mark.parametrize(
    ("value", "found"), [(None, None), ("", None), ("25", 25), (25, 25), ("25.0", 25), (" 7 ", 7)]
)
def test_whole_numbers(value: object, found: int | None) -> None:
    assert whole_number("n", value) == found


@pytest.mark.parametrize("value", ["inf", "25.9", "nan", "x", [], True])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^n is "):
        whole_number("n", value)


def test_numbers_and_words() -> None:
    assert number("n", "0.5") == 0.5
    assert word("output_format", "parquet", OutputFormat) is OutputFormat.PARQUET
    with pytest.raises(InvalidRequestError, match="output_format is 'xml': give one of jsonl, par"):
        word("output_format", "xml", OutputFormat)


def test_operators_refuse_by_name() -> None:
    plan = PlanShardsOperator(task_id="plan", input_uri="file:///none.jsonl", shards="inf")
    with pytest.raises(InvalidRequestError, match="shards is 'inf': give a number"):
        plan.execute({})  # type: ignore[typeddict-item]  # refused before the context is used
    with pytest.raises(InvalidRequestError, match=r"max_errors is '1\.5'"):
        error_budget("1.5", None)
    recommend = CreateBatchInferenceJobOperator(
        task_id="recommend", solution_version_arn="arn:aws:personalize:r:1:solution/s/1",
        role_arn="r", input_uri="s3://b/in.json", output_uri="s3://b/out/",
        ranking_influence={"POPULARITY": "x"},  # type: ignore[dict-item]  # what is refused
    )  # fmt: skip
    with pytest.raises(InvalidRequestError, match="ranking_influence POPULARITY is 'x'"):
        recommend.build_request()
