"""AWS IoT: the tags of thing groups."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.iot_names import GROUP, invalid, name_of
from model_delivery_localcloud.services.paging import decode_token
from model_delivery_localcloud.store import things
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.fleet_tables import ThingGroup

MOST_TAGS = 50
_RESERVED = "aws:"


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return the operations on tags; things have none on AWS either."""

    def list_tags(call: Call) -> dict[str, Any]:
        decode_token(call.params.get("nextToken"), {}, (str,), invalid)  # one page holds all
        with database.read() as session:
            tags = _group(session, call).tags
        return {"tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]}

    def tag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            group = _locked(session, call)
            after = {**group.tags, **tags_of(call.params)}
            if len(after) > MOST_TAGS:
                raise ServiceError(
                    "LimitExceededException", f"A thing group has at most {MOST_TAGS} tags.", 410
                )
            group.tags = after
        return {}

    def untag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            group = _locked(session, call)
            gone = set(call.params["tagKeys"])
            group.tags = {key: value for key, value in group.tags.items() if key not in gone}
        return {}

    return {"ListTagsForResource": list_tags, "TagResource": tag, "UntagResource": untag}


def tags_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Return a request's tags by key; raises InvalidRequestException for keys that may not be."""
    given = params.get("tags", [])
    tags = {tag["Key"]: tag.get("Value", "") for tag in given}
    if len(tags) != len(given):
        raise invalid("tags: a key is given twice.")
    if len(tags) > MOST_TAGS:
        raise invalid(f"tags: {len(tags)} are given, at most {MOST_TAGS} are allowed.")
    if reserved := [key for key in tags if key.lower().startswith(_RESERVED)]:
        raise invalid(f"tags: {reserved[0]} begins with {_RESERVED}, which AWS keeps.")
    return tags


def _locked(session: Session, call: Call) -> ThingGroup:
    group = _group(session, call)
    session.refresh(group, with_for_update=True)
    return group


def _group(session: Session, call: Call) -> ThingGroup:
    arn, caller = call.params["resourceArn"], call.caller
    name = name_of(arn, caller, GROUP)
    found = name and things.find_group(session, (caller.account, caller.region), name)
    if not found:
        raise ServiceError("ResourceNotFoundException", f"{arn} is no thing group.", 404)
    return found
