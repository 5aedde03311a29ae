"""The two steps of which a reviewer's day is made: take the next item, hand in an answer.

They are written as prepared statements and not through the mapped classes: hundreds of answers a
second pass here, one writer at a time. Whatever else happens to slots is in `review_queue.py`,
whose rules hold here too: lock the loop first, and let the constraints have the last word.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.human_loops import (
    ANSWERED,
    EXCLUDED,
    LAPSED,
    OPEN,
    SUBMITTED,
    WORKING,
)
from model_delivery_localcloud.store.review_heads import BEGINNING, Heads
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop


class Taken(Enum):
    """Why an answer, a draft or an undo was not taken."""

    NOT_YOURS = "this item was not given to you: open it from its queue"
    CLOSED = "this item is closed: it was stopped, it expired, or it is complete"
    ANSWERED_ALREADY = "you have answered this item already: undo that answer first"
    FOR_OTHERS = "you have answered this item in another round: this time it is for others"
    NO_SLOT = "your time for this item was over, and others hold or have answered it meanwhile"


@dataclass(frozen=True)
class Lease:
    """How long a slot is held, and how long an answer can be taken back; milliseconds."""

    hold_ms: int
    undo_ms: int


@dataclass(frozen=True)
class Held:
    """An item that a reviewer holds, with what is theirs of it."""

    loop: int
    name: str
    model_label: str | None
    confidence: float | None
    draft: dict[str, Any] | None
    held_until: int | None


@dataclass(frozen=True)
class Given:
    """An answer as it is handed in; `spent_ms` is how long its reviewer says it took."""

    loop: int
    answer: dict[str, Any]
    label: str | None
    spent_ms: int


_Values = tuple[dict[str, Any], dict[str, Any]]


class _Pair:
    """Two statements that always follow one another: one request where the database takes both."""

    def __init__(self, first: Any, second: Any) -> None:
        self._each = first, second
        self._one = second.add_cte(first.cte("first"))

    def run(self, connection: Connection, values: Sequence[_Values]) -> None:
        """Run both so many times, all in one request; values are by the names of parameters."""
        if not values:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self._one, [{**first, **second} for first, second in values])
            return
        for statement, each in zip(self._each, zip(*values, strict=True), strict=True):
            connection.execute(statement, list(each))


_LOOP: Any = HumanLoop.__table__
_MINE: Any = Assignment.__table__
_ITEM = (
    _LOOP.c.id, _LOOP.c.name, _LOOP.c.model_label, _LOOP.c.confidence, _MINE.c.draft,
)  # fmt: skip
_OF_MINE = and_(_MINE.c.loop_id == bindparam("loop"), _MINE.c.worker == bindparam("who"))

_HELD = (
    select(*_ITEM, _MINE.c.lease_until)
    .join(_MINE, _MINE.c.loop_id == _LOOP.c.id)
    .where(
        _MINE.c.worker == bindparam("who"),
        _MINE.c.flow_id == bindparam("flow"),
        _MINE.c.state == WORKING,
    )
    .order_by(_MINE.c.accepted_at)
    .limit(bindparam("count", type_=Integer))
)


def _of_mine(column: Any) -> Any:
    """Look a column of the reviewer's own row up by its key, one loop after the other.

    Joined, a planner may well read all that the reviewer ever answered for each loop in the queue.
    """
    mine = _MINE.c.loop_id == _LOOP.c.id, _MINE.c.worker == bindparam("who")
    return select(column).where(*mine).correlate(_LOOP).scalar_subquery()


_STATE = _of_mine(_MINE.c.state)
_FROM = tuple_(bindparam("priority", type_=Float(53)), bindparam("first", type_=BigInteger))
_FREE = (
    select(
        _LOOP.c.id, _LOOP.c.name, _LOOP.c.model_label, _LOOP.c.confidence, _LOOP.c.free_slots,
        _STATE.label("state"), _of_mine(_MINE.c.draft).label("draft"), _LOOP.c.priority,
    )
    .where(
        _LOOP.c.queue == bindparam("flow"),
        tuple_(_LOOP.c.priority, _LOOP.c.id) >= _FROM,
        _LOOP.c.expires_at > bindparam("now"),
        func.coalesce(_STATE, LAPSED) == LAPSED,
    )
    .order_by(_LOOP.c.priority, _LOOP.c.id)
    .limit(bindparam("count", type_=Integer))
    .with_for_update(of=_LOOP, skip_locked=True)
)  # fmt: skip
_OCCUPY = (
    update(_LOOP)
    .where(_LOOP.c.id == bindparam("loop"))
    .values(free_slots=bindparam("slots"), queue=bindparam("waits"))
)
_ASSIGN = insert(_MINE).values(
    loop_id=bindparam("loop"), worker=bindparam("who"), flow_id=bindparam("flow"), state=WORKING,
    accepted_at=bindparam("now"), lease_until=bindparam("until"), spent_ms=0,
)  # fmt: skip
_RESUME = (
    update(_MINE)
    .where(_OF_MINE)
    .values(state=WORKING, accepted_at=bindparam("now"), lease_until=bindparam("until"))
)
_LOCK = (
    select(
        _LOOP.c.id, _LOOP.c.flow_id, _LOOP.c.phase, _LOOP.c.answers, _LOOP.c.task_count,
        _LOOP.c.free_slots, _LOOP.c.queue, _LOOP.c.modified_at, _LOOP.c.due_at,
        _LOOP.c.answered_at,
        _MINE.c.state, _MINE.c.answer, _MINE.c.accepted_at,
    )
    .join(_MINE, _MINE.c.loop_id == _LOOP.c.id)
    .where(_LOOP.c.id.in_(bindparam("loops", expanding=True)), _MINE.c.worker == bindparam("who"))
    .order_by(_LOOP.c.id)
    .with_for_update()
)  # fmt: skip
_BEFORE: Any = _MINE.alias("before")
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
    update(_MINE)
    .where(_OF_MINE)
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
_ASSIGN_FREE = _Pair(_ASSIGN, _OCCUPY)
_RESUME_FREE = _Pair(_RESUME, _OCCUPY)
_ANSWER_AND_COUNT = _Pair(_ANSWER, _COUNT)


def take_held(session: Session, flow_id: str, worker: str, count: int) -> list[Held]:
    """Return what a reviewer holds already, in the order they took it."""
    rows = session.connection().execute(_HELD, {"who": worker, "flow": flow_id, "count": count})
    return [Held(*row) for row in rows]


def take_free(
    session: Session,
    flow_id: str,
    worker: str,
    now: int,
    lease: Lease,
    count: int,
    heads: Heads | None = None,
) -> list[Held]:
    """Take free slots for a reviewer, the least certain items first.

    :param heads: says where the queue begins for them, and is told (default: at its beginning)
    """
    until = now + lease.hold_ms
    connection = session.connection()
    start = heads.of(flow_id, worker) if heads is not None else BEGINNING
    began = time.monotonic()
    found = connection.execute(
        _FREE,
        {
            "who": worker, "flow": flow_id, "now": now, "count": count,
            "priority": start[0], "first": start[1],
        },
    ).all()  # fmt: skip
    if heads is not None and start == BEGINNING and found:
        place = found[0].priority, found[0].id
        heads.note(flow_id, worker, place, time.monotonic() - began)
    new: list[_Values] = []
    again: list[_Values] = []
    for row in found:
        slots = row.free_slots - 1
        mine = {"loop": row.id, "who": worker, "now": now, "until": until}
        occupied = {"loop": row.id, "slots": slots, "waits": flow_id if slots else None}
        if row.state is None:
            new.append(({**mine, "flow": flow_id}, occupied))
        else:
            again.append((mine, occupied))
    _ASSIGN_FREE.run(connection, new)
    _RESUME_FREE.run(connection, again)
    return [
        Held(row.id, row.name, row.model_label, row.confidence, row.draft, until) for row in found
    ]


def submit(
    session: Session, flow_id: str, worker: str, given: Sequence[Given], now: int, lease: Lease
) -> Taken | None:
    """Keep a reviewer's answers; returns why one of them cannot be kept, and then keeps none.

    The same answer again is no error and counts once. A lease that ran out loses nothing while a
    slot is free. A clock that went back makes no time earlier than what it follows.
    """
    connection = session.connection()
    # Joined, so that one statement locks both rows: no answer is read before its loop is locked.
    rows = connection.execute(_LOCK, {"loops": [each.loop for each in given], "who": worker})
    loops = {row.id: row for row in rows}
    kept: list[_Values] = []
    for each in given:
        loop: Any = loops.get(each.loop)
        fault = _fault(loop, flow_id, each)
        if fault is not None:
            return fault
        if loop.state != SUBMITTED:
            kept.append(_values(loop, worker, each, now, lease))
    _ANSWER_AND_COUNT.run(connection, kept)
    return None


def _fault(loop: Any, flow_id: str, given: Given) -> Taken | None:
    if loop is None or loop.flow_id != flow_id:
        return Taken.NOT_YOURS
    if loop.state == SUBMITTED:
        return None if loop.answer == given.answer else Taken.ANSWERED_ALREADY
    if loop.phase != OPEN:
        return Taken.CLOSED
    if loop.state == EXCLUDED:
        return Taken.FOR_OTHERS
    if loop.state != WORKING and loop.free_slots < 1:
        return Taken.NO_SLOT
    return None


def _values(loop: Any, worker: str, given: Given, now: int, lease: Lease) -> _Values:
    """Return what an answer makes of its reviewer's row and of its loop's."""
    slots, waits = loop.free_slots, loop.queue
    if loop.state != WORKING:
        slots -= 1
        waits = loop.flow_id if slots else None
    at = max(now, loop.accepted_at)
    full = loop.answers + 1 == loop.task_count
    return (
        {
            "loop": loop.id, "who": worker, "flow": loop.flow_id, "given": given.answer,
            "said": given.label, "at": at,
            "spent": max(0, min(given.spent_ms, at - loop.accepted_at)),
        },
        {
            "loop": loop.id, "number": loop.answers + 1, "slots": slots, "waits": waits,
            "next_phase": ANSWERED if full else OPEN, "modified": max(now, loop.modified_at),
            "due": now + lease.undo_ms if full else loop.due_at,
            "answered": at if full else loop.answered_at,
        },
    )  # fmt: skip
