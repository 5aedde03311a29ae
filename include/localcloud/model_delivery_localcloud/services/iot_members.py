"""AWS IoT: which things are in which groups."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.iot_groups import DEFAULT_PAGE, named
from model_delivery_localcloud.services.iot_names import GROUP, THING, invalid, name_of, no_such
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.store import devices, fleet_deployments, things
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.fleet_tables import ThingGroupMember

MOST_GROUPS = 10


class Memberships:
    """Who is in a group: a device that joins gets its deployment, one that leaves loses it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on memberships."""
        return {
            "AddThingToThingGroup": self.add,
            "RemoveThingFromThingGroup": self.remove,
            "ListThingsInThingGroup": self.list_things,
            "ListThingGroupsForThing": self.list_groups,
        }

    def add(self, call: Call) -> dict[str, Any]:
        """Add a thing to a group; one that is in it already is no error."""
        scope, (group, thing) = _scope(call), _names(call)
        with self._database.write() as session:
            if things.lock_group(session, scope, group) is None:
                raise no_such("Thing group", group)
            if devices.lock_device(session, *scope, thing) is None:
                raise no_such("Thing", thing)
            if session.get(ThingGroupMember, (*scope, group, thing)) is not None:
                return {}
            _check_room(session, scope, group, thing)
            things.add_member(session, scope, group, thing)
            joined = fleet_deployments.joined(session, scope, group)
        for deployment_id in joined:
            fleet_deployments.take_up(self._database, scope, deployment_id)
        return {}

    def remove(self, call: Call) -> dict[str, Any]:
        """Take a thing out of a group; one that is not in it is no error."""
        scope, (group, thing) = _scope(call), _names(call)
        with self._database.read() as session:
            if things.find_group(session, scope, group) is None:
                raise no_such("Thing group", group)
            if devices.find_device(session, *scope, thing) is None:
                raise no_such("Thing", thing)
        fleet_deployments.leave_group(self._database, scope, group, thing)
        return {}

    def list_things(self, call: Call) -> dict[str, Any]:
        """Answer one page of the things in a group, `recursive` those of its children too."""
        params, scope, name = call.params, _scope(call), call.params["thingGroupName"]
        filters = {"group": name, "recursive": params.get("recursive", False)}
        after = decode_token(params.get("nextToken"), filters, (str,), invalid)
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            if things.find_group(session, scope, name) is None:
                raise no_such("Thing group", name)
            groups = things.family(session, scope, name) if filters["recursive"] else [name]
            query = things.members(scope, groups)
            query = query.where(ThingGroupMember.thing > (after[0] if after else ""))
            found = list(session.scalars(query.limit(limit + 1)))
        answer: dict[str, Any] = {"things": found[:limit]}
        if len(found) > limit:
            answer["nextToken"] = encode_token([found[limit - 1]], filters)
        return answer

    def list_groups(self, call: Call) -> dict[str, Any]:
        """Answer one page of the groups that a thing was added to."""
        params, scope, thing = call.params, _scope(call), call.params["thingName"]
        filters = {"thing": thing}
        after = decode_token(params.get("nextToken"), filters, (str,), invalid)
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            if devices.find_device(session, *scope, thing) is None:
                raise no_such("Thing", thing)
            found = things.groups_of(session, scope, thing)
        left = [name for name in found if after is None or name > after[0]]
        answer: dict[str, Any] = {
            "thingGroups": [named(each, call.caller) for each in left[:limit]]
        }
        if len(left) > limit:
            answer["nextToken"] = encode_token([left[limit - 1]], filters)
        return answer


def _names(call: Call) -> tuple[str, str]:
    """Return the group's and the thing's name, each given as a name or as an ARN."""
    return _name(call, "thingGroup", GROUP), _name(call, "thing", THING)


def _name(call: Call, member: str, kind: str) -> str:
    name, arn = call.params.get(f"{member}Name"), call.params.get(f"{member}Arn")
    from_arn = None if arn is None else name_of(arn, call.caller, kind)
    if arn is not None and from_arn is None:
        raise invalid(f"{member}Arn {arn} is not of this account and region.")
    if name is not None and from_arn is not None and name != from_arn:
        raise invalid(f"{member}Name and {member}Arn name two different ones.")
    found: str | None = name or from_arn
    if found is None:
        raise invalid(f"Give {member}Name or {member}Arn.")
    return found


def _check_room(session: Session, scope: things.Scope, group: str, thing: str) -> None:
    """Hold a thing to IoT's rules: ten groups, and one of each hierarchy."""
    mine = things.groups_of(session, scope, thing)
    if len(mine) >= MOST_GROUPS:
        raise invalid(f"Thing {thing} is in {MOST_GROUPS} groups, which is the most.")
    root = _root(session, scope, group)
    for other in mine:
        if _root(session, scope, other) == root:
            raise invalid(
                f"Thing {thing} is in group {other}, of the same hierarchy as {group}: a thing "
                "can be in one group of a hierarchy."
            )


def _root(session: Session, scope: things.Scope, group: str) -> str:
    above = things.ancestors(session, scope, group)
    return above[0].name if above else group


def _scope(call: Call) -> things.Scope:
    return call.caller.account, call.caller.region
