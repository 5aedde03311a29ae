"""How the work of one flow definition goes, as a lead asks."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, null, select, tuple_
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.human_loops import ANSWERED, OPEN, SUBMITTED, WORKING
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop

HOUR_MS = 3_600_000
MOST_ITEMS = 5_000
# An answer has 2 MiB at most.
EXPORT_AT_ONCE = 32


@dataclass(frozen=True)
class QueueState:
    """A queue now: loops by what they wait for or how they ended, and the age of what is open.

    `statuses` counts loops by AWS's status, `held` the slots that reviewers hold. Ages are in
    milliseconds, None where nothing is open. `unwritten` is why an output waits, where one does.
    """

    statuses: dict[str, int]
    answered: int
    held: int
    oldest_ms: int | None
    median_ms: int | None
    unwritten: str | None


@dataclass(frozen=True)
class GivenAnswer:
    """An answer with what it is held against; `answer` is None where its content is not read."""

    loop: str
    worker: str
    label: str | None
    seconds: float
    submitted_at: int
    model_label: str | None
    confidence: float | None
    known_answer: str | None
    answer: dict[str, object] | None


def queue_state(session: Session, flow_id: str, now: int) -> QueueState:
    """Return a queue's state."""
    mine = HumanLoop.flow_id == flow_id
    by_status = select(HumanLoop.status, func.count()).where(mine).group_by(HumanLoop.status)
    # Its index begins with the flow and the creation time: the oldest is its first open row.
    waiting = select(HumanLoop.created_at).where(mine, HumanLoop.phase == OPEN)
    waiting = waiting.order_by(HumanLoop.created_at)
    number = _count(session, mine, HumanLoop.phase == OPEN)
    oldest = session.scalar(waiting.limit(1))
    median = session.scalar(waiting.offset(number // 2).limit(1)) if number else None
    unwritten = select(HumanLoop.failure_reason).where(
        mine, HumanLoop.phase == ANSWERED, HumanLoop.failure_reason != ""
    )
    return QueueState(
        statuses={status: each for status, each in session.execute(by_status)},
        answered=_count(session, mine, HumanLoop.phase == ANSWERED),
        held=session.scalar(
            select(func.count()).where(Assignment.flow_id == flow_id, Assignment.state == WORKING)
        )
        or 0,
        oldest_ms=None if oldest is None else max(0, now - oldest),
        median_ms=None if median is None else max(0, now - median),
        unwritten=session.scalar(unwritten.limit(1)),
    )


def answers_by_hour(session: Session, flow_id: str, since: int) -> dict[int, int]:
    """Return how many answers each hour since then brought, by the hour's start."""
    hour = Assignment.submitted_at // HOUR_MS
    query = (
        select(hour, func.count())
        .where(Assignment.flow_id == flow_id, Assignment.submitted_at >= since)
        .group_by(hour)
    )
    return {
        start * HOUR_MS: number for start, number in session.execute(query) if start is not None
    }


def answers_by_worker(session: Session, flow_id: str) -> dict[str, tuple[int, int]]:
    """Return how many answers each reviewer gave, and when the last."""
    query = (
        select(Assignment.worker, func.count(), func.max(Assignment.submitted_at))
        .where(Assignment.flow_id == flow_id, Assignment.state == SUBMITTED)
        .group_by(Assignment.worker)
    )
    found = session.execute(query)
    return {worker: (number, last or 0) for worker, number, last in found}


def newest_answers(session: Session, flow_id: str) -> list[GivenAnswer]:
    """Return the answers to the 5,000 items that were answered last, without their contents.

    A form's may have a megabyte each, and figures need their labels only.
    """
    newest = (
        select(Assignment.loop_id)
        .where(Assignment.flow_id == flow_id, Assignment.submitted_at.is_not(None))
        .group_by(Assignment.loop_id)
        .order_by(func.max(Assignment.submitted_at).desc())
        .limit(MOST_ITEMS)
    )
    return [
        _given(row) for row in session.execute(_answers(Assignment.loop_id.in_(newest), null()))
    ]


def answers_after(
    session: Session, flow_id: str, after: tuple[int, str]
) -> tuple[list[GivenAnswer], tuple[int, str]]:
    """Return the next 32 answers of a flow definition, in the loops' order, and the last one's key.

    :param after: loop and reviewer of the last answer before; `(0, "")` for the first ones
    """
    key = Assignment.loop_id, Assignment.worker
    query = _answers(Assignment.flow_id == flow_id, Assignment.answer).add_columns(*key)
    query = query.where(tuple_(*key) > after).order_by(None).order_by(*key).limit(EXPORT_AT_ONCE)
    rows = session.execute(query).all()
    return [_given(row[:-2]) for row in rows], tuple(rows[-1][-2:]) if rows else after


def _answers(condition: ColumnElement[bool], content: Any) -> Any:
    return (
        select(
            HumanLoop.name,
            Assignment.worker,
            Assignment.label,
            Assignment.spent_ms,
            Assignment.submitted_at,
            HumanLoop.model_label,
            HumanLoop.confidence,
            HumanLoop.known_answer,
            content,
        )
        .join(HumanLoop, HumanLoop.id == Assignment.loop_id)
        .where(Assignment.state == SUBMITTED, condition)
        .order_by(HumanLoop.id, Assignment.submitted_at)
    )


def _given(row: Any) -> GivenAnswer:
    loop, worker, label, spent, at, model, confidence, known, answer = row
    return GivenAnswer(loop, worker, label, spent / 1000, at, model, confidence, known, answer)


def _count(session: Session, *conditions: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).where(*conditions)) or 0
