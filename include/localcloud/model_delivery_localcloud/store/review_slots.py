"""Slots of human loops that reviewers take: those they hold, then the first that are free.

Written as prepared statements and not through the mapped classes: hundreds of answers a second
pass here, and what each statement costs is paid once for all reviewers who ask at a time. Whatever
else happens to slots is in `review_queue.py`, whose rules hold here too: lock the loop first, and
let the constraints have the last word.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Float,
    Integer,
    bindparam,
    func,
    insert,
    select,
    tuple_,
    update,
)

from model_delivery_localcloud.store.human_loops import LAPSED, WORKING
from model_delivery_localcloud.store.review_heads import BEGINNING, Heads
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop


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


@dataclass
class Asker:
    """A reviewer who asks for `count` items of a queue, and what they have got."""

    flow_id: str
    worker: str
    lease: Lease
    count: int
    held: list[Held] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many items they have not got yet."""
        return self.count - len(self.held)


# More than are asked for are looked at: somebody may have had the first of them.
_SPARE = 8
_LOOP: Any = HumanLoop.__table__
_PART: Any = Assignment.__table__
_ITEM = _LOOP.c.id, _LOOP.c.name, _LOOP.c.model_label, _LOOP.c.confidence, _LOOP.c.free_slots
_LIMIT = bindparam("count", type_=Integer)
_WAITS = _LOOP.c.queue == bindparam("flow"), _LOOP.c.expires_at > bindparam("now")

_HELD = (
    select(
        _PART.c.worker, _LOOP.c.id, _LOOP.c.name, _LOOP.c.model_label, _LOOP.c.confidence,
        _PART.c.draft, _PART.c.lease_until,
    )
    .join(_PART, _PART.c.loop_id == _LOOP.c.id)
    .where(
        _PART.c.worker.in_(bindparam("workers", expanding=True)),
        _PART.c.flow_id == bindparam("flow"),
        _PART.c.state == WORKING,
    )
    .order_by(_PART.c.accepted_at, _LOOP.c.id)
)  # fmt: skip
_FIRST = (
    select(*_ITEM)
    .where(*_WAITS)
    .order_by(_LOOP.c.priority, _LOOP.c.id)
    .limit(_LIMIT)
    .with_for_update(skip_locked=True)
)
# Of whomever: a loop has few, and two lists are looked up pair by pair.
_PARTS = select(_PART.c.loop_id, _PART.c.worker, _PART.c.state, _PART.c.draft).where(
    _PART.c.loop_id.in_(bindparam("loops", expanding=True))
)


# The reviewer's own row by its key, one loop after the other. Joined, a planner may well read all
# that the reviewer ever answered for each loop in the queue.
_STATE = (
    select(_PART.c.state)
    .where(_PART.c.loop_id == _LOOP.c.id, _PART.c.worker == bindparam("who"))
    .correlate(_LOOP)
    .scalar_subquery()
)
_FROM = tuple_(bindparam("priority", type_=Float(53)), bindparam("first", type_=BigInteger))
_NEXT = (
    select(*_ITEM, _LOOP.c.priority)
    .where(
        *_WAITS,
        tuple_(_LOOP.c.priority, _LOOP.c.id) >= _FROM,
        func.coalesce(_STATE, LAPSED) == LAPSED,
    )
    .order_by(_LOOP.c.priority, _LOOP.c.id)
    .limit(_LIMIT)
    .with_for_update(of=_LOOP, skip_locked=True)
)
_NEWEST = select(func.coalesce(func.max(_LOOP.c.id), 0))
_OCCUPY = (
    update(_LOOP)
    .where(_LOOP.c.id == bindparam("loop"))
    .values(free_slots=bindparam("slots"), queue=bindparam("waits"))
)
_ASSIGN = insert(_PART).values(
    loop_id=bindparam("loop"), worker=bindparam("who"), flow_id=bindparam("flow"), state=WORKING,
    accepted_at=bindparam("now"), lease_until=bindparam("until"), spent_ms=0,
)  # fmt: skip
_RESUME = (
    update(_PART)
    .where(_PART.c.loop_id == bindparam("loop"), _PART.c.worker == bindparam("who"))
    .values(state=WORKING, accepted_at=bindparam("now"), lease_until=bindparam("until"))
)


