"""Compilation jobs in the store: their states and the one list query with all its filters."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store.tables import CompilationJob, Job

STARTING = "STARTING"
INPROGRESS = "INPROGRESS"
COMPLETED = "COMPLETED"
FAILED = "FAILED"
STOPPING = "STOPPING"
STOPPED = "STOPPED"
TERMINAL = frozenset({COMPLETED, FAILED, STOPPED})
LONGEST_REASON = 1024

_SORT_COLUMNS = {
    "Name": CompilationJob.name,
    "CreationTime": CompilationJob.created_at,
    "Status": CompilationJob.status,
}


@dataclass(frozen=True)
class ListFilter:
    """Filters and order of a list; times in milliseconds, exclusive on both ends."""

    created_after: int | None = None
    created_before: int | None = None
    modified_after: int | None = None
    modified_before: int | None = None
    name_contains: str | None = None
    status: str | None = None
    sort_by: str = "CreationTime"
    descending: bool = False


def find_compilation_job(
    session: Session, account: str, region: str, name: str
) -> CompilationJob | None:
    """Return the job of that name, or None."""
    return session.get(CompilationJob, (account, region, name))


def delete_compilation_job(session: Session, job: CompilationJob) -> None:
    """Delete a job that has ended, with the work behind it; its name is free again."""
    session.execute(delete(Job).where(Job.id == job.job_id))
    session.delete(job)


def list_compilation_jobs(
    session: Session,
    account: str,
    region: str,
    wanted: ListFilter,
    after: list[Any] | None,
    limit: int,
) -> list[CompilationJob]:
    """Return up to `limit` jobs after the sort key `after` ([sort value, name])."""
    column = _SORT_COLUMNS[wanted.sort_by]
    conditions = [CompilationJob.account == account, CompilationJob.region == region]
    conditions += _conditions(wanted)
    if after is not None:
        conditions.append(_beyond(column, after, wanted.descending))
    order = [column, CompilationJob.name]
    if wanted.descending:
        order = [column.desc(), CompilationJob.name.desc()]  # type: ignore[list-item]
    query = select(CompilationJob).where(*conditions).order_by(*order).limit(limit)
    return list(session.scalars(query))


def sort_key(job: CompilationJob, wanted: ListFilter) -> list[Any]:
    """Return the job's place in the order, for a page token."""
    return [getattr(job, _SORT_COLUMNS[wanted.sort_by].key), job.name]


def sort_key_types(wanted: ListFilter) -> tuple[type, type]:
    """Return the types of `sort_key`'s parts."""
    return (int if wanted.sort_by == "CreationTime" else str), str


def _conditions(wanted: ListFilter) -> list[ColumnElement[bool]]:
    job = CompilationJob
    found: list[ColumnElement[bool]] = []
    if wanted.created_after is not None:
        found.append(job.created_at > wanted.created_after)
    if wanted.created_before is not None:
        found.append(job.created_at < wanted.created_before)
    if wanted.modified_after is not None:
        found.append(job.modified_at > wanted.modified_after)
    if wanted.modified_before is not None:
        found.append(job.modified_at < wanted.modified_before)
    if wanted.name_contains:
        # Without case on every database: LIKE has one on Postgres and none on SQLite.
        found.append(job.name.icontains(wanted.name_contains, autoescape=True))
    if wanted.status is not None:
        found.append(job.status == wanted.status)
    return found


def _beyond(column: Any, after: list[Any], descending: bool) -> ColumnElement[bool]:
    value, name = after
    if descending:
        return or_(column < value, and_(column == value, CompilationJob.name < name))
    return or_(column > value, and_(column == value, CompilationJob.name > name))


def set_status(job: CompilationJob, status: str, reason: str = "") -> None:
    """Move a job to `status`, keeping its times and reason in step."""
    now = max(now_ms(), job.modified_at)
    job.status = status
    job.modified_at = now
    job.failure_reason = reason[:LONGEST_REASON]
    if status == INPROGRESS and job.started_at is None:
        job.started_at = now
    if status in TERMINAL:
        job.ended_at = now
