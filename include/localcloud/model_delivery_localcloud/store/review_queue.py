"""Reviewers' side of human loops: slots taken under a lease, answered once, skipped, undone.

Two constraints hold whatever the code does: an assignment's key is loop and reviewer, so that
nobody answers a loop twice, and a loop's free slots cannot fall below zero, so that nobody takes a
slot that is taken. Whoever takes or frees a slot locks the loop first and only then reads the
assignment, whatever the session knows of it: another server may have changed it before the lock was
had. Times come from the caller, and a clock that goes back never makes one earlier than what it
follows.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import CursorResult, Update, func, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.human_loops import (
    ANSWERED,
    EXCLUDED,
    LAPSED,
    OPEN,
    SKIPPED,
    SUBMITTED,
    WORKING,
    lock_loop,
)
from model_delivery_localcloud.store.review_answers import Taken
from model_delivery_localcloud.store.review_resources import members_of
from model_delivery_localcloud.store.review_slots import Lease
from model_delivery_localcloud.store.review_tables import Assignment, FlowDefinition, HumanLoop
from model_delivery_localcloud.store.users import users_of

_LAPSE_AT_ONCE = 200


def take(
    session: Session, flow_id: str, loop_id: int, worker: str, now: int, lease: Lease
) -> HumanLoop | Taken:
    """Take a slot of one loop, a skipped or lapsed one too, or hold it for longer.

    Where it cannot be taken nothing is changed.
    """
    loop = lock_loop(session, loop_id)
    # The same of both: nobody is to learn what there is in other queues.
    if loop is None or loop.flow_id != flow_id:
        return Taken.NOT_YOURS
    if loop.phase != OPEN:
        return Taken.CLOSED
    mine = _part(session, loop_id, worker)
    state = LAPSED if mine is None else mine.state
    if state == SUBMITTED:
        return Taken.ANSWERED_ALREADY
    if state == EXCLUDED:
        return Taken.FOR_OTHERS
    if state != WORKING and loop.free_slots < 1:
        return Taken.NO_SLOT
    if mine is None:
        mine = Assignment(loop_id=loop.id, worker=worker, flow_id=loop.flow_id)
        session.add(mine)
    if state != WORKING:
        _occupy(loop)
        mine.accepted_at = now
    mine.state = WORKING
    mine.lease_until = now + lease.hold_ms
    return loop


def undo(session: Session, loop_id: int, worker: str, now: int, lease: Lease) -> HumanLoop | Taken:
    """Take an answer back into the draft, until the loop's output is being written.

    The last answer of a loop whose availability is over stays: opened again it would only fail, and
    lose what all of them said. Shortly before its end it waits as long as the reviewer holds it.
    """
    loop = lock_loop(session, loop_id)
    mine = _part(session, loop_id, worker) if loop else None
    if loop is None or mine is None or mine.state != SUBMITTED:
        return Taken.NOT_YOURS
    if loop.phase == ANSWERED and loop.attempts == 0 and now < loop.expires_at:
        loop.phase = OPEN
        loop.due_at = max(loop.expires_at, now + lease.hold_ms)
        loop.answered_at = None
    elif loop.phase != OPEN:
        return Taken.CLOSED
    loop.answers -= 1
    mine.draft, mine.answer, mine.label = mine.answer, None, None
    mine.submitted_at, mine.turn = None, None
    mine.state = WORKING
    mine.lease_until = now + lease.hold_ms
    return loop


def undo_many(
    session: Session, flow_id: str, loop_ids: Collection[int], worker: str, now: int, lease: Lease
) -> int:
    """Take back those of a reviewer's answers that still can be; returns how many."""
    query = select(Assignment.loop_id).where(
        Assignment.loop_id.in_(loop_ids), Assignment.worker == worker, Assignment.flow_id == flow_id
    )
    mine = session.scalars(query.order_by(Assignment.loop_id)).all()
    taken = [undo(session, loop_id, worker, now, lease) for loop_id in mine]
    return sum(not isinstance(each, Taken) for each in taken)


def let_go(
    session: Session, flow_id: str, loop_ids: Collection[int], worker: str, state: str = SKIPPED
) -> Taken | None:
    """Free a reviewer's slots; returns why one cannot be freed, and then frees none.

    A skipped loop is not given to them again unless they ask.
    """
    query = select(HumanLoop).where(HumanLoop.id.in_(loop_ids), HumanLoop.flow_id == flow_id)
    query = query.order_by(HumanLoop.id).with_for_update()
    loops = session.scalars(query.execution_options(populate_existing=True)).all()
    parts = select(Assignment).where(Assignment.loop_id.in_(loop_ids), Assignment.worker == worker)
    parts = parts.execution_options(populate_existing=True)
    mine = {each.loop_id: each for each in session.scalars(parts)}
    if any(number not in mine for number in loop_ids) or len(loops) < len(set(loop_ids)):
        return Taken.NOT_YOURS
    if any(each.state in (SUBMITTED, EXCLUDED) for each in mine.values()):
        return Taken.NOT_YOURS
    for loop in loops:
        if mine[loop.id].state == WORKING:
            _vacate(loop)
        mine[loop.id].state = state
        mine[loop.id].lease_until = None
    return None


