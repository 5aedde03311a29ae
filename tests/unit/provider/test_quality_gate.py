"""The gate: what opens it, what closes it, and thresholds that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_delivery.exceptions import GateClosedError, InvalidRequestError
from model_delivery.operators.quality_gate import QualityGateOperator


def gate(folder: Path, **thresholds: Any) -> QualityGateOperator:
    """Return a gate over 100 answers, 99 of them right, and one record without an answer."""
    right = {"input": {"label": 1}, "output": {"y": [0.1, 0.9]}, "error": None}
    wrong = {"input": {"label": 0}, "output": {"y": [0.1, 0.9]}, "error": None}
    failed = {"input": None, "output": None, "error": {"reason": "by the test"}}
    lines = [*[right] * 99, wrong, failed]
    results = folder / "results.jsonl"
    results.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    settings = {"min_accuracy": 0.9, "max_error_fraction": 0.1, **thresholds}
    return QualityGateOperator(
        task_id="gate", results_uri=f"file://{results}", label_field="label", score_output="y",
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize("least", [0.9, "0.9", 0])
def test_a_good_model_passes(tmp_path: Path, least: Any) -> None:
    result = gate(tmp_path, min_accuracy=least).execute({})
    assert (result["records"], result["errors"], result["accuracy"]) == (100, 1, 0.99)


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [
        # 99 of 100 are enough; the lower end of their interval is not.
        ({"min_accuracy": 0.98}, "gate closed: accuracy 0.9900 on 100 records"),
        ({"max_error_fraction": 0.005}, "gate closed: 0.99% of the records had no answer"),
    ],
)
def test_what_does_not_reach_a_threshold_closes_the_gate(
    tmp_path: Path, thresholds: dict[str, Any], why: str
) -> None:
    with pytest.raises(GateClosedError, match=why):
        gate(tmp_path, **thresholds).execute({})


@pytest.mark.parametrize("value", ["nan", float("nan"), 90, -0.1, "high", None])
@pytest.mark.parametrize("name", ["min_accuracy", "max_error_fraction"])
def test_a_threshold_that_is_none_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name} is .*: give a number from 0 to 1"):
        gate(tmp_path, **{name: value}).execute({})