class _Taking:
    """Slots that are being taken: they are written all at once."""

    def __init__(self, connection: Connection, flow_id: str, now: int) -> None:
        self._connection = connection
        self._flow_id = flow_id
        self._now = now
        self._slots: dict[int, int] = {}
        self._new: list[dict[str, Any]] = []
        self._lapsed: list[dict[str, Any]] = []

    def free(self, item: Any) -> bool:
        """Tell whether a loop still has a free slot."""
        return bool(self._slots.get(item.id, item.free_slots))

    def take(self, item: Any, asker: Asker, lapsed: Any) -> None:
        """Give a loop's free slot to a reviewer.

        :param lapsed: their part in it that lapsed, None where they have none
        """
        until = self._now + asker.lease.hold_ms
        self._slots[item.id] = self._slots.get(item.id, item.free_slots) - 1
        part = {"loop": item.id, "who": asker.worker, "now": self._now, "until": until}
        if lapsed is None:
            self._new.append({**part, "flow": self._flow_id})
        else:
            self._lapsed.append(part)
        draft = lapsed.draft if lapsed is not None else None
        held = Held(item.id, item.name, item.model_label, item.confidence, draft, until)
        asker.held.append(held)

    def write(self) -> None:
        """Write what was taken."""
        occupied = [
            {"loop": loop, "slots": slots, "waits": self._flow_id if slots else None}
            for loop, slots in self._slots.items()
        ]
        for statement, values in (
            (_ASSIGN, self._new), (_RESUME, self._lapsed), (_OCCUPY, occupied)
        ):  # fmt: skip
            if values:
                self._connection.execute(statement, values)


def give_held(connection: Connection, flow_id: str, askers: Sequence[Asker]) -> None:
    """Give reviewers what they hold already, in the order they took it."""
    by_name = {asker.worker: asker for asker in askers}
    rows = connection.execute(_HELD, {"workers": list(by_name), "flow": flow_id})
    for worker, *held in rows:
        if by_name[worker].missing > 0:
            by_name[worker].held.append(Held(*held))


def give_first(connection: Connection, flow_id: str, askers: Sequence[Asker], now: int) -> None:
    """Take the first free slots of a queue, the least certain items, for all who ask.

    Whoever has had most of the first items gets too few: `give_next` looks further.
    """
    count = sum(asker.missing for asker in askers) + _SPARE
    found = connection.execute(_FIRST, {"flow": flow_id, "now": now, "count": count}).all()
    if not found:
        return
    parts = _parts_in(connection, found)
    taking = _Taking(connection, flow_id, now)
    for asker in askers:
        for item in found:
            part = parts.get((item.id, asker.worker))
            if asker.missing and taking.free(item) and (part is None or part.state == LAPSED):
                taking.take(item, asker, part)
    taking.write()


def give_next(
    connection: Connection, flow_id: str, asker: Asker, now: int, heads: Heads | None = None
) -> None:
    """Take the first free slots that one reviewer can have, however far into the queue.

    :param heads: says where the queue begins for them, and is told (default: at its beginning)
    """
    start = heads.of(flow_id, asker.worker) if heads is not None else BEGINNING
    while asker.missing:
        began = time.monotonic()
        found = connection.execute(
            _NEXT,
            {
                "who": asker.worker, "flow": flow_id, "now": now, "count": asker.missing,
                "priority": start[0], "first": start[1],
            },
        ).all()  # fmt: skip
        if not found:
            return
        if heads is not None and start == BEGINNING:
            place = found[0].priority, found[0].id
            heads.note(flow_id, asker.worker, place, time.monotonic() - began)
        parts = _parts_in(connection, found)
        taking, passed = _Taking(connection, flow_id, now), False
        for item in found:
            part = parts.get((item.id, asker.worker))
            if part is None or part.state == LAPSED:
                taking.take(item, asker, part)
            else:  # changed by another server during the walk; the next walk knows of it
                passed = True
        taking.write()
        if not passed:
            return


def newest_loop(connection: Connection) -> int:
    """Return the highest id of a loop, 0 where there is none."""
    return int(connection.execute(_NEWEST).scalar_one())


def _parts_in(connection: Connection, items: Sequence[Any]) -> dict[tuple[int, str], Any]:
    """Return everybody's parts in loops that are locked, by loop and reviewer.

    What the statement that locked them saw of the parts may be older than the lock.
    """
    rows = connection.execute(_PARTS, {"loops": [item.id for item in items]})
    return {(part.loop_id, part.worker): part for part in rows}
