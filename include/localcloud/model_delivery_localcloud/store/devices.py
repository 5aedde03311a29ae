"""Devices: registration, desired state by generation, and what a device reports."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import and_, delete, exists, func, not_, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store import things
from model_delivery_localcloud.store.fleet_tables import Execution
from model_delivery_localcloud.store.tables import (
    ComponentVersion,
    Deployment,
    DesiredState,
    Device,
    DeviceArtifact,
    DeviceToken,
)
from model_delivery_localcloud.store.things import Scope
from model_delivery_localcloud.store.tokens import hash_token, new_token

TOKEN_LIFETIME_MS = 24 * 3600 * 1000
SILENT_MS = 30_000

QUEUED = "QUEUED"
IN_PROGRESS = "IN_PROGRESS"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
CANCELED = "CANCELED"
TIMED_OUT = "TIMED_OUT"
OPEN = frozenset({QUEUED, IN_PROGRESS})


def make_registration_token(session: Session, account: str, region: str, thing: str) -> str:
    """Return a token that registers `thing` once within 24 hours; makes the thing known."""
    now = now_ms()
    if session.get(Device, (account, region, thing)) is None:
        session.add(Device(account=account, region=region, thing=thing, created_at=now, running=[]))
    token = new_token()
    session.add(
        DeviceToken(
            token_hash=hash_token(token),
            account=account,
            region=region,
            thing=thing,
            created_at=now,
            expires_at=now + TOKEN_LIFETIME_MS,
        )
    )
    return token


def register(session: Session, thing: str, token: str, facts: dict[str, str]) -> str | None:
    """Spend the token and return the device's new key; None for a wrong or used token.

    Registering again with a new token replaces the key. `facts`: architecture, platform,
    agent_version.
    """
    now = now_ms()
    row = session.get(DeviceToken, hash_token(token))
    if row is None or row.thing != thing or row.used_at is not None or row.expires_at < now:
        return None
    device = session.get_one(Device, (row.account, row.region, thing))
    row.used_at = now
    key = new_token()
    device.key_hash = hash_token(key)
    device.registered_at = now
    device.reported_at = now
    device.public_key = None  # of the agent before, if this one has none
    for name, value in facts.items():
        setattr(device, name, value)
    names = things.all_groups_of(session, (device.account, device.region), thing)
    # Those of its groups that it had lost as a core device that was deleted.
    wake_deployments(session, (device.account, device.region), names)
    return key


def wake_deployments(session: Session, scope: Scope, groups: Iterable[str]) -> list[str]:
    """Make the deployments due that new members of some groups are to get; returns their ids."""
    targets = [f"arn:aws:iot:{scope[1]}:{scope[0]}:thinggroup/{name}" for name in groups]
    if not targets:
        return []
    wanted = (
        Deployment.account == scope[0],
        Deployment.region == scope[1],
        Deployment.target_arn.in_(targets),
        Deployment.latest,
        Deployment.status == "ACTIVE",
    )
    found = list(session.scalars(select(Deployment.id).where(*wanted)))
    if found:
        session.execute(update(Deployment).where(*wanted).values(due_at=now_ms()))
    return found


def find_device_by_key(session: Session, key: str) -> Device | None:
    """Return the device that holds this key, or None."""
    return session.scalars(select(Device).where(Device.key_hash == hash_token(key))).first()


def find_device(session: Session, account: str, region: str, thing: str) -> Device | None:
    """Return the device, or None."""
    return session.get(Device, (account, region, thing))


def lock_device(session: Session, account: str, region: str, thing: str) -> Device | None:
    """Return the device, locked until the transaction ends, or None."""
    key = (account, region, thing)
    return session.get(Device, key, with_for_update=True, populate_existing=True)


def newest_desired(session: Session, device: Device) -> DesiredState | None:
    """Return the device's newest desired state, or None if it never had one."""
    key = (device.account, device.region, device.thing, device.generation)
    return session.get(DesiredState, key)


def last_succeeded(session: Session, device: Device) -> DesiredState | None:
    """Return the desired state that the device last reached, or None."""
    reached = select(DesiredState).where(_of(device), DesiredState.status == SUCCEEDED)
    return session.scalars(reached.order_by(DesiredState.generation.desc()).limit(1)).first()


