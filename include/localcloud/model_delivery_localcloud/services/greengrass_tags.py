"""Greengrass: the tags of component versions, deployments and core devices."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.deployments import ROLLOUT_TAG
from model_delivery_localcloud.store.tables import ComponentVersion, Deployment, Device

MOST_TAGS = 50
_RESERVED = "aws:"
Tagged = ComponentVersion | Deployment | Device


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return the operations on tags."""

    def list_tags(call: Call) -> dict[str, Any]:
        with database.read() as session:
            tags = _tags(_find(session, call))
        return {"tags": tags} if tags else {}

    def tag(call: Call) -> dict[str, Any]:
        with database.write() as session:
            found = _locked(session, call)
            _set(found, check_tags({**_tags(found), **call.params["tags"]}))
        return {}

    def untag(call: Call) -> dict[str, Any]:
        gone = set(call.params["tagKeys"])
        with database.write() as session:
            found = _locked(session, call)
            _set(found, {key: value for key, value in _tags(found).items() if key not in gone})
        return {}

    return {"ListTagsForResource": list_tags, "TagResource": tag, "UntagResource": untag}


def check_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return a resource's tags; raises ValidationException for too many, or AWS's own."""
    if len(tags) > MOST_TAGS:
        raise validation_error(f"A resource has at most {MOST_TAGS} tags, got {len(tags)}.")
    if reserved := [key for key in tags if key.lower().startswith(_RESERVED)]:
        raise validation_error(f"Tag keys that begin with aws: are reserved: {reserved[0]}.")
    return tags


def _tags(found: Tagged) -> dict[str, str]:
    return dict(found.request.get("tags", {}) if isinstance(found, Deployment) else found.tags)


def _set(found: Tagged, tags: dict[str, str]) -> None:
    if isinstance(found, Deployment):
        # A new dictionary: SQLAlchemy sees no change inside a JSON value.
        found.request = {**found.request, "tags": tags}
        found.rollout = tags.get(ROLLOUT_TAG, "")
    else:
        found.tags = tags


def _locked(session: Session, call: Call) -> Tagged:
    """Return what is tagged, for this transaction alone: its tags are read, and written whole."""
    found = _find(session, call)
    session.refresh(found, with_for_update=True)
    return found


def _find(session: Session, call: Call) -> Tagged:
    arn, caller = call.params["resourceArn"], call.caller
    scope = (caller.account, caller.region)
    _, _, _, region, account, kind, *names = arn.split(":")
    found: Tagged | None = None
    if (account, region) == scope:
        match kind, names:
            case "components", [name, "versions", version]:
                found = session.get(ComponentVersion, (*scope, name, version))
            case "deployments", [name]:
                found = session.get(Deployment, (*scope, name))
            case "coreDevices", [name]:
                found = session.get(Device, (*scope, name))
    if found is None or (isinstance(found, Device) and found.registered_at is None):
        raise ServiceError(
            "ResourceNotFoundException",
            f"Could not find a resource {arn} that has tags.",
            404,
            {"resourceId": arn, "resourceType": kind},
        )
    return found
