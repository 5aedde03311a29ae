"""Whom a rollout reaches, and in which stage."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.rollout.stages import Device, Stage, plan_stages

from model_delivery.exceptions import InvalidRequestError
from model_delivery.jobs.faults import MISSING_CODES
from model_delivery.rollouts.calls import IotCall, Steps, code_of, pages
from model_delivery.rollouts.plan import PlannedStage

# A record has an attribute for each stage, and a thing group fifty attributes.
MOST_STAGES = 20
_STAGE_NAME = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_STAGE_KEYS = frozenset({"name", "devices", "tags", "percent", "soak_seconds", "approval"})


def find_fleet(group: str | None, names: Sequence[str], *, described: bool) -> Steps[list[Device]]:
    """Return the devices of a group and of those below it, or those that are named.

    :param described: their attributes are needed; those that are named are always looked up
    :raises InvalidRequestError: there is no such group or thing, or no device at all
    """
    if names:
        described, names = True, list(dict.fromkeys(names))
    else:
        assert group is not None, "one of the two is given"
        names = yield from _members(group)
    fleet = [Device(name) for name in names]
    if described:
        for at, name in enumerate(names):
            fleet[at] = yield from _described(name)
    return fleet


def _members(group: str) -> Steps[list[str]]:
    call = IotCall(
        "list_things_in_thing_group",
        {"thingGroupName": group, "recursive": True, "maxResults": 250},
        "nextToken",
    )
    try:
        answers = yield from pages(call)
    except Exception as error:
        if code_of(error) not in MISSING_CODES:
            raise
        raise InvalidRequestError(
            f"thing group {group} does not exist: create it, or check the connection's account"
        ) from error
    names = sorted(name for answer in answers for name in answer["things"])
    if not names:
        raise InvalidRequestError(f"thing group {group} has no things: add devices to it first")
    return names


def _described(name: str) -> Steps[Device]:
    answer = yield IotCall("describe_thing", {"thingName": name}, if_missing={})
    if not answer:
        raise InvalidRequestError(
            f"thing {name} does not exist: check the name, or register the device first"
        )
    return Device(name, dict(answer.get("attributes", {})))


@dataclass(frozen=True)
class WantedStage:
    """A stage as it was asked for."""

    stage: Stage
    soak: float
    approval: bool


def parse_stages(given: Sequence[Mapping[str, Any]]) -> list[WantedStage]:
    """Read stages, as `FleetOperator` takes them.

    :raises InvalidRequestError: a stage that cannot be, or too many
    :raises RolloutError: a stage that takes devices in no way, or in several
    """
    if len(given) > MOST_STAGES:
        raise InvalidRequestError(f"{len(given)} stages: a rollout has at most {MOST_STAGES}")
    return [_parsed(number, each) for number, each in enumerate(given, 1)]


def _parsed(number: int, given: Mapping[str, Any]) -> WantedStage:
    if not isinstance(given, Mapping) or not _STAGE_KEYS.issuperset(given):
        raise InvalidRequestError(
            f"stage {number} is {given!r}: give {', '.join(sorted(_STAGE_KEYS))}, of which one of "
            "devices, tags and percent"
        )
    name = str(given.get("name", number))
    if not _STAGE_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"stage {number} is called {name!r}: give up to 64 letters, digits and _.:-"
        )
    try:
        percent = None if given.get("percent") is None else float(given["percent"])
        soak = float(given.get("soak_seconds", 0))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"stage {name}: {error}: give a number") from None
    if not soak >= 0:
        raise InvalidRequestError(f"stage {name} has soak_seconds {soak:g}: give 0 or more")
    stage = Stage(name, tuple(given.get("devices", ())), dict(given.get("tags", {})), percent)
    return WantedStage(stage, soak, bool(given.get("approval", False)))


def part(
    fleet: Sequence[Device], wanted: Sequence[WantedStage]
) -> tuple[tuple[PlannedStage, ...], int]:
    """Return the stages with their devices, and how many devices no stage takes.

    :raises RolloutError: stages that do not fit the fleet
    """
    plan = plan_stages(fleet, [each.stage for each in wanted])
    planned = tuple(
        PlannedStage(each.stage.name, devices, each.soak, each.approval)
        for each, devices in zip(wanted, plan.stages, strict=True)
    )
    return planned, len(plan.left)
