"""What a reviewer does at their desk: take items, answer, keep drafts, skip, undo, accept many.

A queue, and so each call, is of one flow definition. Only the members of its work team see it: to
everybody else it is not there.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import LocalcloudError
from model_delivery_localcloud.portal.access import Access
from model_delivery_localcloud.portal.queue_sizes import QueueSizes
from model_delivery_localcloud.portal.review_items import Items, held_by
from model_delivery_localcloud.review.facts import as_label
from model_delivery_localcloud.services.human_review import DEFAULT_TIME_LIMIT
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import review_queue as queue
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.group_commit import GroupCommit, one_by_one
from model_delivery_localcloud.store.human_loops import LAPSED, SKIPPED
from model_delivery_localcloud.store.review_answers import Given, Taken
from model_delivery_localcloud.store.review_heads import Heads
from model_delivery_localcloud.store.review_slots import Held, Lease
from model_delivery_localcloud.store.review_tables import FlowDefinition
from model_delivery_localcloud.store.review_turns import Turn, take_turns
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role


class Refused(LocalcloudError):
    """Something that a reviewer asked for is not done; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Step:
    """What a reviewer does beside turns.

    It returns why it cannot be done, and then has changed nothing: an error would undo what all
    others did in the same transaction.
    """

    worker: str
    do: Callable[[Session], Any]


@dataclass(frozen=True)
class Change:
    """What a call changes, and what its answer is, made from what came of that.

    Only the step takes place in a transaction, with others': what it takes to prepare it and to
    show an item keeps no other reviewer waiting.
    """

    step: Turn | Step
    answer: Callable[[Any], dict[str, Any]]


