"""What reviews say of all answers, the unreviewed ones included.

The items fall into those that a condition picked, all of them reviewed, and the others, of which a
random sample was reviewed. What the sample shows of the others holds for them within exact bounds
of the hypergeometric distribution: of a finite number of items, some drawn without replacement.
A decided label is taken for the truth.
"""

import math
from dataclasses import dataclass

from model_delivery_engine.errors import ReviewError

_TAIL = 0.025


@dataclass
class Tally:
    """Reviewed items: the model's answer was right, was wrong, or nobody can tell.

    :param undecided: reviewers decided nothing, or were shown a part only and found nothing wrong
    :param in_part: of the wrong ones, those whose rest nobody was shown: it was not corrected
    """

    right: int = 0
    wrong: int = 0
    undecided: int = 0
    in_part: int = 0

    @property
    def decided(self) -> int:
        """Items with a label."""
        return self.right + self.wrong

    @property
    def total(self) -> int:
        """All of them."""
        return self.decided + self.undecided


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval; ``value`` is None where no sample tells of it."""

    value: float | None
    low: float
    high: float


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
    model_accuracy: Share
    corrected_accuracy: Share
    unreviewed_errors: Share


def estimate(picked: Tally, sampled: Tally, unreviewed: int) -> Estimate:
    """Estimate from the items that conditions picked, those only sampled, and how many remain.

    :raises ReviewError: there are no items
    """
    reviewed = picked.total + sampled.total
    items = reviewed + unreviewed
    if not items:
        raise ReviewError("there are no items to estimate anything of")
    errors = _errors_left(sampled, unreviewed)
    undecided = picked.undecided + sampled.undecided
    right = picked.right + sampled.right
    decided = picked.decided + sampled.decided
    in_part = picked.in_part + sampled.in_part
    return Estimate(
        items=items,
        reviewed=reviewed,
        model_accuracy=_of(right, undecided, items, unreviewed, errors),
        corrected_accuracy=_of(decided - in_part, undecided + in_part, items, unreviewed, errors),
        unreviewed_errors=errors,
    )


def _of(good: int, undecided: int, items: int, unreviewed: int, errors: Share) -> Share:
    """Return the share of good items among all."""
    known = items - undecided
    value = None
    if known and errors.value is not None:
        value = (good + unreviewed * (1.0 - errors.value)) / known
    low = (good + unreviewed * (1.0 - errors.high)) / items
    high = (good + unreviewed * (1.0 - errors.low) + undecided) / items
    return Share(value, low, high)


def _errors_left(sampled: Tally, unreviewed: int) -> Share:
    """Return the share of wrong answers among the unreviewed."""
    if not unreviewed:
        return Share(0.0, 0.0, 0.0)
    least, most = _wrong_left(sampled, unreviewed)
    value = sampled.wrong / sampled.decided if sampled.decided else None
    return Share(value, least / unreviewed, most / unreviewed)


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
