"""AWS IoT things: the registry of devices, with attributes that serve as their tags."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.iot_names import (
    THING,
    arn_of,
    check_version,
    exists_already,
    invalid,
    no_such,
)
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.store import devices, things
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import Device

# AWS's quota for things without a thing type, which localcloud does not have.
MOST_ATTRIBUTES = 3
DEFAULT_PAGE = 50
LONGEST_SCAN = 1000
_REFUSED = ("thingTypeName", "billingGroupName", "removeThingType")


class Things:
    """Things over the store; a core device is one of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on things."""
        return {
            "CreateThing": self.create,
            "DescribeThing": self.describe,
            "UpdateThing": self.update,
            "DeleteThing": self.delete,
            "ListThings": self.list,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Make a thing; the same again answers the same."""
        refuse_members(call.params, _REFUSED, invalid)
        name, caller = call.params["thingName"], call.caller
        given = call.params.get("attributePayload", {}).get("attributes", {})
        attributes = _checked(things.merged({}, given, keep=False))
        scope = caller.account, caller.region
        try:
            with self._database.write() as session:
                found = devices.find_device(session, *scope, name)
                if found is None:
                    found = things.create_thing(session, scope, name, attributes)
        except IntegrityError:  # somebody else made it in the same moment
            with self._database.read() as session:
                found = session.get_one(Device, (*scope, name))
        arn = arn_of(caller, THING, name)
        if found.attributes != attributes:
            raise exists_already("Thing", name, arn, found.thing_id)
        return {"thingName": name, "thingArn": arn, "thingId": found.thing_id}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a thing with its attributes."""
        with self._database.read() as session:
            found = devices.find_device(session, *_scope(call), call.params["thingName"])
        if found is None:
            raise no_such("Thing", call.params["thingName"])
        summary = _summary(found, call.caller)
        return {**summary, "defaultClientId": found.thing, "thingId": found.thing_id}

    def update(self, call: Call) -> dict[str, Any]:
        """Change a thing's attributes."""
        refuse_members(call.params, _REFUSED, invalid)
        payload = call.params.get("attributePayload", {})
        with self._database.write() as session:
            found = devices.lock_device(session, *_scope(call), call.params["thingName"])
            if found is None:
                raise no_such("Thing", call.params["thingName"])
            check_version(call.params, found.version, f"thing {found.thing}")
            if "attributes" in payload:
                keep = payload.get("merge", False)
                after = things.merged(found.attributes, payload["attributes"], keep=keep)
                found.attributes = _checked(after)
            found.version += 1
        return {}

    def delete(self, call: Call) -> dict[str, Any]:
        """Forget a thing; one that is not there is no error."""
        with self._database.write() as session:
            found = devices.lock_device(session, *_scope(call), call.params["thingName"])
            if found is None:
                return {}
            check_version(call.params, found.version, f"thing {found.thing}")
            if found.key_hash is not None:
                # As on AWS a thing whose certificate is still attached.
                raise invalid(
                    f"Cannot delete. Thing {found.thing} is still attached to one or more "
                    "principals: it is a core device; delete that first (DeleteCoreDevice)."
                )
            things.delete_thing(session, found)
        return {}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of things by name, all or those with an attribute."""
        params = call.params
        refuse_members(params, ["thingTypeName"], invalid)
        names = ("attributeName", "attributeValue", "usePrefixAttributeValue")
        filters = {name: params.get(name) for name in names}
        if (filters["attributeName"] is None) != (filters["attributeValue"] is None):
            raise invalid("Give both attributeName and attributeValue, or none.")
        after = decode_token(params.get("nextToken"), filters, (str,), invalid)
        limit = params.get("maxResults", DEFAULT_PAGE)
        scanned = self._scan(call, after[0] if after else "")
        matching = [thing for thing in scanned if _matches(thing, filters)]
        page = matching[:limit]
        answer: dict[str, Any] = {"things": [_summary(thing, call.caller) for thing in page]}
        if len(matching) > limit:
            answer["nextToken"] = encode_token([page[-1].thing], filters)
        elif len(scanned) == LONGEST_SCAN:
            # As AWS's list of an attribute does: a short page may have another after it.
            answer["nextToken"] = encode_token([scanned[-1].thing], filters)
        return answer

    def _scan(self, call: Call, after: str) -> Sequence[Device]:
        scope = Device.account == call.caller.account, Device.region == call.caller.region
        query = select(Device).where(*scope, Device.thing > after).order_by(Device.thing)
        with self._database.read() as session:
            return session.scalars(query.limit(LONGEST_SCAN)).all()


def _checked(attributes: dict[str, str]) -> dict[str, str]:
    if len(attributes) > MOST_ATTRIBUTES:
        raise invalid(
            f"A thing without a thing type has at most {MOST_ATTRIBUTES} attributes, got "
            f"{len(attributes)}: leave some out, or put the thing into groups."
        )
    return attributes


def _matches(thing: Device, filters: Mapping[str, Any]) -> bool:
    if filters["attributeName"] is None:
        return True
    value: str | None = thing.attributes.get(filters["attributeName"])
    wanted: str = filters["attributeValue"]
    if value is None:
        return False
    return value.startswith(wanted) if filters["usePrefixAttributeValue"] else value == wanted


def _scope(call: Call) -> tuple[str, str]:
    return call.caller.account, call.caller.region


def _summary(thing: Device, caller: Caller) -> dict[str, Any]:
    return {
        "thingName": thing.thing,
        "thingArn": arn_of(caller, THING, thing.thing),
        "attributes": thing.attributes,
        "version": thing.version,
    }
