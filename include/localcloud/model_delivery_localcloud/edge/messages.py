"""The JSON bodies of the device wire, read strictly: a wrong member is refused by name."""

import re
from collections.abc import Mapping
from typing import Any

from model_delivery_localcloud.errors import LocalcloudError

PROTOCOL_HEADER = "Model-Delivery-Edge-Protocol"
PROTOCOL_VERSION = "2"
SPOKEN = frozenset({"1", "2"})  # agents in the field are updated later than the cloud
STATES = frozenset(
    {"IDLE", "QUEUED", "DOWNLOADING", "VERIFIED", "STAGED", "PROBING", "COMMITTED"}
    | {"ROLLED_BACK", "FAILED", "TIMED_OUT"}
)
MOST_PROFILES = 20
LONGEST_WAIT = 30.0
LONGEST_TEXT = 1024
LONGEST_LIST = 100
STATUSES = frozenset({"IN_PROGRESS", "SUCCEEDED", "FAILED", "IDLE"})
_DETAILS = ("state", "components", "profiles", "offline_seconds")
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


class WireError(LocalcloudError):
    """A request of a device is refused; carries the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_registration(body: Any) -> tuple[str, dict[str, str]]:
    """Return the token and the device's facts of a registration body."""
    names = ("token", "architecture", "platform", "agent_version")
    _only(body, (*names, "public_key"))
    facts = {name: _text(body, name) for name in names}
    if "public_key" in body:  # version 1 has none
        facts["public_key"] = _text(body, "public_key")
    return facts.pop("token"), facts


def read_report(body: Any) -> dict[str, Any]:
    """Return a reported state, all members present."""
    names = (
        "generation",
        "deployment_id",
        "status",
        "running",
        "error",
        "agent_version",
        "endpoint",
    )
    _only(body, names)
    generation = body.get("generation")
    if not isinstance(generation, int) or isinstance(generation, bool) or generation < 0:
        raise WireError(400, "generation must be an integer of at least 0")
    if body.get("status") not in STATUSES:
        raise WireError(400, f"status must be one of {', '.join(sorted(STATUSES))}")
    return {
        "generation": generation,
        "status": body["status"],
        "deployment_id": _optional_text(body, "deployment_id"),
        "error": _optional_text(body, "error"),
        "agent_version": _text(body, "agent_version"),
        "endpoint": _optional_text(body, "endpoint"),
        "running": _running(body.get("running")),
    }


def part_details(body: Any) -> tuple[Any, dict[str, Any] | None]:
    """Part a report of version 2 into what version 1 has, and the rest, read strictly."""
    if not isinstance(body, dict):
        raise WireError(400, "the body must be a JSON object")
    rest = {name: body.pop(name) for name in _DETAILS if name in body}
    if rest.keys() != set(_DETAILS):
        missing = sorted(set(_DETAILS) - rest.keys())
        raise WireError(400, f"missing members: {', '.join(missing)}")
    components, profiles = rest["components"], rest["profiles"]
    if rest["state"] not in STATES:
        raise WireError(400, f"state must be one of {', '.join(sorted(STATES))}")
    if not isinstance(components, dict) or not set(components.values()) <= STATES:
        raise WireError(400, "components must give each component's state")
    if not isinstance(profiles, list) or len(profiles) > MOST_PROFILES:
        raise WireError(400, f"profiles must be a list of at most {MOST_PROFILES}")
    for profile in profiles:
        _only(profile, ("record", "signature"))
        if not isinstance(profile.get("record"), dict):
            raise WireError(400, "a profile's record must be an object")
        _text(profile, "signature")
    seconds = rest["offline_seconds"]
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise WireError(400, "offline_seconds must be a number of at least 0")
    return body, rest


def read_poll(query: Mapping[str, str]) -> tuple[int, float]:
    """Return the generation the device knows and how many seconds it would wait."""
    try:
        after, wait = int(query.get("after", "0")), float(query.get("wait", "0"))
    except ValueError:
        raise WireError(400, "after must be an integer and wait a number of seconds") from None
    if after < 0 or not 0 <= wait <= LONGEST_WAIT:
        raise WireError(400, f"after must be at least 0, wait between 0 and {LONGEST_WAIT:g}")
    return after, wait


def _running(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or len(value) > LONGEST_LIST:
        raise WireError(400, f"running must be a list of at most {LONGEST_LIST}")
    names = ("name", "version", "digest", "model_digest")
    for item in value:
        _only(item, names)
    return [{name: _text(item, name) for name in names} for item in value]


def _only(body: Any, names: tuple[str, ...]) -> None:
    if not isinstance(body, dict):
        raise WireError(400, "the body must be a JSON object")
    unknown = sorted(body.keys() - set(names))
    if unknown:
        raise WireError(400, f"unknown members: {', '.join(unknown)}")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT:
        raise WireError(400, f"{name} must be a text of 1 to {LONGEST_TEXT} characters")
    return value


def _optional_text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise WireError(400, f"{name} must be a text or null")
    return value[:LONGEST_TEXT]