def save_draft(session: Session, loop_id: int, worker: str, draft: dict[str, Any] | None) -> bool:
    """Keep what a reviewer has entered so far; False where there is no such open assignment."""
    mine = Assignment.loop_id == loop_id, Assignment.worker == worker
    is_open = Assignment.state.not_in((SUBMITTED, EXCLUDED))
    return _change(session, update(Assignment).where(*mine, is_open).values(draft=draft)) > 0


def keep_from(
    session: Session, loop: HumanLoop, flow: FlowDefinition, workers: Collection[str], now: int
) -> bool:
    """Keep a new loop from workers, by their ids, where enough others of its team can answer it.

    Where too few others are there, nobody is kept from it: it could never be completed.
    """
    named = {user.worker_id: user.name for user in users_of(session, workers)}
    others = members_of(session, flow) - set(named.values())
    if len(others) < loop.task_count:
        return False
    session.add_all(
        Assignment(
            loop_id=loop.id, worker=name, flow_id=flow.id, state=EXCLUDED, accepted_at=now
        )
        for name in named.values()
    )  # fmt: skip
    return True


def recall_skipped(session: Session, flow_id: str, worker: str) -> int:
    """Let a reviewer's skipped loops come up again; returns how many."""
    mine = Assignment.worker == worker, Assignment.flow_id == flow_id, Assignment.state == SKIPPED
    return _change(session, update(Assignment).where(*mine).values(state=LAPSED))


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


def _part(session: Session, loop_id: int, worker: str) -> Assignment | None:
    """Return a reviewer's part in a loop that is locked, as it is now, or None."""
    return session.get(Assignment, (loop_id, worker), populate_existing=True)


def _change(session: Session, statement: Update) -> int:
    """Change assignments without their loops' locks; returns how many are changed.

    In one statement, which looks at each row as it is when it is changed: what another server has
    answered in between stays an answer.
    """
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def last_submitted(session: Session, flow_id: str, worker: str) -> Assignment | None:
    """Return a reviewer's newest answer in a flow, or None."""
    query = select(Assignment).where(
        Assignment.worker == worker, Assignment.flow_id == flow_id, Assignment.state == SUBMITTED
    )
    # Not by time: a clock may go back, and many that are accepted at once have one time.
    order = Assignment.turn.desc(), Assignment.loop_id.desc()
    return session.scalars(query.order_by(*order).limit(1)).first()


def open_loops(session: Session, flow_id: str) -> int:
    """Return how many loops have a free slot."""
    return session.scalar(select(func.count()).where(HumanLoop.queue == flow_id)) or 0


def counts(session: Session, flow: FlowDefinition, worker: str, free: int) -> dict[str, int]:
    """Return how many items a reviewer can still take, has answered, holds, has skipped.

    :param free: loops with a free slot, as `open_loops` counts them
    """
    flow_id = flow.id
    by_state = (
        select(Assignment.state, func.count())
        .where(Assignment.worker == worker, Assignment.flow_id == flow_id)
        .group_by(Assignment.state)
    )
    mine: dict[str, int] = {state: number for state, number in session.execute(by_state)}
    # Loops that are queued although this reviewer has had their turn with them; none that takes
    # one answer is, once it has it.
    turns = [SKIPPED, WORKING, EXCLUDED]
    if flow.request["HumanLoopConfig"]["TaskCount"] > 1:
        turns.append(SUBMITTED)
    had = select(func.count()).where(
        HumanLoop.queue == flow_id,
        HumanLoop.id == Assignment.loop_id,
        Assignment.worker == worker,
        Assignment.flow_id == flow_id,
        Assignment.state.in_(turns),
    )
    waiting = free - (session.scalar(had) or 0 if mine else 0)
    return {
        "waiting": max(0, waiting) + mine.get(WORKING, 0),
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


def _occupy(loop: HumanLoop) -> None:
    loop.free_slots -= 1
    if loop.free_slots < 1:
        loop.queue = None


def _vacate(loop: HumanLoop) -> None:
    if loop.phase == OPEN:
        loop.free_slots += 1
        loop.queue = loop.flow_id
