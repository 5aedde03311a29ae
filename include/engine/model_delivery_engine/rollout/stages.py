"""Which devices are in which stage of a rollout.

A stage lists devices, names a tag, or takes a percentage of the fleet. A percentage counts from the
rollout's beginning: 10 after a list of two devices adds what is missing to a tenth of all. Who is
added goes by a hash of the device's id, so that the same fleet always has the same first devices,
and one that joins moves few of the others.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from model_delivery_engine.errors import RolloutError

_WHOLE = 100.0  # percent


@dataclass(frozen=True)
class Device:
    """A device as a rollout sees it.

    :param name: its id, e.g. a thing name
    :param tags: its attributes
    :param group: what a disruption budget goes by, e.g. its site (default: all are one group)
    """

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Stage:
    """Devices that have something new at the same time; one of the three ways to say which.

    :param name: in reports
    :param devices: by name
    :param tags: all of which a device has to have
    :param percent: of the whole fleet, those of earlier stages included
    """

    name: str
    devices: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    percent: float | None = None

    def __post_init__(self) -> None:
        ways = [bool(self.devices), bool(self.tags), self.percent is not None]
        if sum(ways) != 1:
            raise RolloutError(
                f"stage {self.name!r} must have one of devices, tags and percent, and has "
                f"{sum(ways) or 'none'}"
            )
        if self.percent is not None and not 0 < self.percent <= _WHOLE:
            raise RolloutError(
                f"stage {self.name!r} has percent {self.percent:g}; give a number above 0, "
                "up to 100"
            )


@dataclass(frozen=True)
class Plan:
    """Who is in which stage.

    :param stages: names of devices, stage by stage, each in the order in which they are to begin
    :param left: names of devices that no stage takes
    """

    stages: tuple[tuple[str, ...], ...]
    left: tuple[str, ...]


def plan_stages(fleet: Sequence[Device], stages: Sequence[Stage]) -> Plan:
    """Part a fleet into stages. A device is in the first one that takes it.

    :raises RolloutError: no stage; two stages of one name, or devices; a device that a stage lists
        and the fleet has not; tags that no device has; a percentage below an earlier one
    """
    if not stages:
        raise RolloutError("a rollout has at least one stage: {'name': 'all', 'percent': 100}")
    _refuse_twice("stage", [stage.name for stage in stages])
    _refuse_twice("device", [device.name for device in fleet])
    _refuse_falling(stages)
    by_hash = sorted(fleet, key=lambda device: _hash(device.name))
    left = {device.name: device for device in by_hash}
    parts = []
    for stage in stages:
        chosen = _chosen(stage, by_hash, left)
        for name in chosen:
            left.pop(name)
        parts.append(tuple(chosen))
    return Plan(tuple(parts), tuple(left))


def _chosen(stage: Stage, fleet: Sequence[Device], left: Mapping[str, Device]) -> list[str]:
    if stage.devices:
        known = {device.name for device in fleet}
        if unknown := [name for name in stage.devices if name not in known]:
            raise RolloutError(
                f"stage {stage.name!r} lists {_some(unknown)}, not in the fleet of "
                f"{len(fleet)}; check the name, or register the device first"
            )
        return [name for name in dict.fromkeys(stage.devices) if name in left]
    if stage.tags:
        wanted = stage.tags.items()
        found = [device.name for device in fleet if wanted <= device.tags.items()]
        if not found:
            said = ", ".join(f"{key}={value}" for key, value in wanted)
            raise RolloutError(
                f"stage {stage.name!r}: none of the fleet's {len(fleet)} devices has {said}"
            )
        return [name for name in found if name in left]
    assert stage.percent is not None, "a stage has one of three"
    # In whole devices, upwards: 10 % of three is one. Rounded before that: 7 % of 100 is 7.
    wanted_count = math.ceil(round(stage.percent * len(fleet) / _WHOLE, 9))
    taken = len(fleet) - len(left)
    return list(left)[: max(0, wanted_count - taken)]


def _refuse_twice(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RolloutError(f"{kind} {_some(twice)} is there twice")


def _refuse_falling(stages: Sequence[Stage]) -> None:
    percents = [stage for stage in stages if stage.percent is not None]
    for before, after in pairwise(percents):
        if (after.percent or 0) < (before.percent or 0):
            raise RolloutError(
                f"stage {after.name!r} has percent {after.percent:g}, less than the "
                f"{before.percent:g} of {before.name!r}: percentages count from the beginning"
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
