"""Activation conditions: A2I's own examples, the grammar's limits, the record, sampling."""

import json
import math
from typing import Any

import pytest
from model_delivery_engine.errors import ConditionsError, ReviewError
from model_delivery_engine.review.conditions import parse_conditions
from model_delivery_engine.review.forms import form
from model_delivery_engine.review.inferences import Source, classification, moderation
from model_delivery_engine.review.sampling import sampler

SWIM = {"Name": "Female Swimwear Or Underwear", "Confidence": 98.5, "ParentName": "Suggestive"}
SUGGESTIVE = {"confidence": 96.7, "name": "Suggestive", "parentName": ""}


def simple(kind: Any, **parameters: Any) -> Any:
    return {"ConditionType": kind, "ConditionParameters": parameters}


def label(name: Any, **comparators: Any) -> Any:
    return simple("ModerationLabelConfidenceCheck", ModerationLabelName=name, **comparators)


def moderated(conditions: Any, *labels: Any) -> Any:
    parsed = parse_conditions({"Conditions": conditions}, Source.REKOGNITION)
    return parsed.evaluate(moderation(b"image", {"moderationLabels": list(labels)}))


def classified(conditions: Any, *scores: Any, identity: Any = b"1") -> Any:
    parsed = parse_conditions({"Conditions": conditions}, Source.CLASSIFIER)
    return parsed.evaluate(classification(identity, list(scores)))


def block(identity: Any, kind: Any, confidence: Any, **members: Any) -> Any:
    return {"Id": identity, "BlockType": kind, "Confidence": confidence, **members}


def document(*pairs: Any, spelling: Any = lambda blocks: {"Blocks": blocks}) -> Any:
    """Each pair: key, value, confidence of the pair, confidence of each word."""
    blocks = [block("page", "PAGE", 99.0)]
    for n, (key, value, confidence, words) in enumerate(pairs):
        ids = {"key": [], "value": []}
        texts = [("key", each) for each in key.split()] + [("value", v) for v in value.split()]
        for place, ((side, text), sure) in enumerate(zip(texts, words, strict=True)):
            ids[side].append(f"w{n}-{place}")
            blocks.append(block(f"w{n}-{place}", "WORD", sure, Text=text))
        value_of = [{"Type": "VALUE", "Ids": [f"v{n}"]}, {"Type": "CHILD", "Ids": ids["key"]}]
        blocks += [
            block(f"k{n}", "KEY_VALUE_SET", confidence, EntityTypes=["KEY"],
                  Relationships=value_of),
            block(f"v{n}", "KEY_VALUE_SET", confidence, EntityTypes=["VALUE"],
                  Relationships=[{"Type": "CHILD", "Ids": ids["value"]}]),
        ]  # fmt: skip
    return spelling(blocks)


def read(conditions: Any, response: Any) -> Any:
    parsed = parse_conditions({"Conditions": conditions}, Source.TEXTRACT)
    return parsed.evaluate(form(b"document", response)).activated


@pytest.mark.parametrize(
    ("comparator", "bound", "expected"),
    [
        ("ConfidenceEquals", 96.7, True),
        ("ConfidenceEquals", 96.6, False),
        ("ConfidenceLessThan", 98, True),
        ("ConfidenceLessThan", 96.7, False),
        ("ConfidenceLessThanEquals", 96.7, True),
        ("ConfidenceGreaterThan", 96.7, False),
        ("ConfidenceGreaterThan", 96, True),
        ("ConfidenceGreaterThanEquals", 96.7, True),
    ],
)
def test_each_comparator_compares_as_its_name_says(
    comparator: Any, bound: Any, expected: Any
) -> None:
    assert moderated([label("Suggestive", **{comparator: bound})], SUGGESTIVE).activated is expected


def test_a_label_that_was_not_found_has_no_confidence_to_compare() -> None:
    assert not moderated([label("Violence", ConfidenceLessThan=98)], SUGGESTIVE).activated


def test_the_catch_all_is_every_label_and_both_spellings_are_read() -> None:
    conditions = [label("*", ConfidenceGreaterThan=98)]
    assert not moderated(conditions, SUGGESTIVE).activated
    assert moderated(conditions, SUGGESTIVE, SWIM).activated


def test_two_comparators_of_one_check_are_a_range_on_the_same_label() -> None:
    conditions = [label("*", ConfidenceGreaterThan=97, ConfidenceLessThan=98)]
    assert not moderated(conditions, SUGGESTIVE, SWIM).activated


