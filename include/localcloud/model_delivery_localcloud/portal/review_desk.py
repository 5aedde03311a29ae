"""What a reviewer does at their desk: take items, answer, keep drafts, skip, undo, accept many.

A queue, and so each call, is of one flow definition. Only the members of its work team see it: to
everybody else it is not there.
"""

from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import LocalcloudError
from model_delivery_localcloud.portal.review_items import Items
from model_delivery_localcloud.review.facts import as_label
from model_delivery_localcloud.services.human_review import DEFAULT_TIME_LIMIT
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import review_queue as queue
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.human_loops import LAPSED, SKIPPED
from model_delivery_localcloud.store.review_queue import Lease, Taken
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
        self._items = items
        self._undo_ms = round(settings.review_undo_seconds * 1000)

    def queues(self, user: User) -> list[dict[str, Any]]:
        """Return the queues that a user may work on, with their counts."""
        with self._database.read() as session:
            flows = resources.flows_of(session, None if user.role == Role.ADMIN else user.name)
            return [{**_queue(flow), **queue.counts(session, flow.id, user.name)} for flow in flows]

    def find_queue(self, user: User, flow_id: str) -> FlowDefinition:
        """Return the flow definition behind a queue that the user may see."""
        with self._database.read() as session:
            return self._flow(session, user, flow_id)

    def next(self, user: User, flow_id: str, count: int) -> dict[str, Any]:
        """Take the next items."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            loops = queue.take_next(
                session, flow.id, user.name, now_ms(), self._lease(flow), count=count
            )
            session.flush()
            return {"items": [self._items.item(session, flow, loop, user) for loop in loops]}

    def open(self, user: User, flow_id: str, loop_id: int) -> dict[str, Any]:
        """Take one certain item, e.g. from the grid."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            taken = queue.take(session, loop_id, user.name, now_ms(), self._lease(flow))
            loop = _or_refuse(taken, flow)
            session.flush()
            return {"items": [self._items.item(session, flow, loop, user)]}

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
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            lease, now = self._lease(flow), now_ms()
            taken = queue.submit(
                session, loop_id, user.name, answer, as_label(answer), spent_ms, now, lease
            )
            self._check_answer(session, flow, _or_refuse(taken, flow), answer)
            return self._more(session, user, flow, more)

    def draft(
        self, user: User, flow_id: str, loop_id: int, draft: dict[str, Any]
    ) -> dict[str, Any]:
        """Keep what has been entered so far."""
        with self._database.write() as session:
            self._flow(session, user, flow_id)
            if not queue.save_draft(session, loop_id, user.name, draft):
                raise Refused(409, Taken.NOT_YOURS.value)
        return {}

    def skip(self, user: User, flow_id: str, loop_id: int, *, more: bool) -> dict[str, Any]:
        """Leave an item to others and, with `more`, take the next."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            _or_refuse(queue.let_go(session, loop_id, user.name, SKIPPED), flow)
            return self._more(session, user, flow, more)

    def release(self, user: User, flow_id: str, loop_ids: list[int]) -> dict[str, Any]:
        """Give items back that are not going to be answered now."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            for loop_id in loop_ids:
                _or_refuse(queue.let_go(session, loop_id, user.name, LAPSED), flow)
        return {}

    def undo(self, user: User, flow_id: str) -> dict[str, Any]:
        """Take the newest answer back, to change it."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            last = queue.last_submitted(session, flow.id, user.name)
            if last is None:
                raise Refused(409, "there is no answer of yours to undo")
            taken = queue.undo(session, last.loop_id, user.name, now_ms(), self._lease(flow))
            loop = _or_refuse(taken, flow)
            session.flush()
            return {"items": [self._items.item(session, flow, loop, user)]}

    def recall(self, user: User, flow_id: str) -> dict[str, Any]:
        """Let skipped items come up again."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            return {"recalled": queue.recall_skipped(session, flow.id, user.name)}

    def accept(
        self, user: User, flow_id: str, loop_ids: list[int], spent_ms: int
    ) -> dict[str, Any]:
        """Answer many items as the model did, all or none; the time counts in equal parts."""
        with self._database.write() as session:
            flow = self._flow(session, user, flow_id)
            for loop_id in loop_ids:
                loop = session.get(HumanLoop, loop_id)
                if loop is None or loop.flow_id != flow.id:
                    raise Refused(404, Taken.NOT_YOURS.value)
                answer = self._items.model_answer(session, flow, loop)
                if answer is None:
                    raise Refused(409, f"{loop.name} has no answer of the model to accept")
                taken = queue.submit(
                    session, loop_id, user.name, answer, as_label(answer),
                    spent_ms // len(loop_ids), now_ms(), self._lease(flow),
                )  # fmt: skip
                _or_refuse(taken, flow)
        return {"accepted": len(loop_ids)}

    def counts(self, user: User, flow_id: str) -> dict[str, Any]:
        """Return how far the person is in this queue."""
        with self._database.read() as session:
            flow = self._flow(session, user, flow_id)
            return {"counts": queue.counts(session, flow.id, user.name)}

    def _flow(self, session: Session, user: User, flow_id: str) -> FlowDefinition:
        flow = resources.find_flow(session, flow_id)
        if flow is None or flow.status != resources.ACTIVE:
            raise Refused(404, "there is no such queue")
        if user.role != Role.ADMIN and not resources.is_member(session, user.name, flow):
            raise Refused(404, "there is no such queue")
        return flow

    def _check_answer(
        self, session: Session, flow: FlowDefinition, loop: HumanLoop, answer: dict[str, Any]
    ) -> None:
        problem = self._items.fault_of(session, flow, loop, answer)
        if problem is not None:  # what was kept is undone with the transaction
            raise Refused(400, problem)

    def _more(
        self, session: Session, user: User, flow: FlowDefinition, more: bool
    ) -> dict[str, Any]:
        if not more:
            return {}
        session.flush()
        lease = self._lease(flow)
        loops = queue.take_next(session, flow.id, user.name, now_ms(), lease)
        session.flush()
        return {"items": [self._items.item(session, flow, loop, user) for loop in loops]}

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
        raise Refused(404 if taken is Taken.NOT_YOURS else 409, taken.value)
    if taken.flow_id != flow.id:  # what was done to it is undone with the transaction
        raise Refused(404, Taken.NOT_YOURS.value)
    return taken
