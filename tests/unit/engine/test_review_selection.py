"""From results to what reviewers see, and from their answers back to the results."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.answers import by_item
from model_delivery_engine.review.conditions import parse_conditions
from model_delivery_engine.review.consolidation import Method, consolidate
from model_delivery_engine.review.corrected import corrected_form
from model_delivery_engine.review.documents import DocumentReader, TextLine, response
from model_delivery_engine.review.forms import form
from model_delivery_engine.review.inferences import Source
from model_delivery_engine.review.outputs import answers, field_of, label_of, unit
from model_delivery_engine.review.reviewed import ReviewedItem, outcome, reviewed_lines
from model_delivery_engine.review.selection import ResultsLayout, Selection

from include.samples.forms import write_forms

UNSURE = {"ConditionType": "ConfidenceCheck", "ConditionParameters": {"ConfidenceLessThan": 60}}
LOW_PAIR = {
    "ConditionType": "ImportantFormKeyConfidenceCheck",
    "ConditionParameters": {"ImportantFormKey": "*", "KeyValueBlockConfidenceLessThan": 90},
}
EVERY = {"ConditionType": "Sampling", "ConditionParameters": {"RandomSamplingPercentage": 100}}
CLASSIFIER = ResultsLayout(score_output="scores", labels=["cat", "dog"], hidden_fields=("label",))
FORMS = ResultsLayout(source=Source.TEXTRACT, task_object_field="document")


def result(identity: Any, scores: list[float] | None) -> dict[str, Any]:
    output = {"scores": scores} if scores else None
    return {"input": {"id": identity, "label": 1}, "output": output, "error": None}


def selection(layout: ResultsLayout, *conditions: dict[str, Any]) -> Selection:
    return Selection(layout, parse_conditions({"Conditions": list(conditions)}, layout.source))


def a_form(value: str = "Sue", confidence: float = 80.0) -> dict[str, Any]:
    lines = [
        TextLine("Name:", confidence, (0.1, 0.1, 0.1, 0.05)),
        TextLine(value, confidence, (0.4, 0.1, 0.1, 0.05)),
        TextLine("Date: 2026-01-02", 99.0, (0.1, 0.3, 0.3, 0.05)),
        TextLine("Delivery note", 99.0, (0.1, 0.0, 0.3, 0.05)),
    ]
    return response(lines)


def test_each_result_is_counted_once_and_only_the_doubtful_are_chosen() -> None:
    chosen = selection(CLASSIFIER, UNSURE)
    records = [result(1, [0.9, 0.1]), result(2, [0.5, 0.5]), result(3, None)]
    assert [item.identity for item in chosen.items(records)] == ["2"]
    counts = chosen.counts
    assert (counts.results, counts.errors, counts.picked, counts.unreviewed) == (2, 1, 1, 1)


def test_reviewers_see_the_answer_its_confidence_and_the_reason_and_no_label() -> None:
    chosen = selection(CLASSIFIER, UNSURE, EVERY)
    (item,) = chosen.items([result(2, [0.55, 0.45])])
    content = json.loads(chosen.content(item))
    assert content["input"] == {"id": 2}
    assert (content["initialValue"], content["confidence"]) == ("cat", 0.55)
    assert content["labels"] == ["cat", "dog"]
    results = content["humanTaskActivationConditionResults"]["Conditions"]
    assert [each["EvaluationResult"] for each in results] == [True, True]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([result(1, [0.5, 0.5])] * 2, "two records have id '1'"),
        ([{"input": {}, "output": {"scores": [0.5, 0.5]}}], "has no field 'id'"),
        ([{"input": {"id": 1}, "output": {"other": [1.0]}}], "no output 'scores'"),
        ([result(1, [0.2, 0.3, 0.5])], "2 labels for 3 scores"),
    ],
)
def test_what_cannot_be_reviewed_is_named(records: Any, message: str) -> None:
    with pytest.raises(ReviewError, match=message):
        list(selection(CLASSIFIER, EVERY).items(records))


def test_a_form_brings_the_pairs_that_the_conditions_are_about() -> None:
    chosen = selection(FORMS, LOW_PAIR)
    record = {"input": {"id": "a", "document": "s3://b/a.png"}, "output": a_form(), "error": None}
    (item,) = chosen.items([record])
    content = json.loads(chosen.content(item))
    assert content["taskObject"] == "s3://b/a.png"
    assert content["confidence"] == 0.8
    selected = form(b"", content["selectedAiServiceResponse"])
    assert [(pair.key, pair.value) for pair in selected.pairs] == [("Name", "Sue")]
    assert len(form(b"", content["aiServiceResponse"]).pairs) == 2
    (sampled,) = selection(FORMS, EVERY).items([record])
    whole = json.loads(selection(FORMS, EVERY).content(sampled))
    assert whole["selectedAiServiceResponse"] == whole["aiServiceResponse"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"digit": {"label": "7"}}, "7"),
        ({"animals": {"labels": ["dog", "cat"]}}, "cat, dog"),
        ({"text": "yes"}, "yes"),
        ({"AWS/Rekognition/DetectModerationLabels/Image/V3": {"moderationLabels": [
            {"name": "Weapons"}, {"name": "Smoking"}]}}, "Smoking, Weapons"),
        ({"a": {"label": "1"}, "b": {"label": "2"}}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_label_of_an_answer(content: Any, expected: str | None) -> None:
    assert label_of(content) == expected


def output(*given: dict[str, Any]) -> dict[str, Any]:
    return {
        "humanLoopName": "loop",
        "humanAnswers": [
            {"workerId": f"w{n}", "answerContent": content, "timeSpentInSeconds": 2.5}
            for n, content in enumerate(given)
        ],
    }


def test_an_answer_without_a_label_is_no_answer() -> None:
    with pytest.raises(ReviewError, match=r"human loop loop: the answer of w0 .* holds no label"):
        list(answers("1", output({}), Source.CLASSIFIER))


def test_two_reviewers_correct_a_form_field_by_field() -> None:
    blocks = a_form()["Blocks"]
    for each in blocks:
        if "VALUE" in each.get("EntityTypes", ()) and each["Confidence"] == 80.0:
            each["Text"] = "Susan"
    answer = {str(Source.TEXTRACT): {"blocks": blocks}}
    given = list(answers("a", output(answer, answer), Source.TEXTRACT))
    units = by_item(given)
    assert set(units) == {unit("a", "Name"), unit("a", "Date")}
    decided = consolidate(units, Method.MAJORITY)
    item = ReviewedItem("a", {"Name": "Sue", "Date": "2026-01-02"}, sampled=False)
    found = outcome(item, decided, [field_of(each)[1] for each in decided])
    assert found.status == "corrected"
    record = {"input": {"id": "a"}, "output": a_form(), "error": None}
    (line,) = reviewed_lines([record], {"a": found}, "id")
    assert corrected_form(line) == {
        "document": {"id": "a"},
        "reviewed": True,
        "fields": {"Name": "Susan", "Date": "2026-01-02"},
        "corrected": ["Name"],
        "undecided": [],
    }


def test_reviewers_who_differ_leave_the_field_undecided() -> None:
    given = list(answers("1", output({"d": {"label": "a"}}, {"d": {"label": "b"}}),
                         Source.CLASSIFIER))  # fmt: skip
    decided = consolidate(by_item(given), Method.MAJORITY)
    found = outcome(ReviewedItem("1", {"": "a"}, sampled=True), decided, [""])
    assert (found.status, found.written()["label"]) == ("undecided", None)


def test_a_real_model_reads_a_drawn_form(tmp_path: Any) -> None:
    facts = write_forms(tmp_path, count=1)
    ((name, truth),) = facts.truth.items()
    reader = DocumentReader()
    image = (tmp_path / name).read_bytes()
    answer = reader.read(image)
    assert {pair.key: pair.value for pair in form(b"", answer).pairs} == truth
    assert reader.read(image) == answer, "the same page has the same blocks"
    blank = cv2.imencode(".png", np.full((80, 200, 3), 255, np.uint8))[1].tobytes()
    assert form(b"", reader.read(blank)).pairs == []


def test_what_is_no_image_or_a_bomb_is_refused() -> None:
    with pytest.raises(ReviewError, match="no image"):
        DocumentReader().read(b"not an image")
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ReviewError, match="60000 by 60000 pixels"):
        DocumentReader().read(header + b"\x08\0\0\0\0")