def desire(
    session: Session, device: Device, deployment_id: str, components: list[dict[str, Any]]
) -> DesiredState:
    """Give the device (locked) a new generation of desired state; open older ones are cancelled."""
    now = now_ms()
    session.execute(
        update(DesiredState)
        .where(_of(device), DesiredState.status.in_(OPEN))
        .values(status=CANCELED, reason="a newer deployment replaced it", modified_at=now)
    )
    device.generation += 1
    state = DesiredState(
        account=device.account,
        region=device.region,
        thing=device.thing,
        generation=device.generation,
        deployment_id=deployment_id,
        components=components,
        status=QUEUED,
        created_at=now,
        modified_at=now,
    )
    session.add(state)
    return state


def allow_artifact(session: Session, device: Device, component: ComponentVersion) -> None:
    """Let the device download the component's artifact."""
    session.merge(
        DeviceArtifact(
            account=device.account,
            region=device.region,
            thing=device.thing,
            digest=component.artifact_digest,
            uri=component.artifact_uri,
            etag=component.artifact_etag,
            size=component.artifact_size,
        )
    )


def find_artifact(session: Session, device: Device, digest: str) -> DeviceArtifact | None:
    """Return an artifact that the device may download, or None."""
    return session.get(DeviceArtifact, (device.account, device.region, device.thing, digest))


def list_executions(session: Session, device: Device) -> list[tuple[Execution, Deployment]]:
    """Return what became of the device's deployments, the newest deployment first."""
    same = and_(
        Deployment.account == Execution.account,
        Deployment.region == Execution.region,
        Deployment.id == Execution.deployment_id,
    )
    mine = (
        Execution.account == device.account,
        Execution.region == device.region,
        Execution.thing == device.thing,
    )
    query = select(Execution, Deployment).join(Deployment, same).where(*mine)
    newest = (Execution.deployed_at.desc(), Execution.deployment_id.desc())
    return [(each, of) for each, of in session.execute(query.order_by(*newest))]


def newest_states(session: Session, device: Device, limit: int) -> list[DesiredState]:
    """Return the newest of what the device was sent, and what it said of each."""
    query = select(DesiredState).where(_of(device)).order_by(DesiredState.generation.desc())
    return list(session.scalars(query.limit(limit)))


def forget_core_device(session: Session, device: Device) -> None:
    """Make a core device (locked) a mere thing again: no key, no reports, nothing to run."""
    for table in (Execution, DesiredState, DeviceArtifact):
        mine = (table.account == device.account, table.region == device.region)
        session.execute(delete(table).where(*mine, table.thing == device.thing))
    # Its generation grows on: what the device may still know of is never told anew as another.
    desire(session, device, "", [])
    for name in ("key_hash", "registered_at", "reported_at", "reported_status", "reported_error"):
        setattr(device, name, None)
    device.running, device.tags = [], {}


def is_healthy(device: Device) -> bool:
    """Tell whether the device was heard within 30 s and its last report was no failure."""
    heard = device.reported_at is not None and now_ms() - device.reported_at <= SILENT_MS
    return heard and device.reported_status != FAILED


def _of(device: Device) -> Any:
    return (
        (DesiredState.account == device.account)
        & (DesiredState.region == device.region)
        & (DesiredState.thing == device.thing)
    )


def list_core_devices(
    session: Session,
    account: str,
    region: str,
    healthy: bool | None,
    target_arn: str | None,
    after: str | None,
    limit: int,
) -> list[Device]:
    """Return up to `limit` registered devices by name, after the name `after`.

    :param target_arn: a group of which a deployment must have succeeded on the device once
    """
    heard = Device.reported_at >= now_ms() - SILENT_MS
    well = and_(heard, func.coalesce(Device.reported_status, "") != FAILED)
    conditions = [Device.account == account, Device.region == region]
    conditions.append(Device.registered_at.is_not(None))
    if healthy is not None:
        conditions.append(well if healthy else not_(well))
    if target_arn is not None:
        conditions.append(
            exists().where(
                Execution.account == account,
                Execution.region == region,
                Execution.slot == target_arn,
                Execution.thing == Device.thing,
                Execution.status == SUCCEEDED,
            )
        )
    if after is not None:
        conditions.append(Device.thing > after)
    query = select(Device).where(*conditions).order_by(Device.thing).limit(limit)
    return list(session.scalars(query))
