"""What the rounds of a review make of answers, beside what the engine decides."""

from typing import Any

from model_delivery.human_loops.review import Answers, Review, ReviewObjects
from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.consolidation import Method
from model_delivery_engine.review.outputs import unit
from model_delivery_engine.review.selection import ResultsLayout


def review() -> Review:
    nowhere: Any = None
    return Review(nowhere, ReviewObjects("s3://b/r"), "s3://b/x", ResultsLayout(),
                  Method.MAJORITY, 2)  # fmt: skip


def test_an_adjudicator_rules_on_what_is_open_and_not_on_what_others_agreed_on() -> None:
    name, total = unit("a", "Name"), unit("a", "Sum")
    given = [
        Answer(name, "ann", "Sue"), Answer(name, "bob", "Susan"),
        Answer(total, "ann", "100"), Answer(total, "bob", "100"),
    ]  # fmt: skip
    # They were shown what the model read of both, and left the sum as it was.
    rulings = {name: Answer(name, "lea", "Susan"), total: Answer(total, "lea", "1OO")}
    decided = review()._decide(Answers(given, rulings))
    assert (decided[name].label, decided[name].method) == ("Susan", Method.ADJUDICATOR)
    assert (decided[total].label, decided[total].method) == ("100", Method.MAJORITY)
