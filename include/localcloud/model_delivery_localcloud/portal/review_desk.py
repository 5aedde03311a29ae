"""What a reviewer does at their desk: take items, answer, keep drafts, skip, undo, accept many.

A queue, and so each call, is of one flow definition. Only the members of its work team see it: to
everybody else it is not there.
"""

from collections.abc import Callable
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
from model_delivery_localcloud.store.group_commit import GroupCommit
from model_delivery_localcloud.store.human_loops import LAPSED, SKIPPED
from model_delivery_localcloud.store.review_heads import Heads
from model_delivery_localcloud.store.review_slots import Given, Held, Lease, Taken, submit
from model_delivery_localcloud.store.review_tables import FlowDefinition, HumanLoop
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role


class Refused(LocalcloudError):
    """Something that a reviewer asked for is not done; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Desk:
    """The desk of whoever is signed in."""

    def __init__(self, settings: Settings, database: Database, items: Items) -> None:
        self._database = database
        self._commits = GroupCommit(database)
        self._access = Access(database)
        self._items = items
        self._sizes = QueueSizes(database)
        self._heads = Heads()
        self._undo_ms = round(settings.review_undo_seconds * 1000)

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

    def next(self, user: User, flow_id: str, count: int) -> dict[str, Any]:
        """Take the next items."""
        flow = self.find_queue(user, flow_id)
        return self._shown(flow, self._commits.run(self._taking(user, flow, count)))

    def open(self, user: User, flow_id: str, loop_id: int) -> dict[str, Any]:
        """Take one certain item, or keep it for longer."""
        flow = self.find_queue(user, flow_id)

        def work(session: Session) -> list[Held]:
            taken = queue.take(session, loop_id, user.name, now_ms(), self._lease(flow))
            return [held_by(session, _or_refuse(taken, flow), user)]

        return self._shown(flow, self._commits.run(work))

    def answer(
        self,
        user: User,
        flow_id: str,
        loop_id: int,
        answer: dict[str, Any],
        spent_ms: int,
        *,
        more: bool,
    ) -> dict[str, Any]:
        """Keep an answer and, with `more`, take the next item in the same transaction."""
        flow = self.find_queue(user, flow_id)
        problem = self._items.fault_of(flow, loop_id, answer)
        if problem is not None:
            raise Refused(400, problem)
        given = Given(loop_id, answer, as_label(answer), spent_ms)
        lease, take = self._lease(flow), self._taking(user, flow)

        def work(session: Session) -> list[Held]:
            fault = submit(session, flow.id, user.name, [given], now_ms(), lease)
            if fault is not None:
                raise _refusal(fault)
            return take(session) if more else []

        return self._shown(flow, self._commits.run(work))

    def draft(
        self, user: User, flow_id: str, loop_id: int, draft: dict[str, Any]
    ) -> dict[str, Any]:
        """Keep what has been entered so far."""
        self.find_queue(user, flow_id)
        if not self._commits.run(
            lambda session: queue.save_draft(session, loop_id, user.name, draft)
        ):
            raise Refused(409, Taken.NOT_YOURS.value)
        return {}

    def skip(self, user: User, flow_id: str, loop_id: int, *, more: bool) -> dict[str, Any]:
        """Leave an item to others and, with `more`, take the next."""
        flow = self.find_queue(user, flow_id)
        take = self._taking(user, flow)

        def work(session: Session) -> list[Held]:
            fault = queue.let_go(session, flow.id, [loop_id], user.name, SKIPPED)
            if fault is not None:
                raise _refusal(fault)
            return take(session) if more else []

        return self._shown(flow, self._commits.run(work))

    def release(self, user: User, flow_id: str, loop_ids: list[int]) -> dict[str, Any]:
        """Give items back that are not going to be answered now."""
        flow = self.find_queue(user, flow_id)

        def work(session: Session) -> None:
            fault = queue.let_go(session, flow.id, loop_ids, user.name, LAPSED)
            if fault is not None:
                raise _refusal(fault)

        self._commits.run(work)
        self._heads.forget(flow.id, user.name)
        return {}

    def undo(self, user: User, flow_id: str) -> dict[str, Any]:
        """Take the newest answer back, to change it."""
        flow = self.find_queue(user, flow_id)

        def work(session: Session) -> list[Held]:
            last = queue.last_submitted(session, flow.id, user.name)
            if last is None:
                raise Refused(409, "there is no answer of yours to undo")
            taken = queue.undo(session, last.loop_id, user.name, now_ms(), self._lease(flow))
            return [held_by(session, _or_refuse(taken, flow), user)]

        return self._shown(flow, self._commits.run(work))

    def recall(self, user: User, flow_id: str) -> dict[str, Any]:
        """Let skipped items come up again."""
        flow = self.find_queue(user, flow_id)
        recalled = self._commits.run(
            lambda session: queue.recall_skipped(session, flow.id, user.name)
        )
        self._heads.forget(flow.id, user.name)
        return {"recalled": recalled}

    def accept(
        self, user: User, flow_id: str, loop_ids: list[int], spent_ms: int
    ) -> dict[str, Any]:
        """Answer many items as the model did, all or none; the time counts in equal parts."""
        flow = self.find_queue(user, flow_id)
        wanted, given = sorted(set(loop_ids)), []
        for loop_id in wanted:
            answer = self._items.model_answer(flow, loop_id)
            if answer is None:
                raise Refused(409, "an item has no answer of the model to accept, or is not yours")
            given.append(Given(loop_id, answer, as_label(answer), spent_ms // len(wanted)))

        def work(session: Session) -> None:
            fault = submit(session, flow.id, user.name, given, now_ms(), self._lease(flow))
            if fault is not None:
                raise _refusal(fault)

        self._commits.run(work)
        return {"accepted": len(given)}

    def counts(self, user: User, flow_id: str) -> dict[str, Any]:
        """Return how far the person is in this queue."""
        flow = self.find_queue(user, flow_id)
        free = self._sizes.of(flow.id)
        with self._database.read() as session:
            return {"counts": queue.counts(session, flow, user.name, free)}

    def _taking(
        self, user: User, flow: FlowDefinition, count: int = 1
    ) -> Callable[[Session], list[Held]]:
        """Return the work of taking the next items."""
        lease = self._lease(flow)

        def work(session: Session) -> list[Held]:
            session.flush()
            return queue.take_next(
                session, flow.id, user.name, now_ms(), lease, count=count, heads=self._heads
            )

        return work

    def _shown(self, flow: FlowDefinition, items: list[Held]) -> dict[str, Any]:
        # Made after the commit: what it takes to show an item keeps no other reviewer waiting.
        return {"items": [self._items.item(flow, each) for each in items]}

    def _lease(self, flow: FlowDefinition) -> Lease:
        config = flow.request["HumanLoopConfig"]
        seconds = config.get("TaskTimeLimitInSeconds", DEFAULT_TIME_LIMIT)
        return Lease(seconds * 1000, self._undo_ms)


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


def _or_refuse(taken: HumanLoop | Taken, flow: FlowDefinition) -> HumanLoop:
    if isinstance(taken, Taken):
        raise _refusal(taken)
    if taken.flow_id != flow.id:  # what was done to it is undone with the transaction
        raise _refusal(Taken.NOT_YOURS)
    return taken


def _refusal(taken: Taken) -> Refused:
    return Refused(404 if taken is Taken.NOT_YOURS else 409, taken.value)
