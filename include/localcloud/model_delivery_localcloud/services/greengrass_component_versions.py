"""Greengrass: the versions of a component, listed and deleted."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.greengrass_components import component_arn
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import ComponentVersion

DEFAULT_PAGE = 50


def handlers(database: Database) -> Mapping[str, Handler]:
    """Return the operations."""

    def list_versions(call: Call) -> dict[str, Any]:
        arn, caller = call.params["arn"], call.caller
        name = arn.rpartition(":")[2]
        table = ComponentVersion
        mine = table.account == caller.account, table.region == caller.region
        with database.read() as session:
            found = session.scalars(select(table.version).where(*mine, table.name == name)).all()
        if not found or not component_arn(caller, name, "").startswith(f"{arn}:"):
            raise _missing("Component", arn)
        # They are few, and their order is not that of texts: the list is made whole.
        versions = sorted(found, key=_rank, reverse=True)
        after = decode_token(call.params.get("nextToken"), {"arn": arn}, (str,))
        left = versions
        if after is not None:
            left = [each for each in versions if _rank(each) < _rank(after[0])]
        limit = call.params.get("maxResults", DEFAULT_PAGE)
        answer: dict[str, Any] = {
            "componentVersions": [
                {
                    "componentName": name,
                    "componentVersion": version,
                    "arn": component_arn(caller, name, version),
                }
                for version in left[:limit]
            ]
        }
        if len(left) > limit:
            answer["nextToken"] = encode_token([left[limit - 1]], {"arn": arn})
        return answer

    def delete(call: Call) -> dict[str, Any]:
        # As on AWS nothing asks who uses it: deployments that are still to begin with it fail.
        arn, caller = call.params["arn"], call.caller
        name, version = arn.split(":")[6], arn.split(":")[8]
        with database.write() as session:
            row = session.get(ComponentVersion, (caller.account, caller.region, name, version))
            if row is None or arn != component_arn(caller, name, version):
                raise _missing("Component version", arn)
            session.delete(row)
        return {}

    return {"ListComponentVersions": list_versions, "DeleteComponent": delete}


def _missing(what: str, arn: str) -> ServiceError:
    return ServiceError(
        "ResourceNotFoundException",
        f"{what} does not exist: {arn}",
        404,
        {"resourceId": arn, "resourceType": "component"},
    )


def _rank(version: str) -> tuple[Any, ...]:
    """Return the precedence of a semantic version (semver.org, 11)."""
    core, _, suffix = version.partition("-")
    numbers = tuple(int(part) if part.isdigit() else 0 for part in core.split("."))
    parts = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in suffix.split(".")
    )
    return (*numbers, not suffix, parts)
