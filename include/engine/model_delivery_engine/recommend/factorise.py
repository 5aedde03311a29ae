"""Matrix factorisation of implicit feedback by alternating least squares.

Source: Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
2008.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.recommend.interactions import Split
from model_delivery_engine.tensors import Array


@dataclass(frozen=True)
class Settings:
    """How factors are trained; the same settings and interactions give the same factors.

    :param factors: length of a factor (default: 64)
    :param rounds: alternations (default: 12)
    :param confidence: weight of an interaction over none at all (default: 8)
    :param penalty: regularisation (default: 20)
    """

    factors: int = 64
    rounds: int = 12
    confidence: float = 8.0
    penalty: float = 20.0
    seed: int = 7


def factorise(split: Split, settings: Settings) -> tuple[Array, Array]:
    """Return the factors of users and of items, a row each."""
    random = np.random.default_rng(settings.seed)
    users = random.normal(0, 0.1, (len(split.users), settings.factors))
    items = random.normal(0, 0.1, (len(split.items), settings.factors))
    by_user = _grouped(split.train[:, 0], split.train[:, 1], len(split.users))
    by_item = _grouped(split.train[:, 1], split.train[:, 0], len(split.items))
    for _ in range(settings.rounds):
        _solve(users, items, by_user, settings)
        _solve(items, users, by_item, settings)
    return users.astype(np.float32), items.astype(np.float32)


def _grouped(keys: Array, values: Array, count: int) -> list[Array]:
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(count + 1))
    ordered = values[order]
    return [ordered[a:b] for a, b in itertools.pairwise(bounds.tolist())]


def _solve(wanted: Array, given: Array, groups: list[Array], settings: Settings) -> None:
    """Replace each row of ``wanted`` by the best one for the rows of ``given`` it goes with."""
    gram = given.T @ given + settings.penalty * np.eye(settings.factors)
    for row, group in enumerate(groups):
        if not len(group):
            wanted[row] = 0
            continue
        near = given[group]
        left = gram + settings.confidence * (near.T @ near)
        wanted[row] = np.linalg.solve(left, (1 + settings.confidence) * near.sum(axis=0))
