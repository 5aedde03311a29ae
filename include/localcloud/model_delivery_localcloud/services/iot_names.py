"""AWS IoT's ARNs, and the errors in its words."""

import re
from collections.abc import Mapping

from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.messages import Caller

THING = "thing"
GROUP = "thinggroup"
JOB = "job"
_ARN = re.compile(r"arn:aws:iot:([^:]*):([0-9]*):([a-z]+)/(.+)")


def arn_of(caller: Caller, kind: str, name: str) -> str:
    """Return the ARN of a thing, a thing group or a job of the caller's account and region."""
    return f"arn:aws:iot:{caller.region}:{caller.account}:{kind}/{name}"


def name_of(arn: str, caller: Caller, kind: str) -> str | None:
    """Return the name in the ARN of the caller's own thing or group, None for any other text."""
    found = _ARN.fullmatch(arn)
    if found is None or (found[1], found[2], found[3]) != (caller.region, caller.account, kind):
        return None
    return found[4]


def invalid(message: str) -> ServiceError:
    """Return IoT's word for a request that it does not take."""
    return ServiceError("InvalidRequestException", message)


def no_such(what: str, name: str) -> ServiceError:
    """Return the error for a thing or group that is not there."""
    return ServiceError("ResourceNotFoundException", f"{what} {name} does not exist.", 404)


def exists_already(what: str, name: str, arn: str, resource_id: str) -> ServiceError:
    """Return the error for a name that is taken by a resource with other properties."""
    return ServiceError(
        "ResourceAlreadyExistsException",
        f"{what} {name} already exists in this account with different properties.",
        409,
        {"resourceId": resource_id, "resourceArn": arn},
    )


def check_version(params: Mapping[str, object], version: int, name: str) -> None:
    """Raise VersionConflictException unless `expectedVersion`, if it is given, is the version."""
    expected = params.get("expectedVersion")
    if expected is not None and expected != version:
        raise ServiceError(
            "VersionConflictException",
            f"The version for {name} is {version}, not the expected {expected}: read it again.",
            409,
        )
