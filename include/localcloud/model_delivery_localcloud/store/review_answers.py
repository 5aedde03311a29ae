"""Answers to human loops: those of many reviewers are handed in at once.

Each reviewer's are kept all or none, and none of another's depends on that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from model_delivery_localcloud.store.human_loops import ANSWERED, EXCLUDED, OPEN, SUBMITTED, WORKING
from model_delivery_localcloud.store.review_slots import Lease
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop


class Taken(Enum):
    """Why an answer, a draft or an undo was not taken."""

    NOT_YOURS = "this item was not given to you: open it from its queue"
    CLOSED = "this item is closed: it was stopped, it expired, or it is complete"
    ANSWERED_ALREADY = "you have answered this item already: undo that answer first"
    FOR_OTHERS = "you have answered this item in another round: this time it is for others"
    NOTHING_TO_UNDO = "there is no answer of yours to undo"
    NO_SLOT = "your time for this item was over, and others hold or have answered it meanwhile"


@dataclass(frozen=True)
class Given:
    """An answer as it is handed in; `spent_ms` is how long its reviewer says it took."""

    loop: int
    answer: dict[str, Any]
    label: str | None
    spent_ms: int


@dataclass(frozen=True)
class Handed:
    """What one reviewer hands in.

    :param given: answers to different loops of the flow definition; all are kept or none
    """

    flow_id: str
    worker: str
    lease: Lease
    given: Sequence[Given] = ()


@dataclass
class _Loop:
    id: int
    flow_id: str
    phase: str
    answers: int
    task_count: int
    free_slots: int
    queue: str | None
    modified_at: int
    due_at: int | None
    answered_at: int | None


@dataclass
class _Part:
    """A reviewer's part in a loop."""

    state: str
    answer: dict[str, Any] | None
    accepted_at: int


_LOOP: Any = HumanLoop.__table__
_PART: Any = Assignment.__table__
_LOCK = (
    select(
        _LOOP.c.id, _LOOP.c.flow_id, _LOOP.c.phase, _LOOP.c.answers, _LOOP.c.task_count,
        _LOOP.c.free_slots, _LOOP.c.queue, _LOOP.c.modified_at, _LOOP.c.due_at,
        _LOOP.c.answered_at,
    )
    .where(_LOOP.c.id.in_(bindparam("loops", expanding=True)))
    .order_by(_LOOP.c.id)
    .with_for_update()
)  # fmt: skip
_PARTS = select(
    _PART.c.loop_id, _PART.c.worker, _PART.c.state, _PART.c.answer, _PART.c.accepted_at
).where(_PART.c.loop_id.in_(bindparam("loops", expanding=True)))
_BEFORE: Any = _PART.alias("before")
_NEXT_TURN = (
    select(func.coalesce(func.max(_BEFORE.c.turn), 0) + 1)
    .where(
        _BEFORE.c.worker == bindparam("who"),
        _BEFORE.c.flow_id == bindparam("flow"),
        _BEFORE.c.state == SUBMITTED,
    )
    .scalar_subquery()
)
_ANSWER = (
    update(_PART)
    .where(_PART.c.loop_id == bindparam("loop"), _PART.c.worker == bindparam("who"))
    .values(
        state=SUBMITTED, answer=bindparam("given"), label=bindparam("said"), draft=None,
        lease_until=None, submitted_at=bindparam("at"), spent_ms=bindparam("spent"),
        turn=_NEXT_TURN,
    )
)  # fmt: skip
_COUNT = (
    update(_LOOP)
    .where(_LOOP.c.id == bindparam("loop"))
    .values(
        answers=bindparam("number"), free_slots=bindparam("slots"), queue=bindparam("waits"),
        phase=bindparam("next_phase"), modified_at=bindparam("modified"),
        due_at=bindparam("due"), answered_at=bindparam("answered"),
    )
)  # fmt: skip


def hand_in(connection: Connection, handed: Sequence[Handed], now: int) -> list[Taken | None]:
    """Keep answers; returns for each reviewer why one of theirs cannot be kept: then none is.

    The same answer again is no error and counts once. A lease that ran out loses nothing while a
    slot is free. A clock that went back makes no time earlier than what it follows.
    """
    wanted = sorted({given.loop for each in handed for given in each.given})
    if not wanted:
        return [None] * len(handed)
    loops = {row.id: _Loop(**row._mapping) for row in connection.execute(_LOCK, {"loops": wanted})}
    # Read once the loops are locked: nobody else changes them from here on.
    rows = connection.execute(_PARTS, {"loops": wanted})
    parts = {(loop, worker): _Part(*part) for loop, worker, *part in rows}
    faults: list[Taken | None] = []
    answers: list[dict[str, Any]] = []
    for each in handed:
        mine = [(loops.get(given.loop), parts.get((given.loop, each.worker)), given)
                for given in each.given]  # fmt: skip
        found = (_fault(loop, part, each.flow_id, given) for loop, part, given in mine)
        faults.append(next(filter(None, found), None))
        if faults[-1] is None:
            answers += [
                _answer(loop, part, each, given, now)
                for loop, part, given in mine
                if loop is not None and part is not None and part.state != SUBMITTED
            ]
    if answers:
        connection.execute(_ANSWER, answers)
        connection.execute(_COUNT, [_counted(loops[i]) for i in {each["loop"] for each in answers}])
    return faults


def _fault(loop: _Loop | None, part: _Part | None, flow_id: str, given: Given) -> Taken | None:
    if loop is None or part is None or loop.flow_id != flow_id:
        return Taken.NOT_YOURS
    if part.state == SUBMITTED:
        return None if part.answer == given.answer else Taken.ANSWERED_ALREADY
    if loop.phase != OPEN:
        return Taken.CLOSED
    if part.state == EXCLUDED:
        return Taken.FOR_OTHERS
    if part.state != WORKING and loop.free_slots < 1:
        return Taken.NO_SLOT
    return None


def _answer(loop: _Loop, part: _Part, by: Handed, given: Given, now: int) -> dict[str, Any]:
    """Count an answer to a loop; return what it makes of its reviewer's row."""
    if part.state != WORKING:
        loop.free_slots -= 1
        loop.queue = loop.flow_id if loop.free_slots else None
    at = max(now, part.accepted_at)
    loop.answers += 1
    loop.modified_at = max(now, loop.modified_at)
    if loop.answers == loop.task_count:
        loop.phase, loop.due_at, loop.answered_at = ANSWERED, now + by.lease.undo_ms, at
    part.state, part.answer = SUBMITTED, given.answer
    return {
        "loop": loop.id, "who": by.worker, "flow": loop.flow_id, "given": given.answer,
        "said": given.label, "at": at, "spent": max(0, min(given.spent_ms, at - part.accepted_at)),
    }  # fmt: skip


def _counted(loop: _Loop) -> dict[str, Any]:
    return {
        "loop": loop.id, "number": loop.answers, "slots": loop.free_slots, "waits": loop.queue,
        "next_phase": loop.phase, "modified": loop.modified_at, "due": loop.due_at,
        "answered": loop.answered_at,
    }  # fmt: skip
