"""Agreement equals scikit-learn, statsmodels and krippendorff; intervals cover what they claim."""

import time
import tracemalloc
from typing import Any

import krippendorff
import numpy as np
import pytest
from model_delivery_engine.review.agreement import agreement
from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.consolidation import Method, consolidate
from model_delivery_engine.review.estimate import Tally, estimate
from model_delivery_engine.review.reviewed import review_document
from model_delivery_engine.review.selection import SelectionCounts
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

LABELS = "abcd"


def reviewed(random: Any, count: Any, reviewers: Any, missing: Any = 0.0, noise: Any = 0.3) -> Any:
    """Reviewers who answer the truth but for some noise, and leave some items out."""
    items = {}
    for n in range(count):
        truth = random.choice(list(LABELS), p=[0.5, 0.3, 0.15, 0.05])
        given = []
        for who in range(reviewers):
            if random.random() >= missing:
                label = random.choice(list(LABELS)) if random.random() < noise else truth
                given.append(Answer(str(n), f"r{who}", str(label)))
        items[str(n)] = given
    return items


def table(items: Any, reviewers: Any) -> Any:
    """One row a reviewer, one column an item, NaN where there is no answer."""
    values = np.full((reviewers, len(items)), np.nan)
    for column, answers in enumerate(items.values()):
        for answer in answers:
            values[int(answer.reviewer[1:]), column] = LABELS.index(answer.label)
    return values


@pytest.mark.parametrize("seed", range(5))
def test_two_reviewers_have_cohens_kappa_and_its_interval(seed: Any) -> None:
    items = reviewed(np.random.default_rng(seed), 120, 2)
    first, second = table(items, 2)
    (pair,) = agreement(items).pairs
    assert pair.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    counts = np.zeros((4, 4))
    np.add.at(counts, (first.astype(int), second.astype(int)), 1)
    theirs = cohens_kappa(counts)
    assert pair.kappa.low == pytest.approx(theirs.kappa_low)
    assert pair.kappa.high == pytest.approx(theirs.kappa_upp)
    assert pair.percent == pytest.approx((first == second).mean())


@pytest.mark.parametrize("seed", range(5))
def test_fleiss_kappa_of_three_reviewers(seed: Any) -> None:
    items = reviewed(np.random.default_rng(seed), 100, 3)
    counts = np.array(
        [[sum(a.label == c for a in each) for c in LABELS] for each in items.values()]
    )
    assert agreement(items).fleiss.value == pytest.approx(fleiss_kappa(counts))


@pytest.mark.parametrize("seed", range(5))
def test_krippendorffs_alpha_with_answers_missing(seed: Any) -> None:
    items = reviewed(np.random.default_rng(seed), 100, 4, missing=0.4)
    alpha = krippendorff.alpha(table(items, 4), level_of_measurement="nominal")
    assert agreement(items).alpha.value == pytest.approx(alpha)


def test_fleiss_is_over_the_items_with_the_commonest_number_of_answers() -> None:
    items = reviewed(np.random.default_rng(1), 50, 3)
    one_short = {**items, "short": items["0"][:2], "alone": items["1"][:1]}
    figures = agreement(one_short)
    assert (figures.items, figures.fleiss_items) == (51, 50)
    assert figures.fleiss == agreement(items).fleiss


def test_the_bootstrap_interval_covers_the_figure_of_all_items() -> None:
    random = np.random.default_rng(3)
    whole = reviewed(random, 20_000, 2)
    truth = agreement(whole)
    keys = list(whole)
    covered = 0
    for _ in range(60):
        drawn = random.choice(len(keys), 150, replace=False)
        figures = agreement({keys[n]: whole[keys[n]] for n in drawn})
        covered += figures.alpha.low <= truth.alpha.value <= figures.alpha.high
    # 95 % of 60 are 57; under 51 has a probability of 0.3 %.
    assert covered >= 51


def test_many_items_take_little_more_time_than_few() -> None:
    items = reviewed(np.random.default_rng(5), 20_000, 4)
    began = time.process_time()
    agreement(items)
    # Resampled item by item it took ten times as long.
    assert time.process_time() - began < 1.5


def test_the_same_answers_have_the_same_interval() -> None:
    items = reviewed(np.random.default_rng(4), 80, 3)
    assert agreement(items) == agreement(items)


def test_specific_agreement_is_dices_for_two_reviewers() -> None:
    items = {
        str(n): [Answer(str(n), "x", a), Answer(str(n), "y", b)]
        for n, (a, b) in enumerate(["aa", "aa", "ab", "bb"])
    }
    assert agreement(items).by_class == pytest.approx({"a": 4 / 5, "b": 2 / 3})


def test_one_label_only_leaves_kappa_and_alpha_undefined() -> None:
    items = {str(n): [Answer(str(n), "x", "a"), Answer(str(n), "y", "a")] for n in range(9)}
    figures = agreement(items)
    assert figures.percent.value == 1.0
    assert (figures.fleiss, figures.alpha, figures.pairs[0].kappa) == (None, None, None)


def test_single_answers_agree_with_nobody() -> None:
    figures = agreement({"1": [Answer("1", "x", "a")]})
    assert (figures.items, figures.percent, figures.alpha, figures.pairs) == (0, None, None, [])


def test_opinions_asked_for_where_two_differ_are_not_counted_in_the_agreement() -> None:
    """A third agrees with one of two who differ, and of the others nobody asks a third."""
    first, after = {}, {}
    for n in range(200):
        item, one = str(n), "xyz"[n % 3]
        other = one if n < 134 else "xyz"[(n + 1) % 3]
        first[item] = [Answer(item, "ana", one), Answer(item, "bea", other)]
        after[item] = [*first[item], *([Answer(item, "cid", one)] if one != other else [])]
    found = estimate(Tally(right=134, undecided=66), Tally(), 0)
    document = review_document(
        SelectionCounts(), {}, after, first, consolidate(after, Method.MAJORITY), found
    )
    assert document["counts"]["answers"] == 466
    shown = document["agreement"]
    assert shown["percent"]["value"] == pytest.approx(0.67)
    assert shown["fleiss"]["value"] == pytest.approx(0.505, abs=0.001)
    assert shown["alpha"]["value"] == pytest.approx(0.506, abs=0.001)
    assert [pair["reviewers"] for pair in shown["pairs"]] == [("ana", "bea")]
    # With them it looked better than it was.
    assert agreement(after).percent.value == pytest.approx(0.78)
    assert agreement(after).fleiss.value == 1.0


def test_free_texts_take_memory_by_the_answers_and_not_by_their_labels() -> None:
    items = {
        str(n): [Answer(str(n), f"r{who}", f"text {n} {who % 2}") for who in range(4)]
        for n in range(3_000)
    }
    tracemalloc.start()
    figures = agreement(items)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert figures.percent.value == pytest.approx(1 / 3)
    assert [pair.percent for pair in figures.pairs] == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    # One table of all labels by all labels has 288 MB.
    assert peak < 200_000_000
