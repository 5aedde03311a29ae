"""Labels by reviewers' reliability, which is learnt from the answers alone.

Source: A. P. Dawid, A. M. Skene: Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm. Applied Statistics 28 (1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.answers import Answer, classes
from model_delivery_engine.tensors import Array

_ROUNDS = 200
_CLOSE = 1e-8
# A rate of nought would forbid for ever what nobody has answered yet.
_SMALLEST = 1e-10
# Of one array, 8 bytes each: 128 MiB, of which there are about four at a time.
_MOST_CELLS = 2**24


@dataclass(frozen=True)
class Reliability:
    """What the answers say of the items and of who gave them.

    :param labels: the classes, in the order of the arrays
    :param probabilities: of each class, for each item
    :param prior: how frequent each class is
    :param rates: by reviewer: probability of the answer (column) given the true class (row)
    """

    labels: Sequence[str]
    items: Mapping[str, int]
    probabilities: Array
    prior: Array
    rates: Mapping[str, Array]

    def best(self, item: str) -> tuple[str, float]:
        """Return an item's most probable class, and how probable it is."""
        row = self.probabilities[self.items[item]]
        place = int(np.argmax(row))
        return self.labels[place], float(row[place])


def has_classes(items: Mapping[str, Sequence[Answer]]) -> bool:
    """Tell whether the labels are few enough for what is learnt of them to be held in memory.

    A class of each reviewer's rates costs as many cells as there are classes, and one of the
    items' probabilities as many as there are items; up to 2^24 cells each. Free texts, of which
    nearly each is a label of its own, are no classes.
    """
    labels = len(classes(items))
    reviewers = len({answer.reviewer for given in items.values() for answer in given})
    return labels * max(reviewers * labels, len(items)) <= _MOST_CELLS


def dawid_skene(items: Mapping[str, Sequence[Answer]]) -> Reliability:
    """Estimate classes and reliabilities in turns until neither changes.

    Memory is by the square of the labels: `has_classes` tells whether it is bearable.

    :param items: answers of each item, each reviewer's once
    :raises ReviewError: there are no answers
    """
    places = {item: n for n, item in enumerate(items)}
    labels = classes(items)
    given = [answer for answers in items.values() for answer in answers]
    if not given:
        raise ReviewError("there are no answers to consolidate")
    reviewers = sorted({answer.reviewer for answer in given})
    number = {reviewer: n for n, reviewer in enumerate(reviewers)}
    column = {label: n for n, label in enumerate(labels)}
    item = np.array([places[answer.item] for answer in given])
    who = np.array([number[answer.reviewer] for answer in given])
    said = np.array([column[answer.label] for answer in given])

    truth = np.zeros((len(places), len(labels)))
    np.add.at(truth, (item, said), 1.0)
    truth /= np.maximum(truth.sum(axis=1, keepdims=True), 1.0)
    for _ in range(_ROUNDS):
        prior = truth.mean(axis=0)
        rates = _rates(truth, item, who, said, len(reviewers))
        before, truth = truth, _truth(prior, rates, item, who, said, len(places))
        if np.abs(truth - before).max() < _CLOSE:
            break
    by_reviewer = {each: rates[number[each]].T for each in reviewers}
    return Reliability(labels, places, truth, prior, by_reviewer)


def _rates(truth: Array, item: Array, who: Array, said: Array, reviewers: int) -> Array:
    """Return, by reviewer and answer, how probable the answer is given each true class."""
    rates = np.zeros((reviewers, truth.shape[1], truth.shape[1]))
    np.add.at(rates, (who, said), truth[item])
    rates += _SMALLEST
    rates /= rates.sum(axis=1, keepdims=True)
    return rates


def _truth(prior: Array, rates: Array, item: Array, who: Array, said: Array, items: int) -> Array:
    weight = np.tile(np.log(prior + _SMALLEST), (items, 1))
    np.add.at(weight, item, np.log(rates[who, said]))
    weight -= weight.max(axis=1, keepdims=True)
    truth: Array = np.exp(weight)
    truth /= truth.sum(axis=1, keepdims=True)
    return truth
