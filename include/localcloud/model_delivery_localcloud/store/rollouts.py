"""Rollouts as people see them: the record in a thing group, and the deployments with its tags.

The record's keys are in docs/edge-rollouts.md. Nothing here is trusted to be complete: a record is
written by whoever runs the rollout, on AWS as here.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store import devices, fleet_deployments, things
from model_delivery_localcloud.store.fleet_tables import Execution, ThingGroup
from model_delivery_localcloud.store.tables import Deployment, Device
from model_delivery_localcloud.store.things import Scope

PREFIX = "rollout-"
STAGE_TAG = "model-delivery:stage"
WISHES: Mapping[str, tuple[str, ...]] = {
    "RUNNING": ("pause", "rollback"),
    "WAITING_APPROVAL": ("approve", "rollback"),
    "PAUSED": ("resume", "rollback"),
}
_UNWRITABLE = re.compile(r"[^a-zA-Z0-9_.,@/:#=\[\]-]")
_RANKS = ("FAILED", "TIMED_OUT", "REJECTED", "OFFLINE", "IN_PROGRESS", "QUEUED", "SUCCEEDED")


class Stale(Exception):
    """The record is not what the person saw any more; the message says so."""


@dataclass(frozen=True)
class Progress:
    """A device in a rollout; `status` is the execution's, OFFLINE or WAITING.

    `error` is why it failed, `execution` None where nothing was sent to it yet.
    """

    thing: str
    stage: str
    status: str
    device: Device | None
    execution: Execution | None

    @property
    def error(self) -> str | None:
        """Return why it failed."""
        return self.execution.reason if self.execution else None


@dataclass(frozen=True)
class Stage:
    """A stage: its number or name, what the record says of it, and its devices' counts."""

    name: str
    plan: Mapping[str, str]
    counts: Counter[str]


@dataclass(frozen=True)
class Event:
    """Something that happened, for the timeline; `at` in milliseconds."""

    at: int
    text: str
    is_bad: bool = False


@dataclass(frozen=True)
class Rollout:
    """All that a page shows of a rollout."""

    record: ThingGroup
    stages: Sequence[Stage]
    progress: Sequence[Progress]
    events: Sequence[Event]
    counts: Counter[str]

    @property
    def id(self) -> str:
        """Return the id, which is the group's name without its prefix."""
        return self.record.name.removeprefix(PREFIX)

    @property
    def facts(self) -> Mapping[str, str]:
        """Return the record's attributes."""
        return self.record.attributes

    @property
    def at_work(self) -> Counter[str]:
        """Return the counts of the stage at work, which the thresholds are about."""
        found = (each.counts for each in self.stages if each.name == self.facts.get("stage"))
        return next(found, Counter())

    @property
    def wishes(self) -> tuple[str, ...]:
        """Return what a person may ask for now."""
        return WISHES.get(self.facts.get("state", ""), ())


def newest(session: Session, limit: int) -> list[ThingGroup]:
    """Return the records of the newest rollouts of all accounts and regions."""
    query = select(ThingGroup).where(ThingGroup.name.startswith(PREFIX, autoescape=True))
    return list(session.scalars(query.order_by(ThingGroup.created_at.desc()).limit(limit)))


def find(session: Session, scope: Scope, rollout_id: str) -> Rollout | None:
    """Return a rollout with its stages and devices, or None."""
    record = things.find_group(session, scope, PREFIX + rollout_id)
    if record is None:
        return None
    query = select(Deployment).where(
        Deployment.account == scope[0],
        Deployment.region == scope[1],
        Deployment.rollout == rollout_id,
    )
    deployments = list(session.scalars(query.order_by(Deployment.created_at)))
    progress = _progress(session, scope, deployments)
    progress.sort(key=lambda each: (_rank(each.status), each.stage, each.thing))
    names = list(dict.fromkeys(_stage_of(each) for each in deployments))
    planned = [key.removeprefix("stage-") for key in record.attributes if _is_stage(key)]
    names += [name for name in sorted(planned, key=int) if name not in names]
    stages = [
        Stage(
            name,
            fields(record.attributes.get(f"stage-{name}", "")),
            Counter(each.status for each in progress if each.stage == name),
        )
        for name in names
    ]
    counts = Counter(each.status for each in progress)
    return Rollout(record, stages, progress, _events(record, deployments, progress), counts)


