"""Things and thing groups: the registry that deployments go by."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store.fleet_tables import ThingGroup, ThingGroupMember
from model_delivery_localcloud.store.tables import Device, DeviceToken

Scope = tuple[str, str]
"""Account and region."""


def find_group(session: Session, scope: Scope, name: str) -> ThingGroup | None:
    """Return a group, or None."""
    return session.get(ThingGroup, (*scope, name))


def lock_group(session: Session, scope: Scope, name: str) -> ThingGroup | None:
    """Return a group, locked until the transaction ends, or None."""
    return session.get(ThingGroup, (*scope, name), with_for_update=True, populate_existing=True)


def create_thing(session: Session, scope: Scope, name: str, attributes: dict[str, str]) -> Device:
    """Make a thing; the caller has seen that there is none of this name."""
    thing = Device(
        account=scope[0], region=scope[1], thing=name, created_at=now_ms(), running=[],
        thing_id=str(uuid.uuid4()), attributes=attributes,
    )  # fmt: skip
    session.add(thing)
    session.flush()
    return thing


def delete_thing(session: Session, thing: Device) -> None:
    """Forget a thing that is no core device, with its memberships and its tokens."""
    scope = thing.account, thing.region
    for table in (ThingGroupMember, DeviceToken):
        mine = (table.account == scope[0], table.region == scope[1], table.thing == thing.thing)
        session.execute(delete(table).where(*mine))
    session.delete(thing)


def create_group(
    session: Session, scope: Scope, name: str, parent: str | None, values: Mapping[str, Any]
) -> ThingGroup:
    """Make a group; `values`: description, attributes, tags."""
    now = now_ms()
    group = ThingGroup(
        account=scope[0], region=scope[1], name=name, id=str(uuid.uuid4()), parent=parent,
        version=1, created_at=now, modified_at=now, **values,
    )  # fmt: skip
    session.add(group)
    session.flush()
    return group


def merged(before: Mapping[str, str], given: Mapping[str, str], *, keep: bool) -> dict[str, str]:
    """Return attributes after an update; one without a value is taken away.

    :param keep: whether those that are not given stay
    """
    after = {**(before if keep else {}), **given}
    return {name: value for name, value in after.items() if value}


def children(session: Session, scope: Scope, names: list[str]) -> list[str]:
    """Return the names of the groups right below some groups."""
    below = select(ThingGroup.name).where(*_in(ThingGroup, scope), ThingGroup.parent.in_(names))
    return list(session.scalars(below))


def family(session: Session, scope: Scope, name: str) -> list[str]:
    """Return a group's name and those of all groups below it."""
    found = level = [name]
    while level := children(session, scope, level):
        found = found + level
    return found


def ancestors(session: Session, scope: Scope, name: str) -> list[ThingGroup]:
    """Return the groups above a group, the root first."""
    above: list[ThingGroup] = []
    group = find_group(session, scope, name)
    while group is not None and group.parent is not None:
        group = find_group(session, scope, group.parent)
        if group is not None:
            above.insert(0, group)
    return above


def groups_of(session: Session, scope: Scope, thing: str) -> list[str]:
    """Return the names of the groups that a thing was added to itself, in order."""
    table = ThingGroupMember
    mine = select(table.group_name).where(*_in(table, scope), table.thing == thing)
    return sorted(session.scalars(mine))


def all_groups_of(session: Session, scope: Scope, thing: str) -> set[str]:
    """Return the names of a thing's groups and of all groups above them."""
    found = set(groups_of(session, scope, thing))
    for name in list(found):
        found |= {group.name for group in ancestors(session, scope, name)}
    return found


def members(scope: Scope, names: list[str]) -> Select[str]:
    """Return the query for the things that were added to any of some groups, each once."""
    table = ThingGroupMember
    wanted = select(table.thing).where(*_in(table, scope), table.group_name.in_(names))
    return wanted.distinct().order_by(table.thing)


def add_member(session: Session, scope: Scope, group: str, thing: str) -> bool:
    """Add a thing to a group; returns False where it is in it already."""
    if session.get(ThingGroupMember, (*scope, group, thing)) is not None:
        return False
    session.add(ThingGroupMember(account=scope[0], region=scope[1], group_name=group, thing=thing))
    session.flush()
    return True


def remove_member(session: Session, scope: Scope, group: str, thing: str) -> bool:
    """Take a thing out of a group; returns False where it was not in it."""
    found = session.get(ThingGroupMember, (*scope, group, thing))
    if found is None:
        return False
    session.delete(found)
    session.flush()
    return True


def _in(table: Any, scope: Scope) -> tuple[Any, Any]:
    return table.account == scope[0], table.region == scope[1]
