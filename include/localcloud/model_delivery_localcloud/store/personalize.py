"""Personalize's resources in the store: solution versions, filters, batch inference jobs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store.tables import (
    BatchInferenceJob,
    RecommendationFilter,
    SolutionVersion,
)

PENDING = "PENDING"
IN_PROGRESS = "IN PROGRESS"
ACTIVE = "ACTIVE"
CREATE_FAILED = "CREATE FAILED"
TERMINAL = frozenset({ACTIVE, CREATE_FAILED})
LONGEST_REASON = 1024

Scope = tuple[str, str]


def find_solution_version(
    session: Session, scope: Scope, solution: str, version: str
) -> SolutionVersion | None:
    """Return the version, or None. `scope` is account and region."""
    return session.get(SolutionVersion, (*scope, solution, version))


def versions_of_solution(session: Session, scope: Scope, solution: str) -> list[SolutionVersion]:
    """Return a solution's versions, oldest first."""
    table = SolutionVersion
    of_solution = _in_scope(table, scope), table.solution == solution
    return list(
        session.scalars(select(table).where(*of_solution).order_by(table.created_at, table.version))
    )


def versions_of_group(session: Session, scope: Scope, group: str) -> list[SolutionVersion]:
    """Return a dataset group's solution versions, newest first."""
    table = SolutionVersion
    query = select(table).where(_in_scope(table, scope), table.dataset_group == group)
    return list(session.scalars(query.order_by(table.created_at.desc())))


def find_filter(session: Session, scope: Scope, name: str) -> RecommendationFilter | None:
    """Return the filter of that name, or None."""
    return session.get(RecommendationFilter, (*scope, name))


def list_filters(
    session: Session, scope: Scope, group: str | None, after: Sequence[Any] | None, limit: int
) -> list[RecommendationFilter]:
    """Return up to `limit` filters after the sort key [created_at, name], newest first."""
    table = RecommendationFilter
    query = select(table).where(_in_scope(table, scope))
    if group is not None:
        query = query.where(table.dataset_group == group)
    return list(session.scalars(_page(query, table, after, limit)))


def find_batch_job(session: Session, scope: Scope, name: str) -> BatchInferenceJob | None:
    """Return the batch inference job of that name, or None."""
    return session.get(BatchInferenceJob, (*scope, name))


def list_batch_jobs(
    session: Session, scope: Scope, version: str | None, after: Sequence[Any] | None, limit: int
) -> list[BatchInferenceJob]:
    """Return up to `limit` jobs after the sort key [created_at, name], newest first.

    `version`: the ARN of the solution version whose jobs are wanted; None for all.
    """
    table = BatchInferenceJob
    query = select(table).where(_in_scope(table, scope))
    if version is not None:
        query = query.where(table.solution_version_arn == version)
    return list(session.scalars(_page(query, table, after, limit)))


def filter_in_use(session: Session, scope: Scope, arn: str) -> bool:
    """Tell whether a job that has not ended uses the filter."""
    table = BatchInferenceJob
    query = select(table).where(_in_scope(table, scope), table.status.not_in(TERMINAL))
    return any(job.request.get("filterArn") == arn for job in session.scalars(query))


def sort_key(row: BatchInferenceJob | RecommendationFilter) -> list[Any]:
    """Return a row's place in its list, for a page token."""
    return [row.created_at, row.name]


def set_status(job: BatchInferenceJob, status: str, reason: str = "") -> None:
    """Move a job to `status`, keeping its times and reason in step."""
    now = max(now_ms(), job.modified_at)
    job.status = status
    job.modified_at = now
    job.failure_reason = reason[:LONGEST_REASON]
    if status == IN_PROGRESS and job.started_at is None:
        job.started_at = now
    if status in TERMINAL:
        job.ended_at = now


def _in_scope(table: Any, scope: Scope) -> Any:
    return and_(table.account == scope[0], table.region == scope[1])


def _page(query: Any, table: Any, after: Sequence[Any] | None, limit: int) -> Any:
    if after is not None:
        created, name = after
        same_time = and_(table.created_at == created, table.name < name)
        query = query.where(or_(table.created_at < created, same_time))
    return query.order_by(table.created_at.desc(), table.name.desc()).limit(limit)
