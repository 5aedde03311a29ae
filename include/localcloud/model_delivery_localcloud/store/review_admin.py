"""Who reviews what, over all accounts and regions, as an administrator asks."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.store.human_loops import SUBMITTED, WORKING
from model_delivery_localcloud.store.review_tables import (
    Assignment,
    FlowDefinition,
    HumanLoop,
    UserGroup,
    Workteam,
    WorkteamGroup,
)
from model_delivery_localcloud.store.tables import User

TeamKey = tuple[str, str, str]  # account, region, name


@dataclass(frozen=True)
class FlowRow:
    """A flow definition and its queue.

    `waiting` counts the items with a free slot, `oldest` is when the oldest of them was started (in
    milliseconds since 1970, None where none waits), `held` counts the slots that reviewers hold.
    """

    flow: FlowDefinition
    waiting: int
    oldest: int | None
    held: int


@dataclass(frozen=True)
class TeamRow:
    """A work team, the groups that make it up, their users, and the workflows that it works for."""

    team: Workteam
    groups: list[str]
    members: list[str]
    flows: list[str]


@dataclass(frozen=True)
class PersonRow:
    """A user: groups, teams, answers, the time of the last answer, items in hand now."""

    user: User
    groups: list[str]
    teams: list[str]
    answers: int
    last: int | None
    held: int


@dataclass(frozen=True)
class Overview:
    """Everything on the page; each list has at most `limit` rows."""

    flows: list[FlowRow]
    teams: list[TeamRow]
    people: list[PersonRow]


def overview(session: Session, limit: int) -> Overview:
    """Return teams and people by name, and flow definitions with the longest wait first."""
    groups_of_user = _grouped(session, UserGroup.user, UserGroup.group_name)
    users_of_group = _inverted(groups_of_user)
    groups_of_team: dict[TeamKey, list[str]] = defaultdict(list)
    for each in session.scalars(select(WorkteamGroup).order_by(WorkteamGroup.group_name)):
        groups_of_team[each.account, each.region, each.workteam].append(each.group_name)
    flows = _flows(session, limit)
    teams = [
        _team(team, groups_of_team[_key(team)], users_of_group, flows)
        for team in session.scalars(select(Workteam).order_by(Workteam.name).limit(limit))
    ]
    return Overview(flows, teams, _people(session, groups_of_user, teams, limit))


def _flows(session: Session, limit: int) -> list[FlowRow]:
    # `queue` is null for all but the open: however many loops have ended, they are not looked at.
    waiting = select(HumanLoop.queue, func.count(), func.min(HumanLoop.created_at))
    waiting = waiting.where(HumanLoop.queue.is_not(None)).group_by(HumanLoop.queue)
    queues: dict[str, tuple[int, int | None]] = {
        str(flow): (number, oldest) for flow, number, oldest in session.execute(waiting)
    }
    held = _held(session, Assignment.flow_id)
    newest = select(FlowDefinition).order_by(FlowDefinition.created_at.desc()).limit(limit)
    nothing: tuple[int, int | None] = 0, None
    rows = [
        FlowRow(flow, *queues.get(flow.id, nothing), held.get(flow.id, 0))
        for flow in session.scalars(newest)
    ]
    return sorted(rows, key=lambda row: (row.oldest is None, row.oldest or 0))


def _team(
    team: Workteam, groups: list[str], users_of_group: dict[str, list[str]], flows: list[FlowRow]
) -> TeamRow:
    members = sorted({user for group in groups for user in users_of_group.get(group, ())})
    works_for = sorted(
        row.flow.name
        for row in flows
        if (row.flow.account, row.flow.region, row.flow.workteam) == _key(team)
    )
    return TeamRow(team, groups, members, works_for)


def _people(
    session: Session, groups: dict[str, list[str]], teams: list[TeamRow], limit: int
) -> list[PersonRow]:
    answers = select(Assignment.worker, func.count(), func.max(Assignment.submitted_at))
    answers = answers.where(Assignment.state == SUBMITTED).group_by(Assignment.worker)
    given = {worker: (number, last) for worker, number, last in session.execute(answers)}
    held = _held(session, Assignment.worker)
    return [
        PersonRow(
            user,
            groups.get(user.name, []),
            [row.team.name for row in teams if user.name in row.members],
            *given.get(user.name, (0, None)),
            held.get(user.name, 0),
        )
        for user in session.scalars(select(User).order_by(User.name).limit(limit))
    ]


def _held(session: Session, by: Any) -> dict[str, int]:
    # Only who holds something has a lease: its index is as short as the work in hand.
    query = select(by, func.count()).where(
        Assignment.lease_until.is_not(None), Assignment.state == WORKING
    )
    return {key: number for key, number in session.execute(query.group_by(by))}


def _grouped(session: Session, key: Any, value: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for one, other in session.execute(select(key, value).order_by(key, value)):
        found[one].append(other)
    return found


def _inverted(found: dict[str, list[str]]) -> dict[str, list[str]]:
    turned: dict[str, list[str]] = defaultdict(list)
    for key, values in found.items():
        for value in values:
            turned[value].append(key)
    return turned


def _key(team: Workteam) -> TeamKey:
    return team.account, team.region, team.name
