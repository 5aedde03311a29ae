"""How good recommendations are: precision at k against what was held out, and coverage."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.errors import BatchError

KS = (1, 5, 10, 20)
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Quality:
    """Of the users that something was held out of.

    :param users: how many
    :param precision: by k: hits among the first k, a part of k, averaged over the users
    :param half_width: by k: half of that average's 95 % interval
    :param baseline: by k: precision of recommending the most popular items to everybody
    :param recall: by k: hits among the first k, a part of what was held out
    :param coverage: by k: part of the catalogue that is recommended to anybody
    :param popularity: how often each item is among the first 10, in descending order
    :param errors: records that had no answer
    """

    users: int
    items: int
    precision: dict[int, float]
    half_width: dict[int, float]
    baseline: dict[int, float]
    recall: dict[int, float]
    coverage: dict[int, float]
    popularity: tuple[int, ...]
    errors: int


def judge(
    records: Iterable[Mapping[str, Any]],
    *,
    seen: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    items: int,
) -> Quality:
    """Compare a batch's answers with what was held out.

    What a user was seen to like already is dropped from the answer first: the service recommends it
    again, and it is no discovery.

    :param records: lines of results, parsed, with ``userId`` in ``input``
    :param seen: items trained on, by user
    :param held_out: items held out, by user
    :param items: size of the catalogue
    :raises BatchError: no user with held-out items was answered
    """
    hits: dict[int, list[float]] = {k: [] for k in KS}
    recalls: dict[int, list[float]] = {k: [] for k in KS}
    base: dict[int, list[float]] = {k: [] for k in KS}
    shown: dict[int, set[str]] = {k: set() for k in KS}
    counts: Counter[str] = Counter()
    popular = [item for item, _ in Counter(i for each in seen.values() for i in each).most_common()]
    errors = 0
    for record in records:
        if record["error"] is not None:  # the service gives such a record an empty list
            errors += 1
            continue
        user = record["input"]["userId"]
        known, wanted = set(seen.get(user, ())), set(held_out.get(user, ()))
        new = [item for item in record["output"]["recommendedItems"] if item not in known]
        counts.update(new[:10])
        usual = [item for item in popular[: len(known) + KS[-1]] if item not in known]
        for k in KS:
            shown[k].update(new[:k])
            if wanted:
                found = len(wanted.intersection(new[:k]))
                hits[k].append(found / k)
                recalls[k].append(found / len(wanted))
                base[k].append(len(wanted.intersection(usual[:k])) / k)
    users = len(hits[KS[0]])
    if not users:
        raise BatchError("no user with held-out items was answered; read the error lines")
    return Quality(
        users=users,
        items=items,
        precision={k: _mean(hits[k]) for k in KS},
        half_width={k: _half_width(hits[k]) for k in KS},
        baseline={k: _mean(base[k]) for k in KS},
        recall={k: _mean(recalls[k]) for k in KS},
        coverage={k: len(shown[k]) / items for k in KS},
        popularity=tuple(count for _, count in counts.most_common()),
        errors=errors,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _half_width(values: Sequence[float]) -> float:
    mean = _mean(values)
    variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return _Z95 * math.sqrt(variance / len(values))
