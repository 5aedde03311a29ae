"""Reviewers' side of human loops: slots taken under a lease, answered once, skipped, undone.

Two constraints hold whatever the code does: an assignment's key is loop and reviewer, so that
nobody answers a loop twice, and a loop's free slots cannot fall below zero, so that nobody takes a
slot that is taken. Whoever changes an assignment locks its loop first. Times come from the caller,
and a clock that goes back never makes one earlier than what it follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.human_loops import (
    ANSWERED,
    LAPSED,
    OPEN,
    SKIPPED,
    SUBMITTED,
    WORKING,
)
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop

_LAPSE_AT_ONCE = 200


class Taken(Enum):
    """Why an answer, a draft or an undo was not taken."""

    NOT_YOURS = "this item was not given to you: open it from its queue"
    CLOSED = "this item is closed: it was stopped, it expired, or it is complete"
    ANSWERED_ALREADY = "you have answered this item already: undo that answer first"
    NO_SLOT = "your time for this item was over, and others have answered it meanwhile"


@dataclass(frozen=True)
class Lease:
    """How long a slot is held, and how long an answer can be taken back; milliseconds."""

    hold_ms: int
    undo_ms: int


def take_next(
    session: Session, flow_id: str, worker: str, now: int, lease: Lease, *, count: int = 1
) -> list[HumanLoop]:
    """Take slots for a reviewer, the least certain first; fewer than `count` where few are free.

    What the reviewer holds already comes first, so that a reload gives the same item again.
    """
    held = list(session.scalars(_held(flow_id, worker).limit(count)))
    if len(held) < count:
        held += _occupy_free(session, flow_id, worker, now, lease, count - len(held))
    if len(held) < count and free_lapsed(session, now):
        session.flush()
        held += _occupy_free(session, flow_id, worker, now, lease, count - len(held))
    return held


def take(session: Session, loop_id: int, worker: str, now: int, lease: Lease) -> HumanLoop | Taken:
    """Take a slot of one loop, a skipped or lapsed one too."""
    loop = lock(session, loop_id)
    if loop is None or loop.phase != OPEN:
        return Taken.CLOSED
    mine = session.get(Assignment, (loop_id, worker))
    if mine is not None and mine.state == SUBMITTED:
        return Taken.ANSWERED_ALREADY
    if mine is None or mine.state != WORKING:
        if loop.free_slots < 1:
            return Taken.NO_SLOT
        _occupy(loop)
    _assign(session, loop, mine, worker, now, lease)
    return loop


def submit(
    session: Session,
    loop_id: int,
    worker: str,
    answer: dict[str, Any],
    label: str | None,
    spent_ms: int,
    now: int,
    lease: Lease,
) -> HumanLoop | Taken:
    """Keep a reviewer's answer; the same answer again is no error and counts once.

    A lease that ran out loses nothing while a slot is free.
    """
    loop = lock(session, loop_id)
    mine = session.get(Assignment, (loop_id, worker)) if loop else None
    if loop is None or mine is None:
        return Taken.NOT_YOURS
    if mine.state == SUBMITTED:
        return loop if mine.answer == answer else Taken.ANSWERED_ALREADY
    if loop.phase != OPEN:
        return Taken.CLOSED
    if mine.state != WORKING:
        if loop.free_slots < 1:
            return Taken.NO_SLOT
        _occupy(loop)
    mine.state = SUBMITTED
    mine.answer = answer
    mine.label = label
    mine.draft = None
    mine.lease_until = None
    mine.submitted_at = max(now, mine.accepted_at)
    mine.spent_ms = max(0, min(spent_ms, mine.submitted_at - mine.accepted_at))
    loop.answers += 1
    loop.modified_at = max(now, loop.modified_at)
    if loop.answers == loop.task_count:
        loop.phase = ANSWERED
        loop.answered_at = mine.submitted_at
        loop.due_at = now + lease.undo_ms
    return loop


def undo(session: Session, loop_id: int, worker: str, now: int, lease: Lease) -> HumanLoop | Taken:
    """Take an answer back into the draft, until the loop's output is being written."""
    loop = lock(session, loop_id)
    mine = session.get(Assignment, (loop_id, worker)) if loop else None
    if loop is None or mine is None or mine.state != SUBMITTED:
        return Taken.NOT_YOURS
    if loop.phase == ANSWERED and loop.attempts == 0:
        loop.phase = OPEN
        loop.due_at = loop.expires_at
        loop.answered_at = None
    elif loop.phase != OPEN:
        return Taken.CLOSED
    loop.answers -= 1
    mine.draft, mine.answer, mine.label, mine.submitted_at = mine.answer, None, None, None
    mine.state = WORKING
    mine.lease_until = now + lease.hold_ms
    return loop


def let_go(session: Session, loop_id: int, worker: str, state: str = SKIPPED) -> HumanLoop | Taken:
    """Free a reviewer's slot: a skipped loop is not given to them again unless they ask."""
    loop = lock(session, loop_id)
    mine = session.get(Assignment, (loop_id, worker)) if loop else None
    if loop is None or mine is None or mine.state == SUBMITTED:
        return Taken.NOT_YOURS
    if mine.state == WORKING:
        _vacate(loop)
    mine.state = state
    mine.lease_until = None
    return loop


