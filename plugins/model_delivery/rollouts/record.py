"""The record of a rollout: attributes of a thing group, for people and for whoever goes on with it.

Its keys are in docs/edge-rollouts.md. IoT takes no blank in a value; what is for people is the
group's description.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from model_delivery.rollouts.plan import RolloutPlan

PREFIX = "rollout-"
FORMAT = "1"
# A description has at most 2,028 characters.
LONGEST_REASON = 2_000


class State(StrEnum):
    """How far a rollout is."""

    RUNNING = "RUNNING"
    WAITING_APPROVAL = "WAITING_APPROVAL"
    PAUSED = "PAUSED"
    ABORTED = "ABORTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def is_end(self) -> bool:
        """Whether nothing follows."""
        return self in _ENDS


_ENDS = frozenset({State.ABORTED, State.ROLLED_BACK, State.SUCCEEDED, State.FAILED})


class StageState(StrEnum):
    """How far a stage is."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SOAKING = "SOAKING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class Wish(StrEnum):
    """What a person asks for."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ROLLBACK = "rollback"


def record_name(rollout_id: str) -> str:
    """Return the name of a rollout's thing group."""
    return f"{PREFIX}{rollout_id}"


@dataclass
class Record:
    """A record as it was read, and what is to be changed of it.

    :param version: of the thing group, which an update must still find
    :param begun: when it was made, by the service's clock
    :param reason: why it is in its state, for people
    """

    version: int
    attributes: dict[str, str]
    begun: datetime
    reason: str = ""
    changes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> "Record":
        """Read DescribeThingGroup's answer."""
        properties = answer.get("thingGroupProperties", {})
        attributes = properties.get("attributePayload", {}).get("attributes", {})
        return cls(
            int(answer["version"]),
            dict(attributes),
            answer["thingGroupMetadata"]["creationDate"],
            properties.get("thingGroupDescription", ""),
        )

    @property
    def state(self) -> State:
        """How far the rollout is."""
        return State(self.attributes["state"])

    @property
    def stage(self) -> int:
        """Number of the stage at work from 1; 0 before the first."""
        return int(self.attributes.get("stage", "0"))

    @property
    def wish(self) -> Wish | None:
        """What a person asks for; None where nobody does, or for what is none of the wishes."""
        given = self.attributes.get("wish", "")
        return Wish(given) if given in set(Wish) else None

    def stage_fields(self, number: int) -> dict[str, str]:
        """Return the fields of a stage."""
        pairs = (part.partition("=") for part in self.attributes[f"stage-{number}"].split(","))
        return {key: value for key, _, value in pairs}

    def stage_moment(self, number: int, name: str) -> datetime | None:
        """Return one of a stage's times."""
        text = self.stage_fields(number).get(name)
        return _moment(text) if text else None

    def go(self, state: State, reason: str, now: datetime) -> None:
        """Change the state."""
        self.reason = reason[:LONGEST_REASON]
        self.set("state", state)
        if state.is_end:
            self.set("ended", iso(now))

    def set(self, key: str, value: str) -> None:
        """Change an attribute; the empty text takes it away."""
        self.attributes[key] = self.changes[key] = value
        if not value:
            del self.attributes[key]

    def set_stage(self, number: int, **changes: str) -> None:
        """Change fields of a stage."""
        kept = {**self.stage_fields(number), **changes}
        self.set(f"stage-{number}", ",".join(f"{key}={value}" for key, value in kept.items()))

    def properties(self) -> dict[str, Any]:
        """Return the changes as UpdateThingGroup takes them."""
        return {
            "thingGroupDescription": self.reason,
            "attributePayload": {"attributes": self.changes, "merge": True},
        }


def first_properties(plan: RolloutPlan, now: datetime) -> dict[str, Any]:
    """Return the properties of a record that is made."""
    facts = {
        "format": FORMAT,
        "state": State.RUNNING,
        "component": plan.component,
        "change": plan.change,
        "version": plan.version,
        "digest": plan.digest,
        "target": plan.target,
        "stage": "0",
        "stages": str(len(plan.stages)),
        "success": f"{plan.limits.success:g}",
        "error": f"{plan.limits.error:g}",
        "least": str(plan.limits.least),
        "deadline": f"{plan.stage_timeout:g}",
        "on-failure": plan.on_failure,
        "begun": iso(now),
    }
    for number, stage in enumerate(plan.stages, 1):
        facts[f"stage-{number}"] = (
            f"name={stage.name},devices={len(stage.devices)},soak={stage.soak:g},"
            f"state={StageState.WAITING}"
        )
    attributes = {key: str(value) for key, value in facts.items() if value}
    return {
        "thingGroupDescription": "Begun",
        "attributePayload": {"attributes": attributes, "merge": False},
    }


def iso(moment: datetime) -> str:
    """Return a time as records have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
