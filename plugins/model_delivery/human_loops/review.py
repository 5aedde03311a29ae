"""One review of a batch's results: its rounds, their objects in storage, and what comes of them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_delivery_engine.batch.lines import read_lines
from model_delivery_engine.errors import ReviewError
from model_delivery_engine.review.answers import EXCLUDED_WORKERS, Answer, by_item
from model_delivery_engine.review.conditions import Conditions
from model_delivery_engine.review.consolidation import (
    Decision,
    Method,
    adjudicated,
    consolidate,
    open_items,
)
from model_delivery_engine.review.outputs import (
    ItemAnswer,
    answers,
    field_answers,
    field_of,
    fields_by_item,
)
from model_delivery_engine.review.reviewed import (
    ReviewedItem,
    estimate_of,
    outcome,
    review_document,
    reviewed_lines,
)
from model_delivery_engine.review.selection import ResultsLayout, Selection, SelectionCounts

from model_delivery.exceptions import InvalidRequestError, StorageError
from model_delivery.hooks.storage import StorageHook
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.watch import EndedLoop
from model_delivery.human_loops.worker import HumanLoopWorker, LoopInput

log = logging.getLogger(__name__)

REVIEW, TIE_BREAK, ADJUDICATION = "review", "tie-break", "adjudication"


@dataclass(frozen=True)
class ReviewObjects:
    """Where a review's objects lie: below one folder, so that any worker can go on with it."""

    folder: str

    @property
    def items(self) -> str:
        """The items that were chosen: what the model says of each."""
        return f"{self.folder}/items.jsonl"

    @property
    def reviewed(self) -> str:
        """The results, each with what reviewers made of it."""
        return f"{self.folder}/reviewed.jsonl"

    @property
    def report(self) -> str:
        """All figures."""
        return f"{self.folder}/review.json"

    def inputs(self, number: int) -> str:
        """Return where a round's inputs lie, a line for each loop."""
        return f"{self.folder}/round-{number}/inputs.jsonl"

    def manifest(self, number: int) -> str:
        """Which loop of a round is about which item, with the digest of its input."""
        return f"{self.folder}/round-{number}/loops.jsonl"

    def answers(self, number: int) -> str:
        """Answers of a round, a line each."""
        return f"{self.folder}/round-{number}/answers.jsonl"


@dataclass
class Answers:
    """All answers so far, and the adjudicators' apart from the others'.

    :param blank: by item: who answered it without a label
    :param first: the first round's, asked for whatever others had answered
    """

    given: list[Answer] = field(default_factory=list)
    rulings: dict[str, Answer] = field(default_factory=dict)
    blank: dict[str, set[str]] = field(default_factory=dict)
    first: list[Answer] = field(default_factory=list)

    @property
    def units(self) -> dict[str, list[Answer]]:
        """The answers of each unit; none, where all that answered an item gave no label."""
        return {**{item: [] for item in self.blank}, **by_item(self.given)}