def save_draft(session: Session, loop_id: int, worker: str, draft: dict[str, Any] | None) -> bool:
    """Keep what a reviewer has entered so far; False where there is no such open assignment."""
    mine = session.get(Assignment, (loop_id, worker))
    if mine is None or mine.state == SUBMITTED:
        return False
    mine.draft = draft
    return True


def recall_skipped(session: Session, flow_id: str, worker: str) -> int:
    """Let a reviewer's skipped loops come up again; returns how many."""
    mine = Assignment.worker == worker, Assignment.flow_id == flow_id, Assignment.state == SKIPPED
    found = list(session.scalars(select(Assignment).where(*mine)))
    for each in found:
        each.state = LAPSED
    return len(found)


def free_lapsed(session: Session, now: int) -> int:
    """Free the slots whose lease ran out; returns how many."""
    query = (
        select(HumanLoop, Assignment)
        .join(Assignment, Assignment.loop_id == HumanLoop.id)
        .where(Assignment.lease_until <= now)
        .limit(_LAPSE_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    found = session.execute(query).all()
    for loop, assignment in found:
        assignment.state = LAPSED
        assignment.lease_until = None
        _vacate(loop)
    return len(found)


def lock(session: Session, loop_id: int) -> HumanLoop | None:
    """Return a loop that nobody else can change until the transaction ends, or None."""
    query = select(HumanLoop).where(HumanLoop.id == loop_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).first()


def last_submitted(session: Session, flow_id: str, worker: str) -> Assignment | None:
    """Return a reviewer's newest answer in a flow, or None."""
    query = select(Assignment).where(
        Assignment.worker == worker, Assignment.flow_id == flow_id, Assignment.state == SUBMITTED
    )
    return session.scalars(query.order_by(Assignment.submitted_at.desc()).limit(1)).first()


def counts(session: Session, flow_id: str, worker: str) -> dict[str, int]:
    """Return how many items a reviewer can still take, has answered, holds, has skipped."""
    open_loops = select(func.count()).where(HumanLoop.queue == flow_id)
    by_state = (
        select(Assignment.state, func.count())
        .where(Assignment.worker == worker, Assignment.flow_id == flow_id)
        .group_by(Assignment.state)
    )
    mine: dict[str, int] = {state: number for state, number in session.execute(by_state)}
    # Loops that are queued although this reviewer has had their turn with them.
    had = select(func.count()).where(
        HumanLoop.queue == flow_id,
        HumanLoop.id == Assignment.loop_id,
        Assignment.worker == worker,
        Assignment.state.in_((SUBMITTED, SKIPPED, WORKING)),
    )
    waiting = (session.scalar(open_loops) or 0) - (session.scalar(had) or 0 if mine else 0)
    return {
        "waiting": waiting + mine.get(WORKING, 0),
        "answered": mine.get(SUBMITTED, 0),
        "skipped": mine.get(SKIPPED, 0),
    }


def answers_of(session: Session, loop_ids: Sequence[int]) -> dict[int, list[Assignment]]:
    """Return the answers of loops, the earliest first."""
    query = select(Assignment).where(
        Assignment.loop_id.in_(loop_ids), Assignment.state == SUBMITTED
    )
    found: dict[int, list[Assignment]] = {number: [] for number in loop_ids}
    for each in session.scalars(query.order_by(Assignment.submitted_at, Assignment.worker)):
        found[each.loop_id].append(each)
    return found


def _held(flow_id: str, worker: str) -> Any:
    return (
        select(HumanLoop)
        .join(Assignment, Assignment.loop_id == HumanLoop.id)
        .where(
            Assignment.worker == worker,
            Assignment.flow_id == flow_id,
            Assignment.state == WORKING,
        )
        .order_by(Assignment.accepted_at)
    )


def _occupy_free(
    session: Session, flow_id: str, worker: str, now: int, lease: Lease, count: int
) -> list[HumanLoop]:
    taken = []
    for loop, mine in session.execute(_free(flow_id, worker, now).limit(count)).all():
        _occupy(loop)
        _assign(session, loop, mine, worker, now, lease)
        taken.append(loop)
    return taken


def _free(flow_id: str, worker: str, now: int) -> Any:
    mine = and_(Assignment.loop_id == HumanLoop.id, Assignment.worker == worker)
    return (
        select(HumanLoop, Assignment)
        .outerjoin(Assignment, mine)
        .where(
            HumanLoop.queue == flow_id,
            HumanLoop.expires_at > now,
            or_(Assignment.worker.is_(None), Assignment.state == LAPSED),
        )
        .order_by(HumanLoop.priority, HumanLoop.id)
        .with_for_update(of=HumanLoop, skip_locked=True)
        .execution_options(populate_existing=True)
    )


def _occupy(loop: HumanLoop) -> None:
    loop.free_slots -= 1
    if loop.free_slots < 1:
        loop.queue = None


def _vacate(loop: HumanLoop) -> None:
    if loop.phase == OPEN:
        loop.free_slots += 1
        loop.queue = loop.flow_id


def _assign(
    session: Session,
    loop: HumanLoop,
    mine: Assignment | None,
    worker: str,
    now: int,
    lease: Lease,
) -> None:
    if mine is None:
        mine = Assignment(
            loop_id=loop.id, worker=worker, flow_id=loop.flow_id, accepted_at=now, state=WORKING
        )
        session.add(mine)
    elif mine.state != WORKING:
        mine.accepted_at = now
    mine.state = WORKING
    mine.lease_until = now + lease.hold_ms
