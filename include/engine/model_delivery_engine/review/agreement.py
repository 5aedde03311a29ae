"""How far reviewers agree, beyond what chance alone would give.

Sources: Cohen 1960 with the large-sample variance of Fleiss, Cohen and Everitt 1969; Fleiss 1971;
Krippendorff, Content Analysis (nominal alpha); Efron's percentile bootstrap over items.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.review.answers import Answer, classes
from model_delivery_engine.tensors import Array

_Z95 = 1.959963984540054
_RESAMPLES = 1000
_SEED = 20_260_101
_ROWS_AT_A_TIME = 2_000_000

Items = Mapping[str, Sequence[Answer]]
# Takes how often each kind of item was drawn (one row a resample), returns a value for each row.
Statistic = Callable[[Array], Array]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairAgreement:
    """Two reviewers over the items that both answered."""

    reviewers: tuple[str, str]
    items: int
    percent: float
    kappa: Interval | None


@dataclass(frozen=True)
class Agreement:
    """Agreement over the items with at least two answers; a figure is None where it is undefined.

    Kappa and alpha are undefined where everybody gave one label only: chance explains it all.

    :param items: with at least two answers
    :param percent: share of the pairs of answers to an item that are equal, 0 to 1
    :param fleiss: over the items with the commonest number of answers, ``fleiss_items`` of them
    :param alpha: Krippendorff's, nominal
    :param by_class: share of agreement among the pairs of answers in which a class occurs
    """

    items: int
    percent: Interval | None
    pairs: Sequence[PairAgreement]
    fleiss: Interval | None
    fleiss_items: int
    alpha: Interval | None
    by_class: Mapping[str, float]


def agreement(items: Items) -> Agreement:
    """Measure the agreement of all answers.

    :param items: answers of each item, each reviewer's once
    """
    labels = classes(items)
    shared = [answers for answers in items.values() if len(answers) > 1]
    counts = _counts(shared, labels)
    sizes = counts.sum(axis=1)
    commonest = Counter(sizes.tolist()).most_common(1)[0][0] if shared else 0
    equal_sized = counts[sizes == commonest]
    return Agreement(
        items=len(shared),
        percent=_bootstrap(_percent, counts),
        pairs=_pairs(items, labels),
        fleiss=_bootstrap(_fleiss, equal_sized),
        fleiss_items=len(equal_sized),
        alpha=_bootstrap(_alpha, counts),
        by_class=_by_class(counts, labels),
    )


def cohen_kappa(table: Array) -> Interval | None:
    """Return Cohen's kappa of a table of counts, one reviewer's labels by the other's.

    The interval is the large-sample one of Fleiss, Cohen and Everitt.
    """
    total = table.sum()
    share = table / total
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    observed, expected = float(np.trace(share)), float(rows @ columns)
    if expected >= 1.0:
        return None
    kappa = (observed - expected) / (1.0 - expected)
    # Each cell's part in the variance; the diagonal's differs.
    off = share * (columns[:, None] + rows[None, :]) ** 2
    diagonal = np.diag(share) * (1.0 - (rows + columns) * (1.0 - kappa)) ** 2
    spread = (1.0 - kappa) ** 2 * (off.sum() - np.trace(off))
    centre = (kappa - expected * (1.0 - kappa)) ** 2
    variance = float(diagonal.sum() + spread - centre) / ((1.0 - expected) ** 2 * total)
    half = _Z95 * math.sqrt(max(variance, 0.0))
    return Interval(kappa, kappa - half, kappa + half)


def _counts(answered: Sequence[Sequence[Answer]], labels: Sequence[str]) -> Array:
    """Return how often each item got each label."""
    column = {label: n for n, label in enumerate(labels)}
    counts = np.zeros((len(answered), len(labels)))
    for row, answers in enumerate(answered):
        for answer in answers:
            counts[row, column[answer.label]] += 1.0
    return counts


def _percent(counts: Array) -> Statistic:
    each = _agreeing(counts) / _pairs_of(counts)
    return lambda weights: (weights @ each) / weights.sum(axis=1)


def _fleiss(counts: Array) -> Statistic:
    each = _agreeing(counts) / _pairs_of(counts)

    def kappa(weights: Array) -> Array:
        drawn = weights @ counts
        shares = drawn / drawn.sum(axis=1, keepdims=True)
        expected = (shares**2).sum(axis=1)
        observed = (weights @ each) / weights.sum(axis=1)
        return _ratio(observed - expected, 1.0 - expected)

    return kappa


def _alpha(counts: Array) -> Statistic:
    sizes = counts.sum(axis=1)
    # Disagreeing ordered pairs of an item, each worth 1 / (answers - 1).
    each = (sizes**2 - (counts**2).sum(axis=1)) / (sizes - 1.0)

    def alpha(weights: Array) -> Array:
        drawn = weights @ counts
        total = drawn.sum(axis=1)
        expected = total**2 - (drawn**2).sum(axis=1)
        observed = weights @ each
        return 1.0 - _ratio((total - 1.0) * observed, expected)

    return alpha


def _agreeing(counts: Array) -> Array:
    agreeing: Array = (counts * (counts - 1.0)).sum(axis=1)
    return agreeing


def _pairs_of(counts: Array) -> Array:
    sizes = counts.sum(axis=1)
    pairs: Array = sizes * (sizes - 1.0)
    return pairs


def _ratio(above: Array, below: Array) -> Array:
    """Divide, with NaN for what is undefined."""
    safe = np.where(below > 1e-12, below, 1.0)
    ratio: Array = np.where(below > 1e-12, above / safe, np.nan)
    return ratio


def _bootstrap(statistic_of: Callable[[Array], Statistic], counts: Array) -> Interval | None:
    """Return a statistic with the percentile interval of resampled items; the seed is fixed.

    Items with the same answers are one kind. How often each kind comes among items that are drawn
    with replacement is multinomial, and there are few kinds, however many items.
    """
    if not len(counts):
        return None
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    statistic = statistic_of(kinds)
    value = float(statistic(times[np.newaxis].astype(float))[0])
    if math.isnan(value):
        return None
    random = np.random.default_rng(_SEED)
    at_a_time = max(1, min(_RESAMPLES, _ROWS_AT_A_TIME // len(kinds)))
    values: list[float] = []
    while len(values) < _RESAMPLES:
        weights = random.multinomial(len(counts), times / len(counts), size=at_a_time)
        values.extend(statistic(weights.astype(float)).tolist())
    # A resample of one label only says nothing; it is left out.
    defined = [each for each in values[:_RESAMPLES] if not math.isnan(each)]
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _pairs(items: Items, labels: Sequence[str]) -> list[PairAgreement]:
    column = {label: n for n, label in enumerate(labels)}
    tables: dict[tuple[str, str], Array] = {}
    for answers in items.values():
        ordered = sorted(answers, key=lambda answer: answer.reviewer)
        for first, second in itertools.combinations(ordered, 2):
            pair = (first.reviewer, second.reviewer)
            table = tables.setdefault(pair, np.zeros((len(labels), len(labels))))
            table[column[first.label], column[second.label]] += 1.0
    return [
        PairAgreement(pair, int(table.sum()), float(np.trace(table) / table.sum()),
                      cohen_kappa(table))
        for pair, table in sorted(tables.items())
    ]  # fmt: skip


def _by_class(counts: Array, labels: Sequence[str]) -> dict[str, float]:
    """Return each class's specific agreement: Dice's coefficient, for two reviewers."""
    if not len(counts):
        return {}
    others = counts.sum(axis=1, keepdims=True) - 1.0
    # Each pair weighs 1 / (answers - 1): an item counts by its answers, not by its pairs.
    agreeing = (counts * (counts - 1.0) / others).sum(axis=0)
    given = counts.sum(axis=0)
    return {label: float(agreeing[n] / given[n]) for n, label in enumerate(labels) if given[n]}
