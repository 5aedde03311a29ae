"""What a rollout is to do: fixed when it begins, so that every look at it is at the same thing."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from model_delivery_engine.rollout.budget import Budget
from model_delivery_engine.rollout.gate import Limits
from model_delivery_engine.rollout.stages import Device


class Change(StrEnum):
    """What a rollout does to a device's components."""

    DEPLOY = "DEPLOY"  # the given version
    RETIRE = "RETIRE"  # the component is taken away
    LAST_GOOD = "LAST_GOOD"  # the newest other version that the device ran well


class OnFailure(StrEnum):
    """What follows when a stage is broken."""

    PAUSE = "PAUSE"
    ABORT = "ABORT"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True)
class PlannedStage:
    """A stage with the devices that are in it.

    :param devices: thing names, in the order in which they begin
    :param soak: how long it is watched after its devices are done, in seconds
    :param approval: a person lets it begin
    """

    name: str
    devices: tuple[str, ...]
    soak: float = 0.0
    approval: bool = False


@dataclass(frozen=True)
class RolloutPlan:
    """A rollout.

    :param id: tells it from all others; part of the names of its record and its deployments
    :param account_arn: what ARNs of the account's things begin with, `arn:aws:iot:REGION:ACCOUNT`
    :param target: what the record calls the fleet
    :param version: component version of a DEPLOY, else empty
    :param digest: the bundle's, where it is known
    :param configuration: merged into the component's default configuration on the device
    :param groups: what a disruption budget goes by, of each device that has a group
    :param stage_timeout: time for a stage's devices since it began, in seconds
    :param offline_after: a device that has not begun after so many seconds counts as offline
    """

    id: str
    account_arn: str
    target: str
    component: str
    change: Change
    stages: tuple[PlannedStage, ...]
    version: str = ""
    digest: str = ""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)
    groups: Mapping[str, str] = field(default_factory=dict)
    stage_timeout: float = 3600.0
    offline_after: float = 60.0
    on_failure: OnFailure = OnFailure.ROLLBACK

    @property
    def devices(self) -> list[str]:
        """Names of all devices, stage by stage."""
        return [name for stage in self.stages for name in stage.devices]

    @property
    def fleet(self) -> list[Device]:
        """All devices, as a disruption budget sees them."""
        return [Device(name, group=self.groups.get(name, "")) for name in self.devices]

    def target_arn(self, device: str) -> str:
        """Return the ARN of a device's thing."""
        return f"{self.account_arn}:thing/{device}"

    def written(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def read(cls, text: str) -> "RolloutPlan":
        """Read what `written` returned."""
        given = json.loads(text)
        return cls(
            **{
                **given,
                "change": Change(given["change"]),
                "on_failure": OnFailure(given["on_failure"]),
                "stages": _stages(given["stages"]),
                "limits": Limits(**given["limits"]),
                "budget": Budget(**given["budget"]),
            }
        )


def _stages(given: Sequence[Mapping[str, Any]]) -> tuple[PlannedStage, ...]:
    return tuple(PlannedStage(**{**each, "devices": tuple(each["devices"])}) for each in given)
