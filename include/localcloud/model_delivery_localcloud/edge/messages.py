"""The JSON bodies of the device wire, read strictly: a wrong member is refused by name."""

import re
from collections.abc import Mapping
from typing import Any

from model_delivery_localcloud.errors import LocalcloudError

PROTOCOL_HEADER = "Model-Delivery-Edge-Protocol"
PROTOCOL_VERSION = "1"
LONGEST_WAIT = 30.0
LONGEST_TEXT = 1024
LONGEST_LIST = 100
STATUSES = frozenset({"IN_PROGRESS", "SUCCEEDED", "FAILED", "IDLE"})
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


class WireError(LocalcloudError):
    """A request of a device is refused; carries the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_registration(body: Any) -> tuple[str, dict[str, str]]:
    """Return the token and the device's facts of a registration body."""
    names = ("token", "architecture", "platform", "agent_version")
    _only(body, names)
    facts = {name: _text(body, name) for name in names}
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
