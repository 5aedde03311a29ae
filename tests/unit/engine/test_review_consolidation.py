"""Majority, quorum, adjudicator, and Dawid and Skene on the data of their own paper."""

import tracemalloc
from typing import Any

import pytest
from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.answers import Answer, by_item
from model_delivery_engine.review.consolidation import (
    Method,
    adjudicated,
    consolidate,
    majority,
    open_items,
    quorum,
)
from model_delivery_engine.review.dawid_skene import dawid_skene, has_classes
from model_delivery_engine.review.reviewers import reviewer_figures

# Table 1 of the paper: 45 patients; the first of five anaesthetists judged each three times.
PAPER = [
    "1111111",
    "3334334",
    "1122122",
    "2223121",
    "2223222",
    "2223322",
    "1222111",
    "3333433",
    "2222223",
    "2322223",
    "4444444",
    "2223343",
    "1111111",
    "2223212",
    "1211111",
    "1112111",
    "1111111",
    "1111111",
    "2222221",
    "2221322",
    "2222222",
    "2222221",
    "2223222",
    "2212222",
    "1111111",
    "1111111",
    "2322222",
    "1111111",
    "1111111",
    "1121121",
    "1111111",
    "3333233",
    "1111111",
    "2222222",
    "2223232",
    "4334343",
    "2212232",
    "2323233",
    "3333432",
    "1111111",
    "1111111",
    "1212111",
    "2322222",
    "1211111",
    "2222222",
]
OBSERVERS = "1112345"


def answers(item: Any, *labels: Any) -> Any:
    return [Answer(item, f"reviewer-{n}", label) for n, label in enumerate(labels)]


def of(**items: Any) -> Any:
    return {item: answers(item, *labels) for item, labels in items.items()}


@pytest.mark.parametrize(
    ("labels", "expected"), [("aab", "a"), ("ab", None), ("aabb", None), ("aabc", None), ("", None)]
)
def test_a_majority_is_more_than_half(labels: Any, expected: Any) -> None:
    assert majority(answers("x", *labels)).label == expected


@pytest.mark.parametrize(
    ("labels", "least", "expected"),
    [("aabc", 2, "a"), ("aab", 3, None), ("aabb", 2, None), ("a", 1, "a")],
)
def test_a_quorum_is_so_many_and_no_tie(labels: Any, least: Any, expected: Any) -> None:
    assert quorum(answers("x", *labels), least).label == expected


def test_a_reviewer_counts_once_for_an_item() -> None:
    given = [Answer("x", "ann", "a"), Answer("x", "ann", "a"), Answer("x", "bob", "b")]
    assert majority(by_item(given)["x"]).label is None


def test_a_third_reviewer_is_asked_only_where_two_differ() -> None:
    items = of(same="aa", differ="ab")
    assert open_items(items, consolidate(items, Method.MAJORITY)) == ["differ"]


def test_an_adjudicator_rules_whatever_the_others_said() -> None:
    decision = adjudicated(answers("x", "a", "b"), Answer("x", "lead", "b"))
    assert (decision.label, decision.support, decision.method) == ("b", 0.5, Method.ADJUDICATOR)


def test_dawid_and_skene_find_what_their_paper_found() -> None:
    items = {
        str(patient): [
            Answer(str(patient), who, label) for who, label in zip(OBSERVERS, row, strict=True)
        ]
        for patient, row in enumerate(PAPER, start=1)
    }
    found = dawid_skene(items)
    assert found.prior.tolist() == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.005)
    # Of the five, only the first never mistook a patient of class 1 for worse than 2.
    assert found.rates["1"][0].tolist() == pytest.approx([0.89, 0.11, 0.0, 0.0], abs=0.005)
    assert found.rates["1"][1].tolist() == pytest.approx([0.07, 0.88, 0.05, 0.0], abs=0.005)
    assert [found.best(patient)[0] for patient in ("1", "11", "36")] == ["1", "4", "4"]


def test_a_reviewer_who_answers_at_random_weighs_little() -> None:
    items = {}
    for n in range(60):
        truth = "ab"[n % 2]
        careless = "ab"[(n // 2) % 2]
        labels = {"ann": truth, "bob": truth if n % 10 else "c", "cas": careless}
        items[str(n)] = [Answer(str(n), who, label) for who, label in labels.items()]
    decided = consolidate(items, Method.DAWID_SKENE)
    # Where ann and bob differ, cas has no say: it is 0.53 to 0.47, and stays open.
    expected = [None if n % 10 == 0 else "ab"[n % 2] for n in range(60)]
    assert [decided[str(n)].label for n in range(60)] == expected
    found = dawid_skene(items)
    right = {who: float(found.prior @ rates.diagonal()) for who, rates in found.rates.items()}
    assert right["cas"] < 0.6 < 0.85 < right["bob"]


def test_two_reviewers_who_differ_decide_nothing_by_reliability_either() -> None:
    items = of(a="aa", b="aa", c="aa", d="bb", torn="ab")
    decided = consolidate(items, Method.DAWID_SKENE)
    assert [decided[each].label for each in items] == ["a", "a", "a", "b", None]


def test_a_label_that_is_hardly_more_probable_is_not_decided() -> None:
    # A third reviewer, who had no part in it, makes the commoner label the likelier: 0.56.
    items = {**of(**{str(n): "xx" for n in range(5)}, torn="xy"), "far": [Answer("far", "cy", "x")]}
    found = consolidate(items, Method.DAWID_SKENE)["torn"]
    assert (found.label, round(found.support, 2)) == (None, 0.56)


def test_free_texts_are_no_classes_and_cost_no_memory() -> None:
    items = of(**{str(n): [f"text {n}", f"text {n}", f"txet {n}"] for n in range(3_000)})
    items["open"] = answers("open", "this", "that", "neither")
    tracemalloc.start()
    decided = consolidate(items, Method.DAWID_SKENE)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20
    assert {each.method for each in decided.values()} == {Method.MAJORITY}
    assert (decided["7"].label, decided["7"].support) == ("text 7", 2 / 3)
    assert open_items(items, decided) == ["open"]


def test_many_classes_are_classes() -> None:
    items = of(**{str(n): [f"class {n % 1_000}"] * 3 for n in range(2_000)})
    assert has_classes(items)
    assert not has_classes(of(**{str(n): [f"text {n}"] * 3 for n in range(3_000)}))


def test_what_cannot_be_consolidated_is_said() -> None:
    with pytest.raises(ReviewError, match="no answers"):
        dawid_skene({})
    with pytest.raises(ReviewError, match="quorum of 0"):
        consolidate({}, Method.QUORUM, quorum_size=0)
    with pytest.raises(ReviewError, match="adjudicator"):
        consolidate({}, Method.ADJUDICATOR)


def test_each_reviewer_is_held_against_the_decisions() -> None:
    items = of(x="aab", y="bbb", z="cd")
    figures = reviewer_figures(items, consolidate(items, Method.MAJORITY))
    assert figures["reviewer-0"].borne_out.value == 1.0
    third = figures["reviewer-2"]
    assert (third.answers, third.borne_out.value) == (2, 0.5)
    assert third.by_class == {"a": 0.0, "b": 1.0}
    assert third.confusion == {"a": {"b": 1}, "b": {"b": 1}}
