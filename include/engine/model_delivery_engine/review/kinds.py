"""Answers counted by kinds of items, in memory that goes by the answers and not by their labels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.review.answers import Answer
from model_delivery_engine.tensors import Array


@dataclass(frozen=True)
class Kinds:
    """Items, of which those with the same answers are one kind.

    Cells are how often a kind has a label, where it has it: in the labels' order, each label's from
    its place in `starts`.

    :param times: items of each kind
    :param sizes: answers of each kind's item
    """

    labels: Sequence[str]
    times: Array
    sizes: Array
    kind: Array
    count: Array
    starts: Array

    @property
    def items(self) -> int:
        """How many there are."""
        return int(self.times.sum())

    @property
    def agreeing(self) -> Array:
        """Ordered pairs of equal answers of each kind's item."""
        pairs: Array = np.bincount(
            self.kind, self.count * (self.count - 1.0), minlength=len(self.times)
        )
        return pairs

    @property
    def pairs(self) -> Array:
        """Ordered pairs of answers of each kind's item."""
        pairs: Array = self.sizes * (self.sizes - 1.0)
        return pairs

    def by_label(self, cells: Array) -> Array:
        """Sum the last axis, one value a cell, to one value a label."""
        sums: Array = np.add.reduceat(cells, self.starts, axis=-1)
        return sums

    def given(self, weights: Array) -> Array:
        """Return how often each label was given, where kinds come so often (a row a resample)."""
        return self.by_label(weights[..., self.kind] * self.count)


def kinds_of(answered: Iterable[Sequence[Answer]]) -> Kinds:
    """Count the answers of each item, of which there are one or more."""
    votes_of = Counter(
        tuple(sorted(Counter(answer.label for answer in answers).items())) for answers in answered
    )
    kinds = sorted(votes_of)  # whatever the order of the items, resamples are the same
    cells = sorted((label, n, count) for n, kind in enumerate(kinds) for label, count in kind)
    first: dict[str, int] = {}
    for place, (label, _n, _count) in enumerate(cells):
        first.setdefault(label, place)
    return Kinds(
        list(first),
        np.array([votes_of[kind] for kind in kinds], float),
        np.array([sum(count for _label, count in kind) for kind in kinds], float),
        np.array([n for _label, n, _count in cells], int),
        np.array([count for _label, _n, count in cells], float),
        np.array(list(first.values()), int),
    )