def test_the_record_has_a_result_at_each_node_as_a2i_lays_it_out() -> None:
    first = label("Suggestive", ConfidenceLessThan=98)
    second = label("Female Swimwear Or Underwear", ConfidenceGreaterThan=99)
    conditions = [{"Or": [first, {"And": [second, first]}]}, second]
    parsed = parse_conditions(json.dumps({"Conditions": conditions}), Source.REKOGNITION)
    evaluation = parsed.evaluate(moderation(b"i", {"ModerationLabels": [SUGGESTIVE, SWIM]}))
    yes, no = {"EvaluationResult": True}, {"EvaluationResult": False}
    assert parsed.record(evaluation) == {
        "Conditions": [
            {"Or": [first | yes, {"And": [second | no, first | yes]} | no]} | yes,
            second | no,
        ]
    }


PAY_DATE = {"ImportantFormKey": "Pay Date", "ImportantFormKeyAliases": ["PayDate", "pay-date"]}


@pytest.mark.parametrize(
    ("confidence", "words", "expected"),
    [
        (64.0, (80.0, 80.0, 84.0), True),
        (65.0, (80.0, 80.0, 84.0), False),
        (64.0, (80.0, 80.0, 85.0), False),
    ],
)
def test_a_pair_needs_its_own_confidence_and_that_of_each_word(
    confidence: Any, words: Any, expected: Any
) -> None:
    check = simple("ImportantFormKeyConfidenceCheck", **PAY_DATE,
                   KeyValueBlockConfidenceLessThan=65, WordBlockConfidenceLessThan=85)  # fmt: skip
    assert read([check], document(("Pay Date", "1/2", confidence, words))) is expected


def test_aliases_name_the_same_key_and_other_keys_do_not_count() -> None:
    check = simple(
        "ImportantFormKeyConfidenceCheck", **PAY_DATE, KeyValueBlockConfidenceLessThan=65
    )
    assert read([check], document(("PayDate", "1/2", 60.0, (90.0, 90.0))))
    assert not read([check], document(("Paid", "1/2", 60.0, (90.0, 90.0))))


def test_a_missing_key_is_missed_only_where_no_alias_is_there() -> None:
    check = simple("MissingImportantFormKey", **PAY_DATE)
    assert read([check], document(("Name", "Sue", 99.0, (99.0, 99.0))))
    assert not read([check], document(("pay-date", "1/2", 99.0, (99.0, 99.0))))


def test_blocks_are_read_as_a_loop_spells_them_too() -> None:
    def lower(blocks: Any) -> Any:
        return {"blocks": [{k[0].lower() + k[1:]: v for k, v in each.items()} for each in blocks]}

    check = simple("ImportantFormKeyConfidenceCheck", ImportantFormKey="*",
                   WordBlockConfidenceLessThan=50)  # fmt: skip
    response = document(("Name", "Sue", 99.0, (40.0, 40.0)), spelling=lower)
    for each in response["blocks"]:
        for relation in each.get("relationships", ()):
            relation.update({"type": relation.pop("Type"), "ids": relation.pop("Ids")})
    assert read([check], response)


def test_a_block_that_is_not_there_is_named() -> None:
    response = document(("Name", "Sue", 99.0, (40.0, 40.0)))
    response["Blocks"] = [each for each in response["Blocks"] if each["Id"] != "w0-1"]
    with pytest.raises(ReviewError, match="block k0 relates to block 'w0-1'"):
        form(b"document", response)


def test_the_checks_over_a_classifiers_scores() -> None:
    sure, torn = (0.98, 0.01, 0.01), (0.45, 0.44, 0.11)
    for check, on_sure, on_torn in [
        (simple("ConfidenceCheck", ConfidenceLessThan=50), False, True),
        (simple("MarginCheck", MarginLessThan=2), False, True),
        (simple("EntropyCheck", EntropyGreaterThan=80), False, True),
        (simple("ConfidenceCheck", Label="0", ConfidenceGreaterThan=40), True, True),
        (simple("ConfidenceCheck", Label="1", ConfidenceGreaterThan=0), False, False),
    ]:
        assert classified([check], *sure).activated is on_sure
        assert classified([check], *torn).activated is on_torn


def test_entropy_is_a_percentage_of_the_most_there_can_be() -> None:
    assert classification(b"1", [0.25] * 4).entropy == pytest.approx(100)
    assert classification(b"1", [1.0, 0.0]).entropy == 0.0
    bits = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert classification(b"1", [0.9]).entropy == pytest.approx(100 * bits)
    with pytest.raises(ReviewError, match=r"sum to 1\.4, not to 1"):
        _ = classification(b"1", [0.7, 0.7]).entropy


