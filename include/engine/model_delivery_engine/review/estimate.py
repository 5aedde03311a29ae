"""What reviews say of all answers, the unreviewed ones included.

The items fall into those that a condition picked, all of them reviewed, and the others, of which a
random sample was reviewed. What the sample shows of the others holds for them within exact bounds
of the hypergeometric distribution: of a finite number of items, some drawn without replacement.
A decided label is taken for the truth.
"""

import math
from dataclasses import dataclass

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.agreement import Interval

_TAIL = 0.025


@dataclass
class Tally:
    """Reviewed items: the model's answer was right, was wrong, or nobody could tell."""

    right: int = 0
    wrong: int = 0
    undecided: int = 0

    @property
    def decided(self) -> int:
        """Items with a label."""
        return self.right + self.wrong

    @property
    def total(self) -> int:
        """All of them."""
        return self.decided + self.undecided


@dataclass(frozen=True)
class Estimate:
    """What is known of all items, with 95 % intervals.

    An undecided item counts as wrong in an interval's lower end and as right in its upper end.

    :param model_accuracy: of the model's answers
    :param corrected_accuracy: of the data set in which each wrong answer found is corrected
    :param unreviewed_errors: share of wrong answers among what was not reviewed; from 0 to 1 where
        no random sample was reviewed
    """

    items: int
    reviewed: int
    model_accuracy: Interval
    corrected_accuracy: Interval
    unreviewed_errors: Interval


def estimate(picked: Tally, sampled: Tally, unreviewed: int) -> Estimate:
    """Estimate from the items that conditions picked, those only sampled, and how many remain.

    :raises ReviewError: there are no items
    """
    reviewed = picked.total + sampled.total
    items = reviewed + unreviewed
    if not items:
        raise ReviewError("there are no items to estimate anything of")
    least, most = _wrong_left(sampled, unreviewed)
    share = sampled.wrong / sampled.decided if sampled.decided else 0.5 * (unreviewed > 0)
    undecided = picked.undecided + sampled.undecided
    right = picked.right + sampled.right
    decided = picked.decided + sampled.decided
    likely = unreviewed * (1.0 - share)
    return Estimate(
        items=items,
        reviewed=reviewed,
        model_accuracy=_of(items, right, likely, unreviewed, least, most, undecided),
        corrected_accuracy=_of(items, decided, likely, unreviewed, least, most, undecided),
        unreviewed_errors=Interval(
            share if unreviewed else 0.0,
            least / unreviewed if unreviewed else 0.0,
            most / unreviewed if unreviewed else 0.0,
        ),
    )


def _of(
    items: int, good: int, likely: float, unreviewed: int, least: int, most: int, undecided: int
) -> Interval:
    known = items - undecided
    value = (good + likely) / known if known else 0.0
    low = (good + unreviewed - most) / items
    high = (good + unreviewed - least + undecided) / items
    return Interval(value, low, high)


def _wrong_left(sampled: Tally, unreviewed: int) -> tuple[int, int]:
    """Return the fewest and the most wrong answers that may be among the unreviewed."""
    if not sampled.total or not unreviewed:
        return 0, unreviewed
    population = sampled.total + unreviewed
    low = fewest_errors(population, sampled.total, sampled.wrong)
    high = most_errors(population, sampled.total, sampled.wrong + sampled.undecided)
    found = sampled.wrong + sampled.undecided
    return max(0, low - sampled.wrong), min(unreviewed, high - found)


def most_errors(population: int, drawn: int, found: int, tail: float = _TAIL) -> int:
    """Return the most errors a population may hold of which so many were found.

    With more, so few would be found with a probability under ``tail``.
    """
    low, high = found, population - (drawn - found)
    while low < high:
        middle = (low + high + 1) // 2
        if _at_most(population, middle, drawn, found) >= tail:
            low = middle
        else:
            high = middle - 1
    return low


def fewest_errors(population: int, drawn: int, found: int, tail: float = _TAIL) -> int:
    """Return the fewest errors a population may hold of which so many were found."""
    # The right ones are as many at most as errors could be, were they counted instead.
    return population - most_errors(population, drawn, drawn - found, tail)


def _at_most(population: int, errors: int, drawn: int, found: int) -> float:
    """Return the probability of finding at most so many errors (hypergeometric)."""
    first = max(0, drawn - (population - errors))
    whole = _log_choose(population, drawn)
    logs = (
        _log_choose(errors, k) + _log_choose(population - errors, drawn - k) - whole
        for k in range(first, min(found, errors, drawn) + 1)
    )
    return math.fsum(map(math.exp, logs))


def _log_choose(whole: int, part: int) -> float:
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)