@dataclass(frozen=True)
class Review:
    """What does the work of `HumanReviewOperator`, between its waits.

    :param quorum: equal answers that the quorum needs
    """

    storage: StorageHook
    objects: ReviewObjects
    results_uri: str
    layout: ResultsLayout
    method: Method
    quorum: int

    def select(self, conditions: Conditions, most_loops: int) -> tuple[SelectionCounts, str]:
        """Choose the items and write them with the inputs of the first round.

        :returns: what was looked at, and the digest of the results
        :raises InvalidRequestError: the conditions choose more items than are allowed
        """
        selection = Selection(self.layout, conditions)
        chosen: list[bytes] = []
        inputs: list[bytes] = []
        digest = hashlib.sha256()
        for item in selection.items(self._records(digest)):
            if len(chosen) == most_loops:
                raise InvalidRequestError(
                    f"the conditions choose more than {most_loops} items of {self.results_uri} "
                    "for review: make them narrower, or raise max_loops"
                )
            about = {
                "place": item.place,
                "item": item.identity,
                "model_answer": item.model_answer,
                "sampled": item.evaluation.sampled_only,
                "whole": item.whole,
            }
            chosen.append(json.dumps(about).encode() + b"\n")
            content = selection.content(item)
            inputs.append(b'{"item":%b,"content":%b}\n'
                          % (json.dumps(item.identity).encode(), content))  # fmt: skip
        self.storage.write_stream(self.objects.items, chosen)
        self.storage.write_stream(self.objects.inputs(0), inputs)
        return selection.counts, digest.hexdigest()

    def start(
        self,
        worker: HumanLoopWorker,
        number: int,
        flow_definition_arn: str,
        prefix: str,
        attributes: Mapping[str, Any],
    ) -> int:
        """Start a round's loops and write its manifest; return how many there are."""
        started = list(worker.start(flow_definition_arn, prefix, self._inputs(number), attributes))
        self.storage.write_stream(
            self.objects.manifest(number), (loop.line() + b"\n" for loop in started)
        )
        return len(started)

    def first_input(self) -> LoopInput | None:
        """Return the first of the first round, None where nothing is chosen."""
        return next(self._inputs(0), None)

    def _inputs(self, number: int) -> Iterator[LoopInput]:
        for each in self._lines(self.objects.inputs(number)):
            yield LoopInput(each["item"], json.dumps(each["content"], ensure_ascii=False))

    def collect(
        self,
        worker: HumanLoopWorker,
        number: int,
        ended: Iterable[EndedLoop],
        flow: Mapping[str, Any],
    ) -> int:
        """Read the answers of a round's completed loops and keep them; return how many.

        One without a label is kept too, and counted for none.

        :raises ReviewError: no answer of the first round has a label: the template asks for none
        """
        items = {each["loop"]: each["item"] for each in self._lines(self.objects.manifest(number))}
        kept: list[bytes] = []
        without: list[str] = []
        for name, output in worker.outputs(ended, flow, self.storage):
            for answer in answers(items[name], output, self.layout.source):
                if answer.fields is None:
                    without.append(name)
                line = [answer.item, answer.reviewer, answer.fields, answer.seconds]
                kept.append(json.dumps(line).encode() + b"\n")
        # Later rounds are about few items, those that are hard to tell.
        if without and len(without) == len(kept) and number == 0:
            raise ReviewError(
                f"no answer holds one label, as of human loop {without[0]}: the template must have "
                "an element that answers one"
            )
        if without:
            log.warning("%d answers hold no label, as of loop %s", len(without), without[0])
        self.storage.write_stream(self.objects.answers(number), kept)
        return len(kept)

    def open(self, rounds: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the items that were answered and are not decided."""
        found = self._answers(rounds)
        undecided = {field_of(each)[0] for each in open_items(found.units, self._decide(found))}
        return [each["item"] for each in self._lines(self.objects.items)
                if each["item"] in undecided]  # fmt: skip

    def unanswered(self, number: int) -> list[str]:
        """Return the items of a round that nobody answered in it."""
        answered = {item for item, *_rest in self._lines(self.objects.answers(number))}
        return [each["item"] for each in self._lines(self.objects.inputs(number))
                if each["item"] not in answered]  # fmt: skip

    def ask_again(self, before: Sequence[Mapping[str, Any]], items: Iterable[str]) -> None:
        """Write the inputs of the round that follows: those of the first, of these items.

        Each names who has answered the item already: it is for others.
        """
        wanted = set(items)
        had: dict[str, set[str]] = {}
        for number in range(len(before)):
            for item, reviewer, *_rest in self._lines(self.objects.answers(number)):
                had.setdefault(item, set()).add(reviewer)

        def again(each: dict[str, Any]) -> dict[str, Any]:
            reviewers = sorted(had.get(each["item"], ()))
            named = {EXCLUDED_WORKERS: reviewers} if reviewers else {}
            return {**each, "content": {**each["content"], **named}}

        self.storage.write_stream(
            self.objects.inputs(len(before)),
            (
                json.dumps(again(each)).encode() + b"\n"
                for each in self._lines(self.objects.inputs(0))
                if each["item"] in wanted
            ),
        )

    def finish(
        self, rounds: Sequence[Mapping[str, Any]], counts: SelectionCounts, digest: str
    ) -> dict[str, Any]:
        """Decide, write the reviewed data set and the figures, and return these.

        :param digest: of the results, as they were when items were chosen
        :raises StorageError: they are others now; nothing is written
        """
        found = self._answers(rounds)
        units, decided = found.units, self._decide(found)
        asked: dict[str, list[str]] = {}
        for each in decided:
            item, name = field_of(each)
            asked.setdefault(item, []).append(name)
        chosen = [
            ReviewedItem(
                each["place"], each["item"], each["model_answer"], each["sampled"], each["whole"]
            )
            for each in self._lines(self.objects.items)
        ]
        outcomes = {
            item.identity: outcome(item, decided, asked.get(item.identity, ())) for item in chosen
        }
        document = review_document(
            counts, outcomes, units, by_item(found.first), decided,
            estimate_of(chosen, outcomes, counts),
        )  # fmt: skip
        again = len(found.given) - sum(map(len, units.values()))
        if again:
            log.warning(
                "%d answers are of reviewers who had answered the same item before, and count for "
                "nothing: give tie_break_flow_definition_arn a team with others in it",
                again,
            )
        by_place = {item.place: outcomes[item.identity] for item in chosen}
        self.storage.write_stream(
            self.objects.reviewed,
            (
                json.dumps(line, ensure_ascii=False).encode() + b"\n"
                for line in reviewed_lines(self._unchanged(digest), by_place)
            ),
        )
        self.storage.write_bytes(self.objects.report, json.dumps(document, indent=2).encode())
        return document

    def _decide(self, found: Answers) -> dict[str, Decision]:
        units = found.units
        blank = {
            item: len(reviewers - {answer.reviewer for answer in units[item]})
            for item, reviewers in found.blank.items()
        }
        decided = consolidate(units, self.method, quorum_size=self.quorum, blank=blank)
        for each, ruling in found.rulings.items():
            # They see the whole item, as it first was; what the others agreed on stays.
            if each not in decided or decided[each].label is None:
                decided[each] = adjudicated(units.get(each, []), ruling)
        return decided

    def _answers(self, rounds: Sequence[Mapping[str, Any]]) -> Answers:
        said = [
            (each["purpose"], ItemAnswer(*line))
            for number, each in enumerate(rounds)
            for line in self._lines(self.objects.answers(number))
        ]
        # Whoever answered an item answered each of its fields, those too that others named first.
        fields = fields_by_item(answer for _purpose, answer in said)
        found = Answers()
        for purpose, whole in said:
            if whole.fields is None and purpose != ADJUDICATION:
                found.blank.setdefault(whole.item, set()).add(whole.reviewer)
            for answer in field_answers(whole, fields):
                if purpose == ADJUDICATION:
                    found.rulings.setdefault(answer.item, answer)
                else:
                    found.given.append(answer)
        # Fields that only later rounds name are none that these were asked about.
        first = [whole for purpose, whole in said if purpose == REVIEW]
        named = fields_by_item(first)
        found.first = [answer for whole in first for answer in field_answers(whole, named)]
        return found

    def _unchanged(self, digest: str) -> Iterator[dict[str, Any]]:
        """Yield the results; StorageError at their end where they are not those of the digest.

        Their lines are joined with the reviews by their places, which mean nothing in others.
        """
        found = hashlib.sha256()
        yield from self._records(found)
        if found.hexdigest() != digest:
            raise StorageError(
                f"{self.results_uri} was written anew while people reviewed it, and what they say "
                "is of what it was: put the former results back and retry the task, or clear it to "
                f"have the new ones reviewed. The answers are kept below {self.objects.folder}"
            )

    def _records(self, digest: "hashlib._Hash") -> Iterator[dict[str, Any]]:
        """Yield the results, and feed the digest with them."""
        return _parsed(_fed(digest, self.storage.read(self.results_uri)))

    def _lines(self, uri: str) -> Iterator[Any]:
        return _parsed(self.storage.read(uri))


def wait_here(
    worker: HumanLoopWorker, batch: LoopBatch, wait: Callable[[int], bool]
) -> list[EndedLoop]:
    """Return the loops of a batch that have ended, once all have or the wait is over."""
    return list(worker.ended(batch, wait))


def _parsed(chunks: Iterable[bytes]) -> Iterator[Any]:
    import orjson

    for _offset, line in read_lines(chunks):
        if line:
            yield orjson.loads(line)


def _fed(digest: "hashlib._Hash", chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
