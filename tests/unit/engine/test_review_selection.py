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
from model_delivery_engine.review.image_size import declared_size
from model_delivery_engine.review.inferences import Source, classification
from model_delivery_engine.review.outputs import (
    answers,
    field_answers,
    field_of,
    fields_by_item,
    key_field,
)
from model_delivery_engine.review.reviewed import (
    Outcome,
    ReviewedItem,
    estimate_of,
    outcome,
    reviewed_lines,
)
from model_delivery_engine.review.selection import (
    ResultsLayout,
    Selection,
    SelectionCounts,
    model_answer,
)

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


def test_classes_without_names_are_offered_by_their_places() -> None:
    chosen = selection(ResultsLayout(score_output="scores"), EVERY)
    (item,) = chosen.items([result(2, [0.2, 0.5, 0.3])])
    content = json.loads(chosen.content(item))
    assert (content["initialValue"], content["labels"]) == ("1", ["0", "1", "2"])


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


def output(*given: dict[str, Any], **content: Any) -> dict[str, Any]:
    return {
        "humanLoopName": "loop",
        "inputContent": content,
        "humanAnswers": [
            {"workerId": f"w{n}", "answerContent": content, "timeSpentInSeconds": 2.5}
            for n, content in enumerate(given)
        ],
    }


def decide(item: ReviewedItem, source: Source, *outputs: dict[str, Any]) -> Outcome:
    """Return what comes of an item's answers, of which each loop's are a round's."""
    said = [answer for each in outputs for answer in answers(item.identity, each, source)]
    fields = fields_by_item(said)
    units = by_item(answer for each in said for answer in field_answers(each, fields))
    decided = consolidate(units, Method.MAJORITY)
    return outcome(item, decided, [field_of(each)[1] for each in decided])


def reviewed_form(
    read: dict[str, Any], *given: dict[str, Any], conditions: tuple[dict[str, Any], ...] = (EVERY,)
) -> tuple[Outcome, dict[str, Any]]:
    """Return what comes of a form's review, and the corrected form."""
    record = {"input": {"id": "a", "document": "s3://b/a.png"}, "output": read, "error": None}
    chosen = selection(FORMS, *conditions)
    (item,) = chosen.items([record])
    content = json.loads(chosen.content(item))
    found = decide(
        ReviewedItem(item.place, "a", item.model_answer, sampled=False, whole=item.whole),
        Source.TEXTRACT, output(*given, **content),
    )  # fmt: skip
    (line,) = reviewed_lines([record], {item.place: found})
    return found, corrected_form(json.loads(json.dumps(line)))


def answer(read: dict[str, Any], **texts: str) -> dict[str, Any]:
    """Return a reviewer's answer: texts by the place of the block, as `k0` or `v1`."""
    blocks = [dict(each) for each in read["Blocks"]]
    sides = {"k": "KEY", "v": "VALUE"}
    for name, text in texts.items():
        of_side = [each for each in blocks if sides[name[0]] in each.get("EntityTypes", ())]
        of_side[int(name[1:])]["Text"] = text
    return {str(Source.TEXTRACT): {"blocks": blocks}}


