"""Deployments on their way through a fleet: one step at a time, by whoever holds the deployment.

A deployment with something to do is due at a time. Who takes a step claims it: `due_at` moves on by
10 s and `fence` grows, in a transaction of its own; a holder that dies leaves a claim that runs
out. A step locks devices in the order of their names, then its deployment, and commits only under
its fence. Whatever a step does, doing it again changes nothing: an execution is made once.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, exists, func, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import LeaseLost
from model_delivery_localcloud.store import device_state, devices, pacing, things
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.fleet_tables import Execution, ThingGroupMember
from model_delivery_localcloud.store.tables import Deployment, Device
from model_delivery_localcloud.store.things import Scope

log = logging.getLogger(__name__)

CLAIM_MS = 10_000
BATCH = 32
# How often what came of a deployment is held against the criteria that end it.
WATCH_MS = 1000


@dataclass(frozen=True)
class Claim:
    """The right to the next step of a deployment, for 10 s."""

    scope: Scope
    deployment_id: str
    fence: int
    until: int


def due(session: Session, now: int, limit: int) -> list[tuple[Scope, str]]:
    """Return the deployments that are due, the longest first."""
    query = select(Deployment.account, Deployment.region, Deployment.id)
    query = query.where(Deployment.due_at <= now).order_by(Deployment.due_at).limit(limit)
    return [((account, region), each) for account, region, each in session.execute(query)]


def late(session: Session, now: int, limit: int) -> list[tuple[Scope, str, str]]:
    """Return scope, thing and deployment of executions whose deadline has passed."""
    table = Execution
    query = select(table.account, table.region, table.thing, table.deployment_id)
    query = query.where(table.deadline <= now).order_by(table.deadline).limit(limit)
    return [((a, r), thing, each) for a, r, thing, each in session.execute(query)]


def time_out(database: Database, scope: Scope, thing: str, deployment_id: str) -> int:
    """End an execution that is late still; returns how many ended."""
    with database.write() as session:
        device = devices.lock_device(session, *scope, thing)
        if device is None:
            return 0
        return int(device_state.time_out(session, device, deployment_id, now_ms()))


def take_up(database: Database, scope: Scope, deployment_id: str) -> int:
    """Take the next step of a deployment, unless it is not due or somebody else's.

    Returns how many devices it was about.
    """
    claim = _claim(database, scope, deployment_id)
    if claim is None:
        return 0
    try:
        return _step(database, claim)
    except LeaseLost as lost:  # whoever has it now does what was undone here
        log.info("%s", lost)
        return 0


def joined(session: Session, scope: Scope, group: str) -> list[str]:
    """Make the deployments due that a group's new member is to get; returns their ids."""
    names = [group, *(each.name for each in things.ancestors(session, scope, group))]
    return devices.wake_deployments(session, scope, names)


def leave_group(database: Database, scope: Scope, group: str, thing: str) -> None:
    """Take a thing out of a group, and from the device what it has by it alone."""
    with database.write() as session:
        device = devices.lock_device(session, *scope, thing)
        if things.remove_member(session, scope, group, thing) and device is not None:
            device_state.reconcile(session, device)


def retire_target(session: Session, scope: Scope, target_arn: str) -> None:
    """End the deployments of a target that will not be there any more."""
    session.execute(
        update(Deployment)
        .where(*_in(scope), Deployment.target_arn == target_arn, Deployment.status == "ACTIVE")
        .values(status="INACTIVE", reason="its thing group was deleted", due_at=now_ms())
    )


def counts_of(session: Session, scope: Scope, deployment_id: str) -> Counter[str]:
    """Return how many of a deployment's executions are in each status."""
    table = Execution
    query = select(table.status, func.count()).where(
        table.account == scope[0], table.region == scope[1], table.deployment_id == deployment_id
    )
    return Counter({status: n for status, n in session.execute(query.group_by(table.status))})


def not_reached(session: Session, deployment: Deployment) -> Select[str]:
    """Return the query for the things of a deployment's target that it has not reached yet."""
    scope = deployment.account, deployment.region
    if deployment.thing:
        column: Any = Device.thing
        mine = (Device.account == scope[0], Device.region == scope[1])
        query = select(column).where(*mine, column == deployment.thing)
    else:
        name = deployment.target_arn.partition(":thinggroup/")[2]
        query = things.members(scope, things.family(session, scope, name))
        column = ThingGroupMember.thing
    reached = exists().where(
        Execution.account == scope[0],
        Execution.region == scope[1],
        Execution.thing == column,
        Execution.deployment_id == deployment.id,
    )
    return query.where(~reached)


