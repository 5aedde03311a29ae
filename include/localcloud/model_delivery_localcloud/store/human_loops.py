"""Human loops in the store: their states, and what the runtime operations do to them.

A loop is `open` until each of its slots holds an answer, then `answered` until its output is in
the object store, then `done`. AWS's own status follows: InProgress all the while, Completed once
the object is there.
"""

import uuid
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.review_tables import (
    Assignment,
    FlowDefinition,
    HumanLoop,
    HumanLoopInput,
    WebhookEvent,
)

IN_PROGRESS = "InProgress"
FAILED = "Failed"
COMPLETED = "Completed"
STOPPED = "Stopped"
TERMINAL = frozenset({FAILED, COMPLETED, STOPPED})

OPEN = "open"
ANSWERED = "answered"
DONE = "done"

WORKING = "working"
SUBMITTED = "answered"
LAPSED = "lapsed"
SKIPPED = "skipped"
# Of a reviewer whom the loop is kept from.
EXCLUDED = "excluded"

EXPIRED = "Expired"

Scope = tuple[str, str]


def find_loop(session: Session, scope: Scope, name: str) -> HumanLoop | None:
    """Return the loop of that name, or None. `scope` is account and region."""
    account, region = scope
    return session.scalars(
        select(HumanLoop).where(
            HumanLoop.account == account, HumanLoop.region == region, HumanLoop.name == name
        )
    ).first()


def lock_loop(session: Session, loop_id: int) -> HumanLoop | None:
    """Return a loop that nobody else can change until the transaction ends, None if it is gone.

    As it is now, whatever the session knew of it.
    """
    query = select(HumanLoop).where(HumanLoop.id == loop_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).first()


def add_loop(session: Session, loop: HumanLoop, content: str, attributes: dict[str, Any]) -> None:
    """Store a new loop with its input; raises IntegrityError where the name is taken."""
    session.add(loop)
    session.flush()
    session.add(HumanLoopInput(loop_id=loop.id, content=content, attributes=attributes))


def list_loops(
    session: Session,
    flow: FlowDefinition,
    *,
    created_after: int | None,
    created_before: int | None,
    descending: bool,
    after: list[Any] | None,
    limit: int,
) -> list[HumanLoop]:
    """Return up to `limit` loops after [creation time, id]; times are exclusive."""
    table = HumanLoop
    query = select(table).where(table.flow_id == flow.id)
    if created_after is not None:
        query = query.where(table.created_at > created_after)
    if created_before is not None:
        query = query.where(table.created_at < created_before)
    if after is not None:
        created, number = after
        same = (table.created_at == created) & (
            table.id < number if descending else table.id > number
        )
        beyond = table.created_at < created if descending else table.created_at > created
        query = query.where(or_(beyond, same))
    order = [table.created_at, table.id]
    columns = [column.desc() for column in order] if descending else order
    return list(session.scalars(query.order_by(*columns).limit(limit)))


def stop_loop(session: Session, loop: HumanLoop, now: int) -> bool:
    """Stop a loop that is still open.

    False where its answers are all in, or it has ended or was deleted.
    """
    if not _close(session, loop, STOPPED, now):
        return False
    _announce(session, loop, now)
    return True


def expire_loop(session: Session, loop: HumanLoop, now: int) -> bool:
    """Fail an open loop whose availability has ended; nobody's answer becomes a default.

    False where it is not open any more.
    """
    if not _close(session, loop, FAILED, now):
        return False
    loop.failure_code = EXPIRED
    loop.failure_reason = (
        f"The task's availability ended with {loop.answers} of {loop.task_count} answers."
    )
    _announce(session, loop, now)
    return True


def delete_loop(session: Session, loop: HumanLoop) -> None:
    """Delete a loop with its input and answers; its name is free again."""
    session.execute(delete(HumanLoop).where(HumanLoop.id == loop.id))


def complete_loop(session: Session, loop: HumanLoop, output_uri: str, now: int) -> None:
    """Set a loop Completed: its output is in the object store."""
    loop.phase = DONE
    loop.status = COMPLETED
    loop.output_uri = output_uri
    loop.failure_reason = ""
    loop.due_at = None
    loop.modified_at = max(now, loop.modified_at)
    _announce(session, loop, now)


def arn_of_loop(loop: HumanLoop) -> str:
    """Return a loop's ARN."""
    return f"arn:aws:sagemaker:{loop.region}:{loop.account}:human-loop/{loop.name}"


def arn_of_flow(loop: HumanLoop) -> str:
    """Return the ARN of the flow definition that a loop was started with."""
    return f"arn:aws:sagemaker:{loop.region}:{loop.account}:flow-definition/{loop.flow_name}"


def _close(session: Session, loop: HumanLoop, status: str, now: int) -> bool:
    found = lock_loop(session, loop.id)
    if found is None or found.phase != OPEN:
        return False
    session.execute(
        update(Assignment)
        .where(Assignment.loop_id == loop.id, Assignment.state == WORKING)
        .values(state=LAPSED, lease_until=None)
    )
    loop.phase = DONE
    loop.status = status
    loop.queue = None
    loop.due_at = None
    loop.modified_at = max(now, loop.modified_at)
    return True


def _announce(session: Session, loop: HumanLoop, now: int) -> None:
    """Leave the change for the webhook, in the transaction that makes it."""
    body = {"loop_id": loop.id, "status": loop.status}
    session.add(WebhookEvent(id=uuid.uuid4().hex, body=body, created_at=now, due_at=now))