class Desk:
    """The desk of whoever is signed in.

    A call returns a change that is still to be made (`submit`), or its answer.
    """

    def __init__(self, settings: Settings, database: Database, items: Items) -> None:
        self._database = database
        self._commits = GroupCommit(database, self._take_steps)
        self._access = Access(database)
        self._items = items
        self._sizes = QueueSizes(database)
        self._heads = Heads()
        self._undo_ms = round(settings.review_undo_seconds * 1000)

    def submit(self, change: Change) -> Future[Any]:
        """Have a change made; the future holds what its answer is made from, or its error."""
        return self._commits.submit(change.step)

    def queues(self, user: User) -> list[dict[str, Any]]:
        """Return the queues that a user may work on, with counts; those with work come first."""
        with self._database.read() as session:
            flows = resources.flows_of(session, None if user.role == Role.ADMIN else user.name)
            found = [
                {
                    **_queue(flow),
                    **queue.counts(session, flow, user.name, self._sizes.of(flow.id)),
                }
                for flow in flows
            ]
        return sorted(found, key=lambda each: not each["waiting"])

    def find_queue(self, user: User, flow_id: str) -> FlowDefinition:
        """Return the flow definition behind a queue that the user may see."""
        flow = self._access.flow(user, flow_id)
        if flow is None:
            raise Refused(404, "there is no such queue")
        return flow

    def next(self, user: User, flow_id: str, count: int) -> Change:
        """Take the next items."""
        flow = self.find_queue(user, flow_id)
        return self._showing(flow, self._turn(flow, user, count=count))

    def open(self, user: User, flow_id: str, loop_id: int) -> Change:
        """Take one certain item, or keep it for longer."""
        flow = self.find_queue(user, flow_id)

        def step(session: Session) -> list[Held] | Taken:
            taken = queue.take(session, flow.id, loop_id, user.name, now_ms(), self._lease(flow))
            return taken if isinstance(taken, Taken) else [held_by(session, taken, user)]

        return self._showing(flow, Step(user.name, step))

    def answer(
        self,
        user: User,
        flow_id: str,
        loop_id: int,
        answer: dict[str, Any],
        spent_ms: int,
        *,
        more: bool,
    ) -> Change:
        """Keep an answer and, with `more`, take the next item in the same transaction."""
        flow = self.find_queue(user, flow_id)
        problem = self._items.fault_of(flow, loop_id, answer)
        if problem is not None:
            raise Refused(400, problem)
        given = Given(loop_id, answer, as_label(answer), spent_ms)
        return self._showing(flow, self._turn(flow, user, [given], count=int(more)))

    def draft(self, user: User, flow_id: str, loop_id: int, draft: dict[str, Any]) -> Change:
        """Keep what has been entered so far."""
        self.find_queue(user, flow_id)

        def step(session: Session) -> bool:
            return queue.save_draft(session, loop_id, user.name, draft)

        def answer(kept: bool) -> dict[str, Any]:
            if not kept:
                raise Refused(409, Taken.NOT_YOURS.value)
            return {}

        return Change(Step(user.name, step), answer)

    def skip(self, user: User, flow_id: str, loop_id: int, *, more: bool) -> Change:
        """Leave an item to others and, with `more`, take the next."""
        flow = self.find_queue(user, flow_id)
        turn = self._turn(flow, user, count=int(more))

        def step(session: Session) -> list[Held] | Taken:
            fault = queue.let_go(session, flow.id, [loop_id], user.name, SKIPPED)
            self._heads.given_back(flow.id)
            return fault or take_turns(session, [turn], now_ms(), self._heads)[0]

        return self._showing(flow, Step(user.name, step))

    def release(self, user: User, flow_id: str, loop_ids: list[int]) -> Change:
        """Give items back that are not going to be answered now."""
        flow = self.find_queue(user, flow_id)

        def step(session: Session) -> Taken | None:
            self._heads.forget(flow.id, user.name)
            self._heads.given_back(flow.id)
            return queue.let_go(session, flow.id, loop_ids, user.name, LAPSED)

        def answer(fault: Taken | None) -> dict[str, Any]:
            if fault is not None:
                raise _refusal(fault)
            return {}

        return Change(Step(user.name, step), answer)

    def undo(self, user: User, flow_id: str) -> Change:
        """Take the newest answer back, to change it."""
        flow = self.find_queue(user, flow_id)

        def step(session: Session) -> list[Held] | Taken:
            last = queue.last_submitted(session, flow.id, user.name)
            if last is None:
                return Taken.NOTHING_TO_UNDO
            taken = queue.undo(session, last.loop_id, user.name, now_ms(), self._lease(flow))
            return taken if isinstance(taken, Taken) else [held_by(session, taken, user)]

        return self._showing(flow, Step(user.name, step))

    def recall(self, user: User, flow_id: str) -> Change:
        """Let skipped items come up again."""
        flow = self.find_queue(user, flow_id)

        def step(session: Session) -> int:
            self._heads.forget(flow.id, user.name)
            return queue.recall_skipped(session, flow.id, user.name)

        def answer(recalled: int) -> dict[str, Any]:
            return {"recalled": recalled}

        return Change(Step(user.name, step), answer)

    def accept(self, user: User, flow_id: str, loop_ids: list[int], spent_ms: int) -> Change:
        """Answer many items as the model did, all or none; the time counts in equal parts."""
        flow = self.find_queue(user, flow_id)
        wanted, given = sorted(set(loop_ids)), []
        for loop_id in wanted:
            answer = self._items.model_answer(flow, loop_id)
            if answer is None:
                raise Refused(409, "an item has no answer of the model to accept, or is not yours")
            given.append(Given(loop_id, answer, as_label(answer), spent_ms // len(wanted)))

        def accepted(taken: list[Held] | Taken) -> dict[str, Any]:
            _or_raise(taken)
            return {"accepted": len(given)}

        return Change(self._turn(flow, user, given), accepted)

    def retract(self, user: User, flow_id: str, loop_ids: list[int]) -> Change:
        """Take many answers back, as far as that is possible yet; they are the reviewer's again."""
        flow = self.find_queue(user, flow_id)

        def step(session: Session) -> int:
            return queue.undo_many(
                session, flow.id, loop_ids, user.name, now_ms(), self._lease(flow)
            )

        def answer(retracted: int) -> dict[str, Any]:
            if not retracted:
                raise _refusal(Taken.CLOSED)
            return {"retracted": retracted}

        return Change(Step(user.name, step), answer)

    def counts(self, user: User, flow_id: str) -> dict[str, Any]:
        """Return how far the person is in this queue."""
        flow = self.find_queue(user, flow_id)
        free = self._sizes.of(flow.id)
        with self._database.read() as session:
            return {"counts": queue.counts(session, flow, user.name, free)}

    def _take_steps(self, session: Session, steps: Sequence[Turn | Step]) -> list[Any]:
        """Take many people's steps in one transaction: turns together, others one by one.

        Each person's in the order they came: who gives an item back and then asks for the next is
        not shown what is given back.
        """
        return [done for each in _in_order(steps) for done in self._take_at_once(session, each)]

    def _take_at_once(self, session: Session, steps: Sequence[Turn | Step]) -> list[Any]:
        turns = [step for step in steps if isinstance(step, Turn)]
        taken = iter(take_turns(session, turns, now_ms(), self._heads) if turns else [])
        done = iter(one_by_one(session, [step.do for step in steps if isinstance(step, Step)]))
        return [next(taken if isinstance(step, Turn) else done) for step in steps]

    def _turn(
        self, flow: FlowDefinition, user: User, given: Sequence[Given] = (), count: int = 0
    ) -> Turn:
        return Turn(flow.id, user.name, self._lease(flow), given, count)

    def _showing(self, flow: FlowDefinition, step: Turn | Step) -> Change:
        return Change(step, partial(self._shown, flow))

    def _shown(self, flow: FlowDefinition, taken: list[Held] | Taken) -> dict[str, Any]:
        return {"items": [self._items.item(flow, each) for each in _or_raise(taken)]}

    def _lease(self, flow: FlowDefinition) -> Lease:
        config = flow.request["HumanLoopConfig"]
        seconds = config.get("TaskTimeLimitInSeconds", DEFAULT_TIME_LIMIT)
        return Lease(seconds * 1000, self._undo_ms)


def _in_order(steps: Sequence[Turn | Step]) -> list[list[Turn | Step]]:
    """Cut steps into runs in none of which a person comes twice: mostly it is one."""
    runs: list[list[Turn | Step]] = [[]]
    for step in steps:
        if any(step.worker == other.worker for other in runs[-1]):
            runs.append([])
        runs[-1].append(step)
    return runs


def _queue(flow: FlowDefinition) -> dict[str, Any]:
    config = flow.request["HumanLoopConfig"]
    return {
        "flow": flow.id,
        "name": flow.name,
        "account": flow.account,
        "region": flow.region,
        "title": config["TaskTitle"],
        "description": config["TaskDescription"],
    }


def _or_raise(taken: list[Held] | Taken) -> list[Held]:
    if isinstance(taken, Taken):
        raise _refusal(taken)
    return taken


def _refusal(taken: Taken) -> Refused:
    return Refused(404 if taken is Taken.NOT_YOURS else 409, taken.value)
