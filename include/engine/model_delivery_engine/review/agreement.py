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

from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.kinds import Kinds, kinds_of
from model_delivery_engine.tensors import Array

_Z95 = 1.959963984540054
_RESAMPLES = 1000
_SEED = 20_260_101
_CELLS_AT_A_TIME = 2_000_000

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

    Memory goes by the answers, not by the labels: a form's texts may all be different.

    :param items: answers of each item, each reviewer's once
    """
    shared = [answers for answers in items.values() if len(answers) > 1]
    commonest = Counter(map(len, shared)).most_common(1)[0][0] if shared else 0
    kinds = kinds_of(shared)
    equal_sized = kinds_of(answers for answers in shared if len(answers) == commonest)
    return Agreement(
        items=kinds.items,
        percent=_bootstrap(_percent, kinds),
        pairs=_pairs(items),
        fleiss=_bootstrap(_fleiss, equal_sized),
        fleiss_items=equal_sized.items,
        alpha=_bootstrap(_alpha, kinds),
        by_class=_by_class(kinds),
    )


def cohen_kappa(table: Mapping[tuple[str, str], int]) -> Interval | None:
    """Return Cohen's kappa of how often two reviewers gave each pair of labels.

    The interval is the large-sample one of Fleiss, Cohen and Everitt: its sums have a part for each
    cell of the table, and nought for those that are not there.
    """
    total = sum(table.values())
    rows, columns = Counter[str](), Counter[str]()
    for (first, second), count in table.items():
        rows[first] += count
        columns[second] += count
    observed = sum(count for (first, second), count in table.items() if first == second) / total
    expected = sum(count * columns[label] for label, count in rows.items()) / total**2
    if expected >= 1.0:
        return None
    kappa = (observed - expected) / (1.0 - expected)
    spread = 0.0
    for (first, second), count in table.items():
        margins = (columns[first] + rows[second]) / total
        if first == second:
            spread += count / total * (1.0 - margins * (1.0 - kappa)) ** 2
        else:
            spread += count / total * (margins * (1.0 - kappa)) ** 2
    centre = (kappa - expected * (1.0 - kappa)) ** 2
    variance = (spread - centre) / ((1.0 - expected) ** 2 * total)
    half = _Z95 * math.sqrt(max(variance, 0.0))
    return Interval(kappa, kappa - half, kappa + half)


def _percent(kinds: Kinds) -> Statistic:
    each = kinds.agreeing / kinds.pairs
    return lambda weights: (weights @ each) / weights.sum(axis=1)


def _fleiss(kinds: Kinds) -> Statistic:
    each = kinds.agreeing / kinds.pairs

    def kappa(weights: Array) -> Array:
        given = kinds.given(weights)
        expected = (given**2).sum(axis=1) / given.sum(axis=1) ** 2
        observed = (weights @ each) / weights.sum(axis=1)
        return _ratio(observed - expected, 1.0 - expected)

    return kappa


def _alpha(kinds: Kinds) -> Statistic:
    # Disagreeing ordered pairs of an item, each worth 1 / (answers - 1).
    each = (kinds.pairs - kinds.agreeing) / (kinds.sizes - 1.0)

    def alpha(weights: Array) -> Array:
        given = kinds.given(weights)
        total = given.sum(axis=1)
        expected = total**2 - (given**2).sum(axis=1)
        observed = weights @ each
        return 1.0 - _ratio((total - 1.0) * observed, expected)

    return alpha


def _ratio(above: Array, below: Array) -> Array:
    """Divide, with NaN for what is undefined."""
    safe = np.where(below > 1e-12, below, 1.0)
    ratio: Array = np.where(below > 1e-12, above / safe, np.nan)
    return ratio


def _bootstrap(statistic_of: Callable[[Kinds], Statistic], kinds: Kinds) -> Interval | None:
    """Return a statistic with the percentile interval of resampled items; the seed is fixed.

    How often each kind comes among items that are drawn with replacement is multinomial, and there
    are few kinds of few labels, however many items.
    """
    if not kinds.items:
        return None
    statistic = statistic_of(kinds)
    value = float(statistic(kinds.times[np.newaxis])[0])
    if math.isnan(value):
        return None
    random = np.random.default_rng(_SEED)
    at_a_time = max(1, min(_RESAMPLES, _CELLS_AT_A_TIME // len(kinds.kind)))
    values: list[float] = []
    while len(values) < _RESAMPLES:
        weights = random.multinomial(kinds.items, kinds.times / kinds.items, size=at_a_time)
        values.extend(statistic(weights.astype(float)).tolist())
    # A resample of one label only says nothing; it is left out.
    defined = [each for each in values[:_RESAMPLES] if not math.isnan(each)]
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _pairs(items: Items) -> list[PairAgreement]:
    tables: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for answers in items.values():
        ordered = sorted(answers, key=lambda answer: answer.reviewer)
        for first, second in itertools.combinations(ordered, 2):
            table = tables.setdefault((first.reviewer, second.reviewer), Counter())
            table[first.label, second.label] += 1
    return [_pair(reviewers, table) for reviewers, table in sorted(tables.items())]


def _pair(reviewers: tuple[str, str], table: Mapping[tuple[str, str], int]) -> PairAgreement:
    items = sum(table.values())
    equal = sum(count for (first, second), count in table.items() if first == second)
    return PairAgreement(reviewers, items, equal / items, cohen_kappa(table))


def _by_class(kinds: Kinds) -> dict[str, float]:
    """Return each class's specific agreement: Dice's coefficient, for two reviewers."""
    if not kinds.items:
        return {}
    given = kinds.times[kinds.kind] * kinds.count
    # Each pair weighs 1 / (answers - 1): an item counts by its answers, not by its pairs.
    agreeing = given * (kinds.count - 1.0) / (kinds.sizes[kinds.kind] - 1.0)
    shares = kinds.by_label(agreeing) / kinds.by_label(given)
    return dict(zip(kinds.labels, shares.tolist(), strict=True))
