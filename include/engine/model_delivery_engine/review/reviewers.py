"""What each reviewer did: how much, how fast, and how often the decision bears them out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_delivery_engine.batch.evaluate import wilson_interval
from model_delivery_engine.review.agreement import Interval
from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.consolidation import Decision


@dataclass(frozen=True)
class ReviewerFigures:
    """One reviewer.

    :param answers: to all items
    :param borne_out: share of the answers that equal the decision, with Wilson's interval; None
        where none of the items was decided
    :param by_class: the same share, by the decision's label
    :param confusion: decision to answer to count
    :param median_seconds: time spent on an answer; None where it is not known
    """

    answers: int
    borne_out: Interval | None
    by_class: Mapping[str, float]
    confusion: Mapping[str, Mapping[str, int]]
    median_seconds: float | None


def reviewer_figures(
    items: Mapping[str, Sequence[Answer]], decisions: Mapping[str, Decision]
) -> dict[str, ReviewerFigures]:
    """Hold each reviewer's answers against the decisions, by reviewer in order."""
    given: dict[str, list[Answer]] = {}
    for answers in items.values():
        for answer in answers:
            given.setdefault(answer.reviewer, []).append(answer)
    return {who: _figures(given[who], decisions) for who in sorted(given)}


def _figures(answers: Sequence[Answer], decisions: Mapping[str, Decision]) -> ReviewerFigures:
    confusion: dict[str, dict[str, int]] = {}
    for answer in answers:
        label = decisions[answer.item].label
        if label is not None:
            row = confusion.setdefault(label, {})
            row[answer.label] = row.get(answer.label, 0) + 1
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    return ReviewerFigures(
        answers=len(answers),
        borne_out=_borne_out(confusion),
        by_class={
            label: row.get(label, 0) / sum(row.values()) for label, row in sorted(confusion.items())
        },
        confusion=confusion,
        median_seconds=statistics.median(seconds) if seconds else None,
    )


def _borne_out(confusion: Mapping[str, Mapping[str, int]]) -> Interval | None:
    decided = sum(sum(row.values()) for row in confusion.values())
    if not decided:
        return None
    right = sum(row.get(label, 0) for label, row in confusion.items())
    return Interval(right / decided, *wilson_interval(right, decided))
