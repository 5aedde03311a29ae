"""What the worker process finds to do for human reviews, and how it claims it.

Claims are made by moving `due_at` into the future, under the row's lock: a worker that dies leaves
a claim that runs out. A claim of loops is short and renewed while their outputs are written: nobody
waits long for what a dead worker held, and a store that is slow costs nobody their claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.review.output import Reviewer
from model_delivery_localcloud.store import human_loops, review_queue
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.review_tables import (
    Assignment,
    FlowDefinition,
    HumanLoop,
    HumanLoopInput,
    WebhookEvent,
)
from model_delivery_localcloud.store.tables import User

CLAIM_MS = 10_000
# Of a batch of events, each of which may take as long as a receiver takes to refuse.
EVENT_CLAIM_MS = 120_000
LONGEST_PAUSE_MS = 60_000


@dataclass(frozen=True)
class Finished:
    """A loop whose answers are all in, with what its output needs."""

    loop: HumanLoop
    flow: FlowDefinition
    content: str
    answers: list[Assignment]
    reviewers: dict[str, Reviewer]


def has_lapsed(session: Session, now: int) -> bool:
    """Tell whether the time of an open loop or of a slot is over, without writing."""
    slots = select(Assignment.loop_id).where(Assignment.lease_until <= now)
    return _has_due(session, now, human_loops.OPEN) or session.scalar(slots.limit(1)) is not None


def has_finished(session: Session, now: int) -> bool:
    """Tell whether the output of a loop is to be written now, without writing."""
    return _has_due(session, now, human_loops.ANSWERED)


def has_events(session: Session, now: int) -> bool:
    """Tell whether a webhook event is due, without writing."""
    query = select(WebhookEvent.id).where(WebhookEvent.due_at <= now)
    return session.scalar(query.limit(1)) is not None


def expire_due(session: Session, now: int, limit: int) -> int:
    """Fail the open loops whose availability is over; returns how many."""
    due = _due_loops(now, human_loops.OPEN, limit)
    loops: list[HumanLoop] = list(session.scalars(due))
    return sum(human_loops.expire_loop(session, loop, now) for loop in loops)


def claim_finished(session: Session, now: int, limit: int) -> list[HumanLoop]:
    """Claim loops whose output is to be written now."""
    loops = list(session.scalars(_due_loops(now, human_loops.ANSWERED, limit)))
    for loop in loops:
        loop.due_at = now + CLAIM_MS
        loop.attempts += 1
    return loops


def finished(session: Session, loops: list[HumanLoop]) -> list[Finished]:
    """Return claimed loops with what their outputs need: nothing of it changes any more.

    One that was deleted meanwhile, or its flow definition, is left out.
    """
    numbers = [loop.id for loop in loops]
    answers = review_queue.answers_of(session, numbers)
    inputs = select(HumanLoopInput).where(HumanLoopInput.loop_id.in_(numbers))
    contents = {each.loop_id: each.content for each in session.scalars(inputs)}
    flows = {each: resources.find_flow(session, each) for each in {x.flow_id for x in loops}}
    reviewers = _reviewers(session, {each.worker for found in answers.values() for each in found})
    return [
        Finished(loop, flow, contents[loop.id], answers[loop.id], reviewers)
        for loop in loops
        if loop.id in contents and (flow := flows[loop.flow_id]) is not None
    ]


def renew_claims(session: Session, claimed: Sequence[HumanLoop], now: int) -> int:
    """Claim loops for as long again, but for those that another has now; returns how many."""
    ours = still_claimed(session, claimed)
    for loop in ours.values():
        loop.due_at = now + CLAIM_MS
    return len(ours)


def still_claimed(session: Session, claimed: Sequence[HumanLoop]) -> dict[int, HumanLoop]:
    """Return, locked and by id, the loops whose claim has not gone to another meanwhile."""
    wanted = {loop.id: loop.attempts for loop in claimed}
    query = select(HumanLoop).where(HumanLoop.id.in_(wanted)).order_by(HumanLoop.id)
    query = query.with_for_update().execution_options(populate_existing=True)
    return {
        loop.id: loop
        for loop in session.scalars(query)
        if loop.phase == human_loops.ANSWERED and loop.attempts == wanted[loop.id]
    }


def record_written(session: Session, loop: HumanLoop, uri: str, now: int) -> None:
    """Set a loop that is claimed still Completed."""
    human_loops.complete_loop(session, loop, uri, now)


def record_unwritten(loop: HumanLoop, reason: str, now: int) -> None:
    """Try a claimed loop's output again later: after 1 s, 2 s, 4 s, … 60 s."""
    loop.failure_reason = reason[:1024]
    loop.due_at = now + pause_ms(loop.attempts)


def claim_events(session: Session, now: int, limit: int) -> list[tuple[WebhookEvent, HumanLoop]]:
    """Claim webhook events that are due, with their loops; an event of a deleted loop goes."""
    query = select(WebhookEvent).where(WebhookEvent.due_at <= now)
    query = query.order_by(WebhookEvent.due_at).limit(limit).with_for_update(skip_locked=True)
    claimed = []
    for event in session.scalars(query).all():
        loop = session.get(HumanLoop, event.body["loop_id"])
        if loop is None:
            session.delete(event)
            continue
        event.attempts += 1
        event.due_at = now + EVENT_CLAIM_MS
        claimed.append((event, loop))
    return claimed


def settle_event(session: Session, event: WebhookEvent, delivered: bool, now: int) -> None:
    """Forget an event that was delivered; try another again later."""
    found = session.get(WebhookEvent, event.id)
    if found is not None and delivered:
        session.delete(found)
    elif found is not None:
        found.due_at = now + pause_ms(found.attempts)


def forget_events(session: Session) -> None:
    """Drop all webhook events: nobody is to be told."""
    session.execute(delete(WebhookEvent))


def flows_to_settle(session: Session) -> list[FlowDefinition]:
    """Return the flow definitions that are on their way to Active, or out."""
    waiting = FlowDefinition.status.in_((resources.INITIALIZING, resources.DELETING))
    return list(session.scalars(select(FlowDefinition).where(waiting)))


def pause_ms(attempts: int) -> int:
    """Return how long to wait after the given number of attempts."""
    return min(LONGEST_PAUSE_MS, 1000 << min(attempts - 1, 10))


def _has_due(session: Session, now: int, phase: str) -> bool:
    query = select(HumanLoop.id).where(HumanLoop.due_at <= now, HumanLoop.phase == phase)
    return session.scalar(query.limit(1)) is not None


def _due_loops(now: int, phase: str, limit: int) -> Any:
    return (
        select(HumanLoop)
        .where(HumanLoop.due_at <= now, HumanLoop.phase == phase)
        .order_by(HumanLoop.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def _reviewers(session: Session, names: set[str]) -> dict[str, Reviewer]:
    known = {each.name: each for each in session.scalars(select(User).where(User.name.in_(names)))}
    # Whoever is gone from the users stays in the outputs of what they answered.
    return {
        name: Reviewer(known[name].worker_id if name in known else name, name) for name in names
    }
