"""Interactions of users with items, as Personalize's dataset has them, and what is held out."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import Array

COLUMNS = ("USER_ID", "ITEM_ID", "EVENT_VALUE", "TIMESTAMP")
FEWEST = 5  # interactions of a user from which on some are held out


@dataclass(frozen=True)
class Split:
    """Interactions to train on, and those held out of each user's newest.

    :param users: ids, in the order of first appearance
    :param items: ids, likewise
    :param train: [interactions, 2]: indices of user and item
    :param held_out: items by user: indices
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    train: Array
    held_out: dict[int, tuple[int, ...]]

    def seen(self) -> dict[int, set[int]]:
        """Return the items of each user that are trained on."""
        found: dict[int, set[int]] = defaultdict(set)
        for user, item in self.train.tolist():
            found[user].add(item)
        return found


def read_split(lines: Iterable[str], *, least_value: float, share: float) -> Split:
    """Read a CSV of USER_ID, ITEM_ID, EVENT_VALUE, TIMESTAMP and hold out the newest.

    :param least_value: EVENT_VALUE from which on an interaction says that the user likes the item;
        all users and items are known to the model, also those of lesser values
    :param share: part of each user's liked items that is held out, 0 to 1; of fewer than 5, none
    :raises BatchError: a column that is missing, a value that is no number; names the line
    """
    rows = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise BatchError(f"the interactions have no column {missing[0]}; they need {COLUMNS}")
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    liked: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        user = users.setdefault(row["USER_ID"], len(users))
        item = items.setdefault(row["ITEM_ID"], len(items))
        try:
            value, at = float(row["EVENT_VALUE"]), float(row["TIMESTAMP"])
        except (TypeError, ValueError) as error:
            raise BatchError(f"line {rows.line_num} of the interactions: {error}") from error
        if value >= least_value:
            liked[user].append((at, item))
    train: list[tuple[int, int]] = []
    held_out: dict[int, tuple[int, ...]] = {}
    for user, events in sorted(liked.items()):
        chosen = [item for _, item in sorted(events)]
        count = int(len(chosen) * share) if len(chosen) >= FEWEST else 0
        kept = chosen[: len(chosen) - count]
        train += [(user, item) for item in kept]
        new = tuple(item for item in chosen[len(kept) :] if item not in kept)
        if new:
            held_out[user] = new
    if not train:
        raise BatchError(f"no interaction has an EVENT_VALUE of {least_value} or more")
    return Split(tuple(users), tuple(items), np.array(train, np.int64), held_out)
