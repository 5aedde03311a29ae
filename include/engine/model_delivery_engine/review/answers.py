"""Reviewers' answers, and the rule that each reviewer counts once for an item."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Member of a human loop's input: ids of workers who have answered the item in another loop.
EXCLUDED_WORKERS = "excludedWorkers"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one reviewer said of one item.

    :param seconds: time spent on it, where it is known
    """

    item: str
    reviewer: str
    label: str
    seconds: float | None = None


def by_item(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Return the answers of each item, in order; of a reviewer's several only the first.

    A reviewer who meets an item again, in another loop, gives no independent second opinion.
    """
    items: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        items.setdefault(answer.item, {}).setdefault(answer.reviewer, answer)
    return {item: list(given.values()) for item, given in items.items()}


def votes(answers: Iterable[Answer]) -> dict[str, int]:
    """Return how many reviewers chose each label, most first."""
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.label] = counts.get(answer.label, 0) + 1
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def classes(items: Mapping[str, Iterable[Answer]]) -> list[str]:
    """Return every label that was given, in order."""
    return sorted({answer.label for given in items.values() for answer in given})