def added(answered: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Return an answer with one more pair, as the portal adds it."""
    blocks = answered[str(Source.TEXTRACT)]["blocks"]
    pair: list[dict[str, Any]] = [
        {"blockType": "KEY_VALUE_SET", "confidence": 100, "entityTypes": ["KEY"], "id": "added-1",
         "text": key, "relationships": [{"type": "VALUE", "ids": ["added-1-value"]}]},
        {"blockType": "KEY_VALUE_SET", "confidence": 100, "entityTypes": ["VALUE"],
         "id": "added-1-value", "text": value},
    ]  # fmt: skip
    return {str(Source.TEXTRACT): {"blocks": [*blocks, *pair]}}


def test_an_answer_without_a_label_is_no_answer() -> None:
    (answered, empty) = answers("1", output({"d": {"label": "a"}}, {}), Source.CLASSIFIER)
    assert (answered.fields, empty.fields) == ({"": "a"}, None)
    fields = fields_by_item([answered, empty])
    assert list(field_answers(empty, fields)) == []


def test_two_reviewers_correct_a_form_field_by_field() -> None:
    read = a_form()
    found, corrected = reviewed_form(read, answer(read, v0="Susan"), answer(read, v0="Susan"))
    assert found.status == "corrected"
    assert corrected == {
        "document": {"id": "a", "document": "s3://b/a.png"},
        "reviewed": True,
        "fields": {"Name": "Susan", "Date": "2026-01-02"},
        "corrected": ["Name"],
        "undecided": [],
    }


def test_a_pair_that_reviewers_remove_has_no_text() -> None:
    read = a_form()
    nothing: dict[str, Any] = {str(Source.TEXTRACT): {"blocks": []}}
    found, corrected = reviewed_form(read, nothing, nothing)
    assert found.status == "corrected"
    assert corrected["fields"] == {"Name": "", "Date": ""}


def test_two_pairs_of_one_key_are_two_fields() -> None:
    read = response([
        TextLine("Phone: 123", 80.0, (0.1, 0.1, 0.3, 0.05)),
        TextLine("Phone: 456", 80.0, (0.1, 0.3, 0.3, 0.05)),
    ])  # fmt: skip
    unchanged, _ = reviewed_form(read, answer(read), answer(read))
    assert unchanged.status == "confirmed"
    found, corrected = reviewed_form(read, answer(read, v0="124"), answer(read, v0="124"))
    assert found.status == "corrected"
    assert corrected["fields"] == {"Phone": "124", "Phone (2)": "456"}
    assert corrected["corrected"] == ["Phone"]


def test_a_key_that_one_reviewer_changes_leaves_the_value_to_both() -> None:
    read = a_form()
    changed = answer(read, k0="Full name", v0="Susan")
    found, corrected = reviewed_form(read, changed, answer(read, v0="Susan"))
    assert found.answer == {"Name": "Susan", "Date": "2026-01-02", key_field("Name", "Name"): None}
    assert found.status == "undecided"
    assert corrected["undecided"] == ["Name"]
    both, corrected = reviewed_form(read, changed, changed)
    assert (both.status, both.written()["keys"]) == ("corrected", {"Name": "Full name"})
    assert corrected["fields"] == {"Full name": "Susan", "Date": "2026-01-02"}
    assert corrected["corrected"] == ["Name"]


MAIL_MISSING = {
    "ConditionType": "MissingImportantFormKey",
    "ConditionParameters": {"ImportantFormKey": "Mail"},
}


def test_a_missing_key_is_added_by_reviewers_who_agree() -> None:
    read = a_form()
    nothing: dict[str, Any] = {str(Source.TEXTRACT): {"blocks": []}}
    with_mail = added(nothing, "Mail", "sue@example.com")
    found, corrected = reviewed_form(read, with_mail, with_mail, conditions=(MAIL_MISSING,))
    assert found.status == "corrected"
    assert corrected["fields"]["Mail"] == "sue@example.com"
    torn, corrected = reviewed_form(read, with_mail, nothing, conditions=(MAIL_MISSING,))
    assert torn.status == "undecided", "one says that it is there, the other that it is not"
    assert corrected["undecided"] == ["Mail"]
    for neither in (nothing, added(nothing, "Mail", "")):
        found, corrected = reviewed_form(read, neither, neither, conditions=(MAIL_MISSING,))
        assert found.status == "confirmed"
        assert "Mail" not in corrected["fields"]


def test_the_models_answer_on_an_image_is_what_reviewers_are_shown() -> None:
    doubt = {
        "ConditionType": "ModerationLabelConfidenceCheck",
        "ConditionParameters": {"ModerationLabelName": "*", "ConfidenceLessThan": 80},
    }
    labels = [{"Name": "Alcohol", "Confidence": 70.0}, {"Name": "Gambling", "Confidence": 99.0}]
    record = {"input": {"id": "a"}, "output": {"ModerationLabels": labels}, "error": None}
    chosen = selection(ResultsLayout(source=Source.REKOGNITION), doubt)
    (item,) = chosen.items([record])
    content = json.loads(chosen.content(item))
    shown = content["selectedAiServiceResponse"]["moderationLabels"]
    assert shown == [{"name": "Alcohol", "confidence": 70.0}], "spelt as templates read it"
    assert content["initialValue"] == item.model_answer[""] == "Alcohol"
    assert not item.whole
    kept = {str(Source.REKOGNITION): {"moderationLabels": [{"name": "Alcohol"}]}}
    reviewed = ReviewedItem(0, "a", item.model_answer, sampled=False, whole=item.whole)
    found = decide(reviewed, Source.REKOGNITION, output(kept, kept))
    assert found.status == "confirmed"


def test_what_was_shown_in_part_says_nothing_of_the_rest() -> None:
    read = a_form()
    found, _ = reviewed_form(read, answer(read), answer(read), conditions=(LOW_PAIR,))
    assert found.status == "confirmed", "a field that was not asked about may be answered too"
    counts = SelectionCounts(results=1, picked=1)
    for whole, low in ((True, 1.0), (False, 0.0)):
        item = ReviewedItem(0, "a", {"Name": "Sue"}, sampled=False, whole=whole)
        known = estimate_of([item], {"a": found}, counts)
        assert (known.model_accuracy.low, known.model_accuracy.high) == (low, 1.0)
    wrong, _ = reviewed_form(
        read, answer(read, v0="x"), answer(read, v0="x"), conditions=(LOW_PAIR,)
    )
    item = ReviewedItem(0, "a", {"Name": "Sue"}, sampled=False, whole=False)
    known = estimate_of([item], {"a": wrong}, counts)
    assert (known.model_accuracy.high, known.corrected_accuracy.low) == (0.0, 0.0)
    assert known.corrected_accuracy.high == 1.0


def test_an_identity_that_comes_again_unreviewed_gets_no_review() -> None:
    records = [result("a", [0.5, 0.5]), result("a", [0.9, 0.1]), result("b", [0.9, 0.1])]
    (item,) = selection(CLASSIFIER, UNSURE).items(records)
    found = decide(
        ReviewedItem(item.place, "a", item.model_answer, sampled=False), Source.CLASSIFIER,
        output({"d": {"label": "cat"}}),
    )  # fmt: skip
    lines = list(reviewed_lines(records, {item.place: found}))
    assert [line["review"] is not None for line in lines] == [True, False, False]


def test_reviewers_who_differ_leave_the_field_undecided() -> None:
    given = output({"d": {"label": "a"}}, {"d": {"label": "b"}})
    item = ReviewedItem(0, "1", {"": "a"}, sampled=True)
    found = decide(item, Source.CLASSIFIER, given)
    assert (found.status, found.written()["label"]) == ("undecided", None)
    # A third opinion comes from another loop.
    third = {**output({"d": {"label": "b"}})}
    third["humanAnswers"][0]["workerId"] = "w9"
    assert decide(item, Source.CLASSIFIER, given, third).answer == {"": "b"}


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
    whole = cv2.imencode(".jpg", np.zeros((40, 30, 3), np.uint8))[1].tobytes()
    assert declared_size(whole) == (30, 40)
    frame = whole.index(b"\xff\xc0")
    # Filled up and after a stray byte, as decoders take it.
    bomb = (
        whole[:frame] + b"\0\xff" + whole[frame : frame + 5] + (9_000).to_bytes(2, "big") * 2
        + whole[frame + 9 :]
    )  # fmt: skip
    with pytest.raises(ReviewError, match="9000 by 9000 pixels"):
        DocumentReader().read(bomb)
    for other in (whole[:frame], cv2.imencode(".bmp", np.zeros((9, 9), np.uint8))[1].tobytes()):
        with pytest.raises(ReviewError, match="no image"):
            DocumentReader().read(other)


def test_white_space_at_a_classs_ends_makes_it_no_other_than_the_reviewers() -> None:
    output = {"humanAnswers": [{"workerId": "w", "answerContent": {"a": {"label": "cat "}}}]}
    (given,) = answers("item", output, Source.CLASSIFIER)
    assert given.fields == model_answer(classification(b"item", [0.9, 0.1], ["cat ", "dog"]))
