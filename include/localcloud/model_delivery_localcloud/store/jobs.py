"""Durable jobs: queued in the database, leased by workers, committed under a fencing token.

Every lease raises the job's `fence`. Renewing and finishing name the fence in the WHERE of their
UPDATE, so a worker whose lease expired and was taken by another changes nothing and is told so.
Workers on several machines need clocks that agree well within the lease time.
"""

import uuid
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import ColumnElement, CursorResult, and_, or_, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import LeaseLost
from model_delivery_localcloud.store.tables import Job

QUEUED = "queued"
LEASED = "leased"
FINISHED = "finished"


@dataclass(frozen=True)
class Lease:
    """A worker's right to one job until its lease expires. `attempt` counts from 1."""

    job_id: str
    kind: str
    account: str
    region: str
    name: str
    fence: int
    attempt: int


def enqueue(session: Session, kind: str, account: str, region: str, name: str) -> str:
    """Queue a job for the resource `name` and return the job's id."""
    job = Job(
        id=uuid.uuid4().hex,
        kind=kind,
        account=account,
        region=region,
        name=name,
        state=QUEUED,
        created_at=now_ms(),
    )
    session.add(job)
    return job.id


def has_free(session: Session) -> bool:
    """Tell whether there is a job to lease, without writing."""
    return session.scalar(select(Job.id).where(_free(now_ms())).limit(1)) is not None


def take_lease(session: Session, worker: str, seconds: float) -> Lease | None:
    """Lease the oldest job that is queued or whose lease expired; None if there is none."""
    now = now_ms()
    # SKIP LOCKED is for Postgres; SQLite has one writer at a time and ignores the clause.
    oldest = select(Job).where(_free(now)).order_by(Job.created_at, Job.id).limit(1)
    job = session.scalars(oldest.with_for_update(skip_locked=True)).first()
    if job is None:
        return None
    job.state = LEASED
    job.worker = worker
    job.fence += 1
    job.attempts += 1
    job.lease_until = now + round(seconds * 1000)
    session.flush()
    return Lease(job.id, job.kind, job.account, job.region, job.name, job.fence, job.attempts)


def renew_lease(session: Session, lease: Lease, seconds: float, progress: str = "") -> bool:
    """Extend the lease and return whether a stop was requested; raises LeaseLost.

    `progress`: a line on how far the job is, kept for its page.
    """
    told = {"progress": progress} if progress else {}
    _update_held(session, lease, lease_until=now_ms() + round(seconds * 1000), **told)
    return bool(session.scalar(select(Job.stop_requested).where(Job.id == lease.job_id)))


def finish(session: Session, lease: Lease) -> bool:
    """End the job under its fence; returns whether a stop was requested; raises LeaseLost.

    What the job produced belongs in the same transaction, after this call.
    """
    _update_held(session, lease, state=FINISHED, lease_until=None)
    return bool(session.scalar(select(Job.stop_requested).where(Job.id == lease.job_id)))


def give_back(session: Session, lease: Lease, *, attempts: int | None = None) -> None:
    """Queue the job again, for another worker to do; raises LeaseLost.

    `attempts`: how many it has had (default: this one does not count).
    """
    had = lease.attempt - 1 if attempts is None else attempts
    _update_held(session, lease, state=QUEUED, lease_until=None, attempts=had)


def progress_of(session: Session, job_id: str) -> str:
    """Return the line that the job's worker told last, empty before there is one."""
    return session.scalar(select(Job.progress).where(Job.id == job_id)) or ""


class Stop(Enum):
    """What became of a wish to stop a job."""

    STOPPED = "STOPPED"  # it had not started, and is finished now
    ASKED = "ASKED"  # its worker must act
    LATE = "LATE"  # it is finished already


def request_stop(session: Session, job_id: str) -> Stop:
    """Stop a job, its row locked until the transaction ends: whoever ends it comes before or after.

    What was read of its resource before may be of before it ended.
    """
    waiting = update(Job).where(Job.id == job_id, Job.state == QUEUED)
    if _rows(session, waiting.values(state=FINISHED, stop_requested=True)):
        return Stop.STOPPED
    running = update(Job).where(Job.id == job_id, Job.state == LEASED)
    return Stop.ASKED if _rows(session, running.values(stop_requested=True)) else Stop.LATE


def _free(now: int) -> ColumnElement[bool]:
    return or_(Job.state == QUEUED, and_(Job.state == LEASED, Job.lease_until < now))


def _update_held(session: Session, lease: Lease, **values: object) -> None:
    held = and_(Job.id == lease.job_id, Job.fence == lease.fence, Job.state == LEASED)
    if not _rows(session, update(Job).where(held).values(**values)):
        raise LeaseLost(
            f"{lease.kind} {lease.name}: lease {lease.fence} is no longer held; "
            "another worker has the job"
        )


def _rows(session: Session, statement: object) -> int:
    result = session.execute(statement)  # type: ignore[call-overload]
    assert isinstance(result, CursorResult)
    return result.rowcount