def _claim(database: Database, scope: Scope, deployment_id: str) -> Claim | None:
    now = now_ms()
    with database.write() as session:
        found = session.get(Deployment, (*scope, deployment_id), with_for_update=True)
        if found is None or found.due_at is None or found.due_at > now:
            return None
        found.due_at = now + CLAIM_MS
        found.fence += 1
        return Claim(scope, deployment_id, found.fence, found.due_at)


def _step(database: Database, claim: Claim) -> int:
    """Do what is due; returns how many devices it was about."""
    with database.read() as session:
        deployment = session.get_one(Deployment, (*claim.scope, claim.deployment_id))
        counts = counts_of(session, claim.scope, claim.deployment_id)
    if deployment.status != "ACTIVE":
        return _sweep(database, claim)
    config = deployment.request.get("iotJobConfiguration", {})
    why = pacing.to_abort(config.get("abortConfig", {}), counts)
    if why is not None:
        with database.write() as session:
            held = _held(session, claim)
            if held.status == "ACTIVE":
                held.status, held.reason = "CANCELED", why
                held.modified_at = now_ms()
        return _sweep(database, claim)
    return _spread(database, claim, deployment, counts)


def _spread(database: Database, claim: Claim, deployment: Deployment, counts: Counter[str]) -> int:
    """Reach as many further devices as the rate allows, a batch at most."""
    config = deployment.request.get("iotJobConfiguration", {})
    now = now_ms()
    with database.read() as session:
        found = list(session.scalars(not_reached(session, deployment).limit(BATCH + 1)))
        last_minute = _since(session, claim, now - pacing.MINUTE_MS)
    number, paced_at, again_at = len(found[:BATCH]), deployment.paced_at, now
    per_minute = pacing.rate(
        config.get("jobExecutionsRolloutConfig", {}), counts.total(), counts[devices.SUCCEEDED]
    )
    if per_minute is not None:
        allowed = pacing.allowance(per_minute, paced_at, now, last_minute, number)
        number, again_at = allowed.number, allowed.again_at
        paced_at = allowed.paced_at if found else paced_at
    more = len(found) > number
    watched = "abortConfig" in config and (number or any(counts[each] for each in devices.OPEN))
    with database.write() as session:
        for thing in found[:number]:
            device = devices.lock_device(session, *claim.scope, thing)
            if device is not None and device_state.add_execution(session, device, deployment, now):
                device_state.reconcile(session, device)
        held = _held(session, claim)
        held.paced_at = paced_at
        if held.due_at == claim.until:  # nobody asked for a step meanwhile
            held.due_at = again_at if more else now + WATCH_MS if watched else None
    return number


def _sweep(database: Database, claim: Claim) -> int:
    """Take a deployment that is over from some of the devices that have it before them."""
    open_ones = select(Execution.thing).where(
        Execution.account == claim.scope[0],
        Execution.region == claim.scope[1],
        Execution.deployment_id == claim.deployment_id,
        Execution.status.in_(devices.OPEN),
    )
    with database.read() as session:
        query = open_ones.order_by(Execution.thing).limit(BATCH + 1)
        found = list(session.scalars(query))
    with database.write() as session:
        for thing in found[:BATCH]:
            device = devices.lock_device(session, *claim.scope, thing)
            if device is not None:
                device_state.reconcile(session, device)
        held = _held(session, claim)
        if held.due_at == claim.until:
            held.due_at = now_ms() if len(found) > BATCH else None
    return len(found[:BATCH])


def _held(session: Session, claim: Claim) -> Deployment:
    """Return the deployment, locked; raises LeaseLost where another has claimed it since."""
    session.flush()
    found = session.get_one(
        Deployment, (*claim.scope, claim.deployment_id),
        with_for_update=True, populate_existing=True,
    )  # fmt: skip
    if found.fence != claim.fence:
        raise LeaseLost(f"deployment {claim.deployment_id}: another has taken it up")
    return found


def _since(session: Session, claim: Claim, moment: int) -> int:
    table = Execution
    query = select(func.count()).where(
        table.account == claim.scope[0],
        table.region == claim.scope[1],
        table.deployment_id == claim.deployment_id,
        table.created_at > moment,
    )
    return session.scalar(query) or 0


def _in(scope: Scope) -> tuple[Any, Any]:
    return Deployment.account == scope[0], Deployment.region == scope[1]
