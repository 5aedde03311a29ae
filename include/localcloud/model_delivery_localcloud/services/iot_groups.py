"""AWS IoT thing groups: made, described, changed, deleted and listed.

A static group only: dynamic groups need a query language over a fleet index.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.iot_names import (
    GROUP,
    arn_of,
    check_version,
    exists_already,
    invalid,
    no_such,
)
from model_delivery_localcloud.services.iot_tags import tags_of
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.store import fleet_deployments, things
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.fleet_tables import ThingGroup

MOST_ATTRIBUTES = 50
DEEPEST = 7
MOST_CHILDREN = 100
DEFAULT_PAGE = 50


class ThingGroups:
    """Thing groups over the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on groups."""
        return {
            "CreateThingGroup": self.create,
            "DescribeThingGroup": self.describe,
            "UpdateThingGroup": self.update,
            "DeleteThingGroup": self.delete,
            "ListThingGroups": self.list,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Make a group; the same again answers the same."""
        name, parent = call.params["thingGroupName"], call.params.get("parentGroupName")
        properties = call.params.get("thingGroupProperties", {})
        given = properties.get("attributePayload", {}).get("attributes", {})
        values = {
            "description": properties.get("thingGroupDescription"),
            "attributes": _checked(things.merged({}, given, keep=False)),
            "tags": tags_of(call.params),
        }
        scope = _scope(call)
        try:
            with self._database.write() as session:
                found = things.find_group(session, scope, name)
                if found is None:
                    self._check_parent(session, scope, parent)
                    found = things.create_group(session, scope, name, parent, values)
        except IntegrityError:  # somebody else made it in the same moment
            with self._database.read() as session:
                found = session.get_one(ThingGroup, (*scope, name))
        arn = arn_of(call.caller, GROUP, name)
        if (found.parent, found.description, found.attributes) != (
            parent, values["description"], values["attributes"],
        ):  # fmt: skip
            raise exists_already("Thing group", name, arn, found.id)
        return {"thingGroupName": name, "thingGroupArn": arn, "thingGroupId": found.id}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a group with its properties and the groups above it."""
        name = call.params["thingGroupName"]
        with self._database.read() as session:
            found = things.find_group(session, _scope(call), name)
            above = things.ancestors(session, _scope(call), name)
        if found is None:
            raise no_such("Thing group", name)
        properties: dict[str, Any] = {"attributePayload": {"attributes": found.attributes}}
        if found.description is not None:
            properties["thingGroupDescription"] = found.description
        metadata: dict[str, Any] = {"creationDate": to_datetime(found.created_at)}
        if found.parent is not None:
            metadata["parentGroupName"] = found.parent
            metadata["rootToParentThingGroups"] = [named(each.name, call.caller) for each in above]
        return {
            "thingGroupName": name,
            "thingGroupId": found.id,
            "thingGroupArn": arn_of(call.caller, GROUP, name),
            "version": found.version,
            "thingGroupProperties": properties,
            "thingGroupMetadata": metadata,
        }

    def update(self, call: Call) -> dict[str, Any]:
        """Change a group's description and attributes; what is not given stays."""
        properties = call.params["thingGroupProperties"]
        payload = properties.get("attributePayload", {})
        with self._database.write() as session:
            found = things.lock_group(session, _scope(call), call.params["thingGroupName"])
            if found is None:
                raise no_such("Thing group", call.params["thingGroupName"])
            check_version(call.params, found.version, f"thing group {found.name}")
            if "thingGroupDescription" in properties:
                found.description = properties["thingGroupDescription"]
            if "attributes" in payload:
                keep = payload.get("merge", False)
                after = things.merged(found.attributes, payload["attributes"], keep=keep)
                found.attributes = _checked(after)
            found.version += 1
            found.modified_at = now_ms()
            version = found.version
        return {"version": version}

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete a group without children; its things leave it, one that is not there is fine."""
        scope, name = _scope(call), call.params["thingGroupName"]
        with self._database.read() as session:
            found = things.find_group(session, scope, name)
            if found is None:
                return {}
            check_version(call.params, found.version, f"thing group {name}")
            inside = list(session.scalars(things.members(scope, [name])))
        # A killed deletion leaves a group with fewer things, to be deleted again.
        for thing in inside if not self._has_children(call) else []:
            fleet_deployments.leave_group(self._database, scope, name, thing)
        with self._database.write() as session:
            locked = things.lock_group(session, scope, name)
            if locked is None:
                return {}
            check_version(call.params, locked.version, f"thing group {name}")
            if things.children(session, scope, [name]):
                raise invalid(f"Thing group {name} has child groups: delete those first.")
            if session.scalar(things.members(scope, [name]).limit(1)) is not None:
                raise invalid(f"Things were added to thing group {name} meanwhile: try again.")
            fleet_deployments.retire_target(session, scope, arn_of(call.caller, GROUP, name))
            session.delete(locked)
        return {}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of groups by name."""
        params, scope = call.params, _scope(call)
        names = ("parentGroup", "namePrefixFilter", "recursive")
        filters = {name: params.get(name) for name in names}
        after = decode_token(params.get("nextToken"), filters, (str,), invalid)
        limit = params.get("maxResults", DEFAULT_PAGE)
        query = select(ThingGroup.name).where(
            ThingGroup.account == scope[0],
            ThingGroup.region == scope[1],
            ThingGroup.name > (after[0] if after else ""),
        )
        if prefix := filters["namePrefixFilter"]:
            query = query.where(ThingGroup.name.startswith(prefix, autoescape=True))
        with self._database.read() as session:
            if parent := filters["parentGroup"]:
                if things.find_group(session, scope, parent) is None:
                    raise no_such("Thing group", parent)
                below = things.family(session, scope, parent)[1:]
                direct = things.children(session, scope, [parent])
                wanted = direct if filters["recursive"] is False else below
                query = query.where(ThingGroup.name.in_(wanted))
            elif filters["recursive"] is False:
                query = query.where(ThingGroup.parent.is_(None))
            found = list(session.scalars(query.order_by(ThingGroup.name).limit(limit + 1)))
        answer: dict[str, Any] = {"thingGroups": [named(each, call.caller) for each in found]}
        if len(found) > limit:
            answer["thingGroups"].pop()
            answer["nextToken"] = encode_token([found[limit - 1]], filters)
        return answer

    def _has_children(self, call: Call) -> bool:
        with self._database.read() as session:
            return bool(things.children(session, _scope(call), [call.params["thingGroupName"]]))

    def _check_parent(self, session: Any, scope: things.Scope, parent: str | None) -> None:
        if parent is None:
            return
        if things.lock_group(session, scope, parent) is None:
            # CreateThingGroup has no ResourceNotFoundException in the model.
            raise invalid(f"Parent group {parent} does not exist: create it first.")
        if len(things.ancestors(session, scope, parent)) + 2 > DEEPEST:
            raise invalid(f"Groups nest {DEEPEST} deep at most: {parent} is that deep already.")
        if len(things.children(session, scope, [parent])) >= MOST_CHILDREN:
            raise invalid(f"Group {parent} has {MOST_CHILDREN} children, which is the most.")


def named(name: str, caller: Caller) -> dict[str, str]:
    """Return a group's name and ARN, as lists have them."""
    return {"groupName": name, "groupArn": arn_of(caller, GROUP, name)}


def _checked(attributes: dict[str, str]) -> dict[str, str]:
    if len(attributes) > MOST_ATTRIBUTES:
        raise invalid(
            f"A thing group has at most {MOST_ATTRIBUTES} attributes, got {len(attributes)}."
        )
    return attributes


def _scope(call: Call) -> things.Scope:
    return call.caller.account, call.caller.region
