"""What a random sample says of what nobody reviewed: exact, and conservative."""

from typing import Any

import numpy as np
import pytest
from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.estimate import Tally, estimate, fewest_errors, most_errors
from scipy.stats import hypergeom


@pytest.mark.parametrize(
    ("population", "drawn", "found"), [(100, 20, 0), (100, 20, 3), (5000, 250, 12), (30, 30, 4)]
)
def test_the_bounds_are_those_of_the_hypergeometric_distribution(
    population: Any, drawn: Any, found: Any
) -> None:
    possible = range(found, population - (drawn - found) + 1)
    high = max(k for k in possible if hypergeom.cdf(found, population, k, drawn) >= 0.025)
    low = min(k for k in possible if hypergeom.sf(found - 1, population, k, drawn) >= 0.025)
    assert most_errors(population, drawn, found) == high
    assert fewest_errors(population, drawn, found) == low


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        wrong = random.random(2000) < 0.03
        sample = random.random(2000) < 0.1
        found = int((wrong & sample).sum())
        result = estimate(
            Tally(right=50, wrong=50), Tally(int(sample.sum()) - found, found), int((~sample).sum())
        )
        left = (wrong & ~sample).sum() / (~sample).sum()
        accuracy = (50 + (~wrong).sum()) / 2100
        held += (
            result.unreviewed_errors.low <= left <= result.unreviewed_errors.high
            and result.model_accuracy.low <= accuracy <= result.model_accuracy.high
        )
    assert held >= 380


def test_corrections_raise_the_data_sets_accuracy_above_the_models() -> None:
    result = estimate(Tally(right=60, wrong=40), Tally(right=95, wrong=5), 900)
    assert result.model_accuracy.value == pytest.approx((60 + 95 + 900 * 0.95) / 1100)
    assert result.corrected_accuracy.value == pytest.approx((200 + 900 * 0.95) / 1100)
    assert result.corrected_accuracy.low > result.model_accuracy.low


def test_without_a_sample_nothing_is_known_of_the_rest() -> None:
    result = estimate(Tally(right=60, wrong=40), Tally(), 900)
    assert (result.unreviewed_errors.low, result.unreviewed_errors.high) == (0.0, 1.0)
    assert result.model_accuracy.low == pytest.approx(0.06)
    found = (result.model_accuracy, result.corrected_accuracy, result.unreviewed_errors)
    assert [each.value for each in found] == [None] * 3
    undecided = estimate(Tally(right=60, wrong=40), Tally(undecided=50), 900)
    assert undecided.unreviewed_errors.value is None


def test_an_undecided_item_counts_against_the_model_and_for_it_at_the_two_ends() -> None:
    certain = estimate(Tally(right=90, wrong=10), Tally(), 0)
    torn = estimate(Tally(right=90, wrong=10, undecided=10), Tally(), 0)
    assert certain.model_accuracy.low == certain.model_accuracy.high == pytest.approx(0.9)
    assert torn.model_accuracy.low == pytest.approx(90 / 110)
    assert torn.model_accuracy.high == pytest.approx(100 / 110)
    sampled = estimate(Tally(), Tally(right=90, wrong=0, undecided=10), 900)
    as_wrong = estimate(Tally(), Tally(right=90, wrong=10), 900)
    assert sampled.unreviewed_errors.high == as_wrong.unreviewed_errors.high


def test_everything_reviewed_leaves_no_doubt() -> None:
    result = estimate(Tally(right=3, wrong=1), Tally(), 0)
    assert result.unreviewed_errors.high == 0.0
    assert result.corrected_accuracy.low == result.corrected_accuracy.high == 1.0


def test_no_items_are_refused() -> None:
    with pytest.raises(ReviewError, match="no items"):
        estimate(Tally(), Tally(), 0)
