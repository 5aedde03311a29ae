"""What the rounds of a review make of answers, beside what the engine decides."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from model_delivery.human_loops.review import Answers, Review, ReviewObjects
from model_delivery_engine.review.answers import Answer
from model_delivery_engine.review.consolidation import Method
from model_delivery_engine.review.outputs import unit
from model_delivery_engine.review.selection import ResultsLayout, SelectionCounts


class Objects:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, uri: str, *lines: Any) -> None:
        self.write_stream(uri, (json.dumps(line).encode() + b"\n" for line in lines))

    def write_stream(self, uri: str, chunks: Iterable[bytes]) -> None:
        self.kept[uri] = b"".join(chunks)

    def write_bytes(self, uri: str, content: bytes) -> None:
        self.kept[uri] = content

    def read(self, uri: str) -> Iterator[bytes]:
        yield self.kept[uri]


def review(storage: Any = None, method: Method = Method.MAJORITY) -> Review:
    return Review(storage, ReviewObjects("s3://b/r"), "s3://b/x", ResultsLayout(), method, 2)


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


@pytest.mark.parametrize("method", [Method.MAJORITY, Method.QUORUM, Method.DAWID_SKENE])
def test_who_gives_no_label_agrees_with_nobody_and_one_more_is_asked(method: Method) -> None:
    storage = Objects()
    found = review(storage, method)
    storage.put(found.objects.items, {"item": "half"}, {"item": "none"}, {"item": "both"})
    storage.put(
        found.objects.answers(0),
        ["half", "ann", {"": "7"}, 1.0], ["half", "bob", None, 1.0],
        ["none", "ann", None, 1.0], ["none", "bob", None, 1.0],
        ["both", "ann", {"": "7"}, 1.0], ["both", "bob", {"": "7"}, 1.0],
    )  # fmt: skip
    first = {"purpose": "review"}
    assert found.open([first]) == ["half", "none"]
    # A third says what the first did: two of three.
    storage.put(
        found.objects.answers(1), ["half", "cas", {"": "7"}, 1.0], ["none", "cas", {"": "7"}, 1.0]
    )
    if method is not Method.DAWID_SKENE:  # which believes a third reviewer who errs nowhere
        assert found.open([first, {"purpose": "tie-break"}]) == ["none"]


@pytest.mark.parametrize("method", [Method.MAJORITY, Method.QUORUM, Method.DAWID_SKENE])
def test_where_no_answer_at_all_has_a_label_everything_is_open(method: Method) -> None:
    storage = Objects()
    found = review(storage, method)
    storage.put(found.objects.items, {"item": "a"}, {"item": "b"})
    # The first round expired whole.
    storage.put(found.objects.answers(0))
    storage.put(found.objects.answers(1), ["a", "ann", None, 1.0], ["b", "bob", None, 1.0])
    rounds = [{"purpose": "review"}, {"purpose": "review"}]
    assert found.open(rounds) == ["a", "b"]
    storage.put(found.objects.answers(1))
    assert found.open(rounds) == []


def test_who_gives_a_label_at_last_is_counted_for_it_alone() -> None:
    storage = Objects()
    found = review(storage)
    storage.put(found.objects.items, {"item": "a"})
    storage.put(found.objects.answers(0), ["a", "ann", None, 1.0])
    storage.put(found.objects.answers(1), ["a", "ann", {"": "7"}, 1.0])
    assert found.open([{"purpose": "review"}, {"purpose": "tie-break"}]) == []


def test_agreement_is_of_the_answers_of_the_first_round() -> None:
    storage = Objects()
    found = review(storage)
    results = [{"id": item} for item in ("same", "other")]
    storage.put(found.results_uri, *results)
    digest = hashlib.sha256(storage.kept[found.results_uri]).hexdigest()
    storage.put(
        found.objects.items,
        *({"place": place, "item": each["id"], "model_answer": {"": "7"}, "sampled": False,
           "whole": True} for place, each in enumerate(results)),
    )  # fmt: skip
    storage.put(
        found.objects.answers(0),
        ["same", "ann", {"": "7"}, 1.0], ["same", "bob", {"": "7"}, 1.0],
        ["other", "ann", {"": "7"}, 1.0],
    )  # fmt: skip
    # A loop of the first round that failed, and was asked for again.
    storage.put(found.objects.answers(1), ["other", "bob", {"": "1"}, 1.0])
    storage.put(
        found.objects.answers(2),
        ["other", "cas", {"": "7", "note": "smudged"}, 1.0], ["other", "dan", {"": "7"}, 1.0],
    )  # fmt: skip
    storage.put(found.objects.answers(3), ["other", "lea", {"": "7"}, 1.0])
    purposes = ("review", "review", "tie-break", "adjudication")
    document = found.finish(
        [{"purpose": each} for each in purposes], SelectionCounts(results=2, picked=2), digest
    )
    assert document["agreement"]["percent"]["value"] == 0.5
    assert [pair["reviewers"] for pair in document["agreement"]["pairs"]] == [("ann", "bob")]
    assert sorted(document["reviewers"]) == ["ann", "bob", "cas", "dan"]
