"""Work teams, human task UIs and flow definitions in the store."""

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.review_tables import (
    FlowDefinition,
    HumanTaskUi,
    UserGroup,
    Workteam,
    WorkteamGroup,
)

INITIALIZING = "Initializing"
ACTIVE = "Active"
FAILED = "Failed"
DELETING = "Deleting"

Scope = tuple[str, str]
Resource = TypeVar("Resource", Workteam, HumanTaskUi, FlowDefinition)


def find(session: Session, table: type[Resource], scope: Scope, name: str) -> Resource | None:
    """Return the resource of that name, or None. `scope` is account and region."""
    return session.get(table, (*scope, name))


def hold(session: Session, table: type[Resource], scope: Scope, name: str) -> Resource | None:
    """Return the resource of that name, which nobody deletes until the transaction ends, or None.

    Whatever begins to use one holds it: on Postgres nothing else keeps a delete from overlooking
    what another transaction is about to commit.
    """
    return session.get(table, (*scope, name), with_for_update={"read": True})


def lock(session: Session, table: type[Resource], scope: Scope, name: str) -> Resource | None:
    """Return the resource of that name, which nobody uses until the transaction ends, or None."""
    return session.get(table, (*scope, name), with_for_update=True)


def find_flow(session: Session, flow_id: str) -> FlowDefinition | None:
    """Return the flow definition with that id, or None."""
    return session.scalars(select(FlowDefinition).where(FlowDefinition.id == flow_id)).first()


def page_of(
    session: Session,
    table: type[Resource],
    scope: Scope,
    *,
    order: Any,
    conditions: list[ColumnElement[bool]],
    descending: bool,
    after: list[Any] | None,
    limit: int,
) -> list[Resource]:
    """Return up to `limit` resources after [value of the column `order`, name]."""
    query = select(table).where(table.account == scope[0], table.region == scope[1], *conditions)
    if after is not None:
        value, name = after
        beyond = order < value if descending else order > value
        tie = table.name < name if descending else table.name > name
        query = query.where(or_(beyond, and_(order == value, tie)))
    columns = [order.desc(), table.name.desc()] if descending else [order, table.name]
    return list(session.scalars(query.order_by(*columns).limit(limit)))


def set_groups(session: Session, team: Workteam, groups: list[str]) -> None:
    """Make the users of these groups the members of a team."""
    scope = {"account": team.account, "region": team.region, "workteam": team.name}
    table = WorkteamGroup
    session.execute(
        delete(table).where(
            table.account == team.account, table.region == team.region, table.workteam == team.name
        )
    )
    session.add_all(table(**scope, group_name=group) for group in dict.fromkeys(groups))


def members_of(session: Session, flow: FlowDefinition) -> set[str]:
    """Return the names of the users in the work team of a flow definition."""
    return set(session.scalars(select(UserGroup.user).where(*_in_team_of(flow))))


def _in_team_of(flow: FlowDefinition | type[FlowDefinition]) -> tuple[ColumnElement[bool], ...]:
    """Return what joins users' groups to the team of one flow definition, or of any."""
    return (
        WorkteamGroup.account == flow.account,
        WorkteamGroup.region == flow.region,
        WorkteamGroup.workteam == flow.workteam,
        WorkteamGroup.group_name == UserGroup.group_name,
    )


def flows_of(session: Session, user: str | None) -> list[FlowDefinition]:
    """Return the active flow definitions of a user's teams, newest first; of all for None."""
    query = select(FlowDefinition).where(FlowDefinition.status == ACTIVE)
    if user is not None:
        query = query.where(exists().where(*_in_team_of(FlowDefinition), UserGroup.user == user))
    return list(session.scalars(query.order_by(FlowDefinition.created_at.desc())))


def flow_using(session: Session, scope: Scope, column: Any, name: str) -> FlowDefinition | None:
    """Return a flow definition that names a work team or task UI in `column`, or None."""
    table = FlowDefinition
    query = select(table).where(table.account == scope[0], table.region == scope[1], column == name)
    return session.scalars(query.limit(1)).first()
