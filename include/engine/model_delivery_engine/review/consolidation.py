"""One label out of several reviewers' answers, or none: an item is never decided by default."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.answers import Answer, votes
from model_delivery_engine.review.dawid_skene import dawid_skene, has_classes

_FEWEST_REVIEWERS = 3
# A label that is hardly more probable than another was not decided by anybody.
_LEAST_PROBABILITY = 0.9
Items = Mapping[str, Sequence[Answer]]


class Method(StrEnum):
    """How answers become one label."""

    MAJORITY = "majority"
    QUORUM = "quorum"
    DAWID_SKENE = "dawid-skene"
    ADJUDICATOR = "adjudicator"


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of an item's answers.

    :param label: None where the answers decide nothing
    :param support: share of the answers for the label, or its probability with Dawid and Skene
    :param votes: answers by their label; one without a label is in none
    :param method: by which it was decided
    """

    label: str | None
    support: float
    method: Method
    votes: Mapping[str, int]


def majority(answers: Sequence[Answer], blank: int = 0) -> Decision:
    """More than half of the answers decide.

    :param blank: how many answers more there are, which have no label (default: 0)
    """
    return _voted(answers, blank, Method.MAJORITY, lambda first, total: 2 * first > total)


def quorum(answers: Sequence[Answer], least: int, blank: int = 0) -> Decision:
    """So many equal answers decide, where no other label has as many.

    :param blank: how many answers more there are, which have no label (default: 0)
    """
    return _voted(answers, blank, Method.QUORUM, lambda first, _total: first >= least)


def adjudicated(answers: Sequence[Answer], ruling: Answer) -> Decision:
    """Decide by the adjudicator's answer, whatever the others said."""
    counts = votes(answers)
    support = counts.get(ruling.label, 0) / len(answers) if answers else 0.0
    return Decision(ruling.label, support, Method.ADJUDICATOR, counts)


def consolidate(
    items: Items,
    method: Method,
    *,
    quorum_size: int = 2,
    blank: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Decision]:
    """Decide every item.

    Dawid and Skene's label must be probable by 0.9; of fewer than three reviewers' answers their
    method decides only what they agree on. Where labels are too many to be classes, as free texts
    are, the majority decides instead.

    :param items: answers of each item, each reviewer's once
    :param quorum_size: equal answers that a quorum needs (default: 2)
    :param blank: how many reviewers answered an item without a label; they agree with nobody
        (default: none)
    :raises ReviewError: a method that needs an adjudicator's answers, a quorum under 1
    """
    reliable = any(items.values()) and has_classes(items)
    if method is Method.MAJORITY or (method is Method.DAWID_SKENE and not reliable):
        return {item: majority(given, blank.get(item, 0)) for item, given in items.items()}
    if method is Method.QUORUM:
        if quorum_size < 1:
            raise ReviewError(
                f"a quorum of {quorum_size} decides without an answer: give 1 or more"
            )
        return {
            item: quorum(given, quorum_size, blank.get(item, 0)) for item, given in items.items()
        }
    if method is Method.DAWID_SKENE:
        return _by_reliability(items, blank)
    raise ReviewError("an adjudicator rules on items that another method left undecided")


def open_items(items: Items, decisions: Mapping[str, Decision]) -> list[str]:
    """Return the items that one more reviewer should see: those that are not decided.

    This is adaptive overlap: a third opinion is paid for only where two differ.
    """
    return [item for item in items if decisions[item].label is None]


def _voted(
    answers: Sequence[Answer], blank: int, method: Method, enough: Callable[[int, int], bool]
) -> Decision:
    counts = votes(answers)
    ranking = [*counts.items()]
    if not ranking:
        return Decision(None, 0.0, method, counts)
    label, first = ranking[0]
    tied = len(ranking) > 1 and ranking[1][1] == first
    total = len(answers) + blank
    support = first / total
    if tied or not enough(first, total):
        return Decision(None, support, method, counts)
    return Decision(label, support, method, counts)


def _by_reliability(items: Items, blank: Mapping[str, int]) -> dict[str, Decision]:
    # An item without a label is as probable as its class is frequent: nobody said that of it.
    estimate = dawid_skene({item: given for item, given in items.items() if given})
    # Where two differ, each is as far from the other: only a third tells who errs more.
    tells = len(estimate.rates) >= _FEWEST_REVIEWERS
    decisions = {}
    for item, answers in items.items():
        if not answers:
            decisions[item] = Decision(None, 0.0, Method.DAWID_SKENE, {})
            continue
        label, probability = estimate.best(item)
        counts = votes(answers)
        agreed = len(counts) == 1 and not blank.get(item)
        sure = probability >= _LEAST_PROBABILITY and (tells or agreed)
        decided = label if sure else None
        decisions[item] = Decision(decided, probability, Method.DAWID_SKENE, counts)
    return decisions
