"""The reviewed data set, and what the reviews say of the model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_delivery_engine.review.agreement import agreement
from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.consolidation import Decision
from model_delivery_engine.review.estimate import Estimate, Tally, estimate
from model_delivery_engine.review.outputs import field_of, keyed, unit, unsaid
from model_delivery_engine.review.reviewers import reviewer_figures
from model_delivery_engine.review.selection import LABEL, SelectionCounts

CONFIRMED, CORRECTED, UNDECIDED = "confirmed", "corrected", "undecided"


@dataclass(frozen=True)
class ReviewedItem:
    """An item that was chosen for review.

    :param place: of its record among the results, from 0
    :param model_answer: by field
    :param sampled: whether only random sampling chose it
    :param whole: whether reviewers were shown all that the model says of it
    """

    place: int
    identity: str
    model_answer: Mapping[str, str]
    sampled: bool
    whole: bool = True


@dataclass(frozen=True)
class Outcome:
    """What reviewers made of an item.

    :param status: confirmed, corrected or undecided
    :param answer: by field: the decided label; None where it is not decided
    """

    status: str
    answer: Mapping[str, str | None]
    support: float
    methods: Sequence[str]

    def written(self) -> dict[str, Any]:
        """Return what a line of the reviewed data set says under ``review``.

        ``keys`` are those that reviewers changed, by the name that was read.
        """
        values = {field: label for field, label in self.answer.items() if keyed(field) is None}
        keys = {
            name: label
            for field, label in self.answer.items()
            for name, key in filter(None, [keyed(field)])
            if label != key
        }
        return {
            "status": self.status,
            "label": values[LABEL] if set(values) == {LABEL} else values,
            **({"keys": keys} if keys else {}),
            "support": round(self.support, 6),
            "methods": list(self.methods),
        }


def outcome(item: ReviewedItem, decisions: Mapping[str, Decision], asked: Iterable[str]) -> Outcome:
    """Hold the decisions on an item's fields against the model's answer.

    :param asked: the fields that reviewers answered
    """
    fields = sorted(set(asked)) or sorted(item.model_answer) or [LABEL]
    decided = {field: decisions.get(unit(item.identity, field)) for field in fields}
    answer = {field: found.label if found else None for field, found in decided.items()}
    known = [each for each in decided.values() if each is not None]
    if any(label is None for label in answer.values()):
        status = UNDECIDED
    elif all(item.model_answer.get(each, unsaid(each)) == label for each, label in answer.items()):
        status = CONFIRMED
    else:
        status = CORRECTED
    support = min((each.support for each in known), default=0.0)
    return Outcome(status, answer, support, sorted({each.method.value for each in known}))


def reviewed_lines(
    records: Iterable[Mapping[str, Any]], outcomes: Mapping[int, Outcome]
) -> Iterator[dict[str, Any]]:
    """Yield every line of the results with what reviewers made of it; None where nobody looked.

    :param outcomes: by the record's place among all: an identity may come again where nobody looked
    """
    for place, record in enumerate(records):
        found = outcomes.get(place)
        yield {**record, "review": found.written() if found else None}


def estimate_of(
    items: Iterable[ReviewedItem], outcomes: Mapping[str, Outcome], counts: SelectionCounts
) -> Estimate:
    """Estimate what the reviews say of all results."""
    picked, sampled = Tally(), Tally()
    for item in items:
        tally = sampled if item.sampled else picked
        status = outcomes[item.identity].status
        # What was confirmed of a part says nothing of the rest, which nobody saw.
        tally.right += status == CONFIRMED and item.whole
        tally.wrong += status == CORRECTED
        tally.undecided += status == UNDECIDED or (status == CONFIRMED and not item.whole)
        tally.in_part += status == CORRECTED and not item.whole
    return estimate(picked, sampled, counts.unreviewed)


def review_document(
    counts: SelectionCounts,
    outcomes: Mapping[str, Outcome],
    answers: Mapping[str, Sequence[Answer]],
    independent: Mapping[str, Sequence[Answer]],
    decisions: Mapping[str, Decision],
    found: Estimate,
) -> dict[str, Any]:
    """Return all figures of a review as JSON.

    :param answers: of each unit, by reviewers but for adjudicators
    :param independent: those of them that were asked for whatever others had answered, the first
        round's. Agreement is over these alone: who is asked only where two differed agrees with one
        of them as a rule, and where two agreed nobody is asked.
    """
    statuses = [each.status for each in outcomes.values()]
    return {
        "counts": {
            **asdict(counts),
            "unreviewed": counts.unreviewed,
            **{name: statuses.count(name) for name in (CONFIRMED, CORRECTED, UNDECIDED)},
            "answers": sum(map(len, answers.values())),
        },
        "estimate": asdict(found),
        "agreement": asdict(agreement(independent)),
        "reviewers": {
            who: asdict(figures) for who, figures in reviewer_figures(answers, decisions).items()
        },
        "disagreements": [
            {"item": item, "field": _named(field), "votes": dict(decision.votes)}
            for each, decision in decisions.items()
            if len(decision.votes) > 1
            for item, field in [field_of(each)]
        ],
    }


def _named(field: str) -> str:
    key = keyed(field)
    return f"{key[0]} (the key itself)" if key else field