@pytest.mark.parametrize(
    "scores", [[-0.1, 1.1], [2.0, 3.0], 7, "cat", [], None, [math.nan, 0.5], [[0.1], [0.9]]]
)
def test_what_is_no_list_of_probabilities_is_refused_by_name(scores: Any) -> None:
    with pytest.raises(ReviewError, match="scores of item-9"):
        classification(b"item-9", scores)


def test_a_sample_has_the_asked_size_and_is_the_same_every_time() -> None:
    identities = [str(n).encode() for n in range(20_000)]
    for share in (0.5, 5, 50):
        picked = [each for each in identities if sampler(share)(each)]
        expected = len(identities) * share / 100
        assert abs(len(picked) - expected) < 4 * math.sqrt(expected)
    # Pinned: another hash would pick other items for a review under way.
    assert [n for n in range(60) if sampler(5)(str(n).encode())] == SAMPLE_OF_5
    larger = sampler(10)
    assert all(larger(each) for each in identities if sampler(5)(each))


SAMPLE_OF_5 = [6, 8, 20, 22, 27, 28, 44, 52]


def test_two_samplings_are_independent() -> None:
    half = simple("Sampling", RandomSamplingPercentage=50)
    both = parse_conditions({"Conditions": [{"And": [half, half]}]}, Source.CLASSIFIER)
    inferences = [classification(str(n).encode(), [0.5, 0.5]) for n in range(4000)]
    assert 900 < sum(both.evaluate(each).activated for each in inferences) < 1100


def test_an_evaluation_says_when_only_sampling_asks_for_a_review() -> None:
    everything = simple("Sampling", RandomSamplingPercentage=100)
    unsure = simple("ConfidenceCheck", ConfidenceLessThan=60)
    assert classified([everything, unsure], 0.9, 0.1).sampled_only
    assert not classified([everything, unsure], 0.5, 0.5).sampled_only
    # A sample of the doubtful is no sample of everything.
    assert not classified([{"And": [everything, unsure]}], 0.5, 0.5).sampled_only


DEEP = {"And": [{"Or": [{"And": [label("a", ConfidenceEquals=1)] * 2}] * 2}] * 2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "no JSON"),
        ("[]", "one object"),
        ({"Conditions": []}, "at least one condition"),
        ({"Conditions": [3]}, r"Conditions\[0\] is 3"),
        ({"Conditions": [{"And": [label("a", ConfidenceEquals=1)]}]}, "at least two"),
        ({"Conditions": [{"And": [], "Or": []}]}, "nothing beside And"),
        ({"Conditions": [DEEP]}, r"Conditions\[0\].And\[0\].Or\[0\]: And and Or .* twice"),
        ({"Conditions": [simple("Guess")]}, "ConditionType is 'Guess': over AWS/Rekognition"),
        ({"Conditions": [simple("MissingImportantFormKey", ImportantFormKey="a")]}, "over AWS/Rek"),
        ({"Conditions": [label("a")]}, "compares nothing: give one of ConfidenceEquals"),
        ({"Conditions": [label("a", ConfidenceLessThan=101)]}, "ConfidenceLessThan is 101"),
        ({"Conditions": [label("a", ConfidenceLessThan=True)]}, "ConfidenceLessThan is True"),
        ({"Conditions": [label("a", ConfidenceLessThan="9")]}, "ConfidenceLessThan is '9'"),
        ({"Conditions": [label("a", Confidence=9)]}, "Confidence is unknown; there are"),
        ({"Conditions": [label("", ConfidenceEquals=9)]}, "ModerationLabelName is ''"),
        ({"Conditions": [simple("Sampling")]}, "RandomSamplingPercentage is missing"),
        ({"Conditions": [simple("Sampling", RandomSamplingPercentage=0)]}, "from 0.01 to 100"),
        ({"Conditions": [{**label("a", ConfidenceEquals=9), "Not": 1}]}, r"\[0\].Not is unknown"),
        ({"Conditions": [label("a" * 10_240, ConfidenceEquals=9)]}, "10240 are allowed"),
        ("[" * 5_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_breaks_the_grammar_is_named(given: Any, message: Any) -> None:
    with pytest.raises(ConditionsError, match=message):
        parse_conditions(given, Source.REKOGNITION)


def test_and_within_or_is_as_deep_as_it_may_be() -> None:
    parse_conditions({"Conditions": [DEEP["And"][0]]}, Source.REKOGNITION)
