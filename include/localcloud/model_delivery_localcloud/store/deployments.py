"""Deployments to things and groups: created, superseded, cancelled, settled by devices' reports."""

import uuid
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store import device_state, devices
from model_delivery_localcloud.store.tables import Deployment, DesiredState, Device
from model_delivery_localcloud.store.things import Scope

ACTIVE = "ACTIVE"
COMPLETED = "COMPLETED"
CANCELED = "CANCELED"
FAILED = "FAILED"
INACTIVE = "INACTIVE"


ROLLOUT_TAG = "model-delivery:rollout"


def create_deployment(
    session: Session, scope: Scope, thing: str, request: dict[str, Any]
) -> Deployment:
    """Make a deployment, due at once; the target's older ones become INACTIVE.

    The target's row, a thing or a group, is locked: two at once get two revisions.

    :param thing: name of the thing that is the target, empty for a group
    """
    now, target = now_ms(), request["targetArn"]
    slot = request.get("parentTargetArn", target)
    mine = Deployment.account == scope[0], Deployment.region == scope[1]
    same = Deployment.target_arn == target
    newest = session.execute(
        select(Deployment.revision, Deployment.created_at)
        .where(*mine, same)
        .order_by(Deployment.revision.desc())
        .limit(1)
    ).first()
    # What has the place of the target, or of a part of it, gives way.
    older = and_(Deployment.slot == slot, or_(same, slot == target))
    session.execute(
        update(Deployment).where(*mine, same, older).values(latest=False, modified_at=now)
    )
    session.execute(
        update(Deployment)
        .where(*mine, older, Deployment.status.in_((ACTIVE, COMPLETED)))
        .values(status=INACTIVE, due_at=now)
    )
    deployment = Deployment(
        account=scope[0],
        region=scope[1],
        id=str(uuid.uuid4()),
        target_arn=target,
        thing=thing,
        slot=slot,
        name=request.get("deploymentName", ""),
        revision=newest.revision + 1 if newest else 1,
        latest=True,
        status=ACTIVE,
        request=request,
        rollout=request.get("tags", {}).get(ROLLOUT_TAG, ""),
        # Later than the one before it, whatever the clock says: devices go by this order.
        created_at=max(now, newest.created_at + 1) if newest else now,
        modified_at=now,
        due_at=now,
    )
    session.add(deployment)
    session.flush()
    return deployment


def cancel_deployment(deployment: Deployment) -> None:
    """Cancel an ACTIVE deployment, locked: devices that are not done with it go back."""
    deployment.status = CANCELED
    deployment.reason = "the deployment was cancelled"
    deployment.modified_at = deployment.due_at = now_ms()


def record_report(session: Session, device: Device, report: dict[str, Any]) -> None:
    """Take a device's report: its heartbeat, and the outcome of the generation it speaks of."""
    device.reported_at = now_ms()
    device.reported_generation = report["generation"]
    device.reported_status = report["status"]
    device.reported_error = report["error"]
    device.running = report["running"]
    device.agent_version = report["agent_version"]
    device.endpoint = report["endpoint"]
    key = (device.account, device.region, device.thing, report["generation"])
    state = session.get(DesiredState, key)
    if state is None or state.status not in devices.OPEN:
        return
    status = report["status"]
    if status == "IDLE" and not state.deployment_id:
        status = devices.SUCCEEDED  # what was left of its deployments
    if status in ("IDLE", state.status):
        return
    state.status = status
    state.reason = report["error"]
    state.modified_at = now_ms()
    device_state.settle(session, device, state)


def deadline_of(session: Session, state: DesiredState) -> float | None:
    """Return the seconds that a device has from when it hears of a state; None without end."""
    deployment = session.get(Deployment, (state.account, state.region, state.deployment_id))
    milliseconds = device_state.time_limit(deployment) if deployment else None
    return None if milliseconds is None else milliseconds / 1000


def list_deployments(
    session: Session,
    account: str,
    region: str,
    target_arn: str | None,
    parent_arn: str | None,
    latest_only: bool,
    after: list[Any] | None,
    limit: int,
) -> list[Deployment]:
    """Return up to `limit` deployments, newest first, after [creation time, id]."""
    conditions = [Deployment.account == account, Deployment.region == region]
    if target_arn is not None:
        conditions.append(Deployment.target_arn == target_arn)
    if parent_arn is not None:
        conditions += [Deployment.slot == parent_arn, Deployment.target_arn != parent_arn]
    if latest_only:
        conditions.append(Deployment.latest.is_(True))
    if after is not None:
        created, last_id = after
        same = and_(Deployment.created_at == created, Deployment.id < last_id)
        conditions.append(or_(Deployment.created_at < created, same))
    order = (Deployment.created_at.desc(), Deployment.id.desc())
    return list(
        session.scalars(select(Deployment).where(*conditions).order_by(*order).limit(limit))
    )