def wish(
    session: Session, scope: Scope, rollout_id: str, wanted: str, version: int, person: str
) -> None:
    """Write a person's wish into the record; whoever runs the rollout reads it there.

    :param version: of the record that the person saw
    :raises Stale: the record has changed since, or its state does not allow it
    """
    record = things.lock_group(session, scope, PREFIX + rollout_id)
    if record is None:
        raise Stale("The rollout is not there any more.")
    state = record.attributes.get("state", "")
    if record.version != version or wanted not in WISHES.get(state, ()):
        raise Stale(f"The rollout has gone on since, it is {state} now: look again.")
    now = now_ms()
    record.attributes = {
        **record.attributes,
        "wish": wanted,
        "wish-by": _UNWRITABLE.sub("_", person)[:128] or "-",
        "wish-at": datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    record.version += 1
    record.modified_at = now


def fields(text: str) -> dict[str, str]:
    """Return the fields of an attribute such as `name=canary,devices=2`."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {key: value for key, _, value in pairs}


def moment_of(text: str | None) -> int | None:
    """Return an attribute's time, ISO 8601 in UTC, as milliseconds; None for anything else."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _progress(session: Session, scope: Scope, deployments: Sequence[Deployment]) -> list[Progress]:
    by_id = {each.id: each for each in deployments}
    same = and_(
        Device.account == Execution.account,
        Device.region == Execution.region,
        Device.thing == Execution.thing,
    )
    query = select(Execution, Device).outerjoin(Device, same).where(
        Execution.account == scope[0],
        Execution.region == scope[1],
        Execution.deployment_id.in_(by_id),
    )  # fmt: skip
    # A device that a later deployment of the rollout reached, as one that goes back, is told once.
    found: dict[str, Progress] = {}
    ordered = query.order_by(Execution.deployed_at)
    for execution, device in session.execute(ordered):
        stage = _stage_of(by_id[execution.deployment_id])
        status = _status(execution, device)
        found[execution.thing] = Progress(execution.thing, stage, status, device, execution)
    for each in deployments:
        if each.status != "ACTIVE":
            continue
        for thing in session.scalars(fleet_deployments.not_reached(session, each)):
            known = devices.find_device(session, *scope, thing)
            found.setdefault(thing, Progress(thing, _stage_of(each), "WAITING", known, None))
    return list(found.values())


def _status(execution: Execution, device: Device | None) -> str:
    if execution.status not in devices.OPEN or device is None:
        return execution.status
    heard = device.reported_at is not None and now_ms() - device.reported_at <= devices.SILENT_MS
    return execution.status if heard else "OFFLINE"


def _stage_of(deployment: Deployment) -> str:
    return str(deployment.request.get("tags", {}).get(STAGE_TAG, "-"))


def _is_stage(key: str) -> bool:
    return key.startswith("stage-") and key.removeprefix("stage-").isdecimal()


def _rank(status: str) -> int:
    return _RANKS.index(status) if status in _RANKS else len(_RANKS)


def _events(
    record: ThingGroup, deployments: Sequence[Deployment], progress: Sequence[Progress]
) -> list[Event]:
    facts = record.attributes
    events = [Event(record.created_at, "Rollout begun")]
    for each in deployments:
        name = _stage_of(each)
        events.append(Event(each.created_at, f"Stage {name}: deployed"))
        if each.status == "CANCELED":
            events.append(Event(each.modified_at, f"Stage {name}: {each.reason}", is_bad=True))
    for key, value in facts.items():
        ended = moment_of(fields(value).get("ended")) if _is_stage(key) else None
        if ended is not None:
            state = fields(value).get("state", "ended")
            name = key.removeprefix("stage-")
            events.append(Event(ended, f"Stage {name}: {state}", is_bad=state == "FAILED"))
    bad = (each for each in progress if each.status in ("FAILED", "TIMED_OUT", "REJECTED"))
    for one in bad:
        assert one.execution is not None, "what failed was sent"
        text = f"{one.thing}: {one.status.replace('_', ' ').lower()}"
        events.append(Event(one.execution.modified_at, text, is_bad=True))
    if (asked := moment_of(facts.get("wish-at"))) is not None:
        wish_ = facts.get("wish", facts.get("wish-done", "something"))
        events.append(Event(asked, f"{facts.get('wish-by', 'somebody')} asked: {wish_}"))
    if (ended := moment_of(facts.get("ended"))) is not None:
        events.append(Event(ended, f"Rollout {facts.get('state', 'ended')}"))
    return sorted(events, key=lambda each: each.at, reverse=True)


def device_groups(session: Session, device: Device) -> list[str]:
    """Return the names of the groups that a device is in itself."""
    return things.groups_of(session, (device.account, device.region), device.thing)
