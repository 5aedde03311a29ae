from typing import Any

import pytest
from model_delivery_engine.batch.evaluate import evaluate, wilson_interval
from model_delivery_engine.errors import BatchError


def answer(label: Any, output: Any) -> dict[str, Any]:
    return {"input": {"id": "r1", "label": label}, "output": {"y": output}, "error": None}


def test_accuracy_counts_labels_scores_and_errors() -> None:
    records = [
        answer(1, [0.1, 0.8, 0.1]),
        answer(2, [0.9, 0.0, 0.1]),
        answer(3, 3),
        answer(0, [[0]]),
        {"input": None, "output": None, "error": {"reason": "x"}},
    ]
    result = evaluate(records, output="y", label_field="label")
    assert (result.n, result.correct, result.errors) == (4, 3, 1)
    assert result.accuracy == 0.75
    assert result.confusion == {"1": {"1": 1}, "2": {"0": 1}, "3": {"3": 1}, "0": {"0": 1}}


def test_classes_may_have_names() -> None:
    animals = ["cat", "dog", "bird"]
    reviewed = {**answer("dog", [0.9, 0.0, 0.1]), "review": {"status": "corrected", "label": "cat"}}
    records = [
        answer("dog", [0.1, 0.8, 0.1]),
        answer("bird", [0.9, 0.0, 0.1]),
        answer("wolf", [0.1, 0.8, 0.1]),  # a class that the model does not know is never right
        answer("cat", "cat"),
        reviewed,
    ]
    result = evaluate(records, output="y", label_field="label", labels=animals)
    assert (result.n, result.correct) == (5, 3)
    assert result.confusion["wolf"] == {"dog": 1}
    numbered = evaluate(
        [answer(1, [0.1, 0.9]), answer("0", [0.9, 0.1])],
        output="y", label_field="label", labels=["0", "1"],
    )  # fmt: skip
    assert numbered.correct == 2


def test_names_must_fit_the_scores_and_the_labels() -> None:
    with pytest.raises(BatchError, match="there are 2 labels, and output 'y' has 3 scores"):
        evaluate([answer("a", [0.1, 0.2, 0.7])], output="y", label_field="label", labels=["a", "b"])
    with pytest.raises(BatchError, match=r"'r1' has label 1, and the model answers 'b'"):
        evaluate([answer(1, [0.1, 0.9])], output="y", label_field="label", labels=["a", "b"])


def test_wilsons_interval() -> None:
    # 81 of 263: the worked example of Newcombe (1998), table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "no record was answered"),
        ([{"input": None, "output": None, "error": {}}], r"\(1 errors\)"),
        ([{"input": {"id": "r9"}, "output": {"y": 1}, "error": None}], "'r9' has no label field"),
        ([answer(1, [[0.1, 0.9], [0.2, 0.8]])], "neither one value nor one list of scores"),
        ([answer("1", [0.1, 0.9])], "'r1' has label '1', and the model answers 1: labels must be"),
        ([answer(1, [])], "neither one value nor one list of scores"),
        ([{"input": {"label": 1}, "output": {"z": 1}, "error": None}], "no output 'y'.* are z"),
    ],
)
def test_what_cannot_be_evaluated_is_said(records: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(BatchError, match=why):
        evaluate(records, output="y", label_field="label")
