"""Deployments to one thing: created, superseded, cancelled, finished by the device's report."""

import uuid
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store import devices
from model_delivery_localcloud.store.tables import Deployment, DesiredState, Device

ACTIVE = "ACTIVE"
COMPLETED = "COMPLETED"
CANCELED = "CANCELED"
FAILED = "FAILED"
INACTIVE = "INACTIVE"


def create_deployment(
    session: Session,
    device: Device,
    target_arn: str,
    request: dict[str, Any],
    components: list[dict[str, Any]],
) -> Deployment:
    """Deploy to a locked device; the target's older deployments become INACTIVE."""
    now = now_ms()
    older = _of_target(device, target_arn)
    newest = select(Deployment.revision).where(older).order_by(Deployment.revision.desc())
    revision = (session.scalar(newest.limit(1)) or 0) + 1
    session.execute(
        update(Deployment).where(older, Deployment.latest).values(latest=False, modified_at=now)
    )
    session.execute(
        update(Deployment)
        .where(older, Deployment.status.in_((ACTIVE, COMPLETED)))
        .values(status=INACTIVE)
    )
    deployment = Deployment(
        account=device.account,
        region=device.region,
        id=str(uuid.uuid4()),
        target_arn=target_arn,
        thing=device.thing,
        name=request.get("deploymentName", ""),
        revision=revision,
        latest=True,
        status=ACTIVE,
        request=request,
        created_at=now,
        modified_at=now,
    )
    session.add(deployment)
    devices.desire(session, device, deployment.id, components)
    return deployment


def cancel_deployment(session: Session, device: Device, deployment: Deployment) -> None:
    """Cancel an ACTIVE deployment: its device is to run again what it last ran with success."""
    deployment.status = CANCELED
    deployment.modified_at = now_ms()
    before = devices.last_succeeded(session, device)
    state = devices.newest_desired(session, device)
    if state is not None and state.deployment_id == deployment.id:
        state.status = CANCELED
        state.reason = "the deployment was cancelled"
        state.modified_at = now_ms()
        components = list(before.components) if before else []
        devices.desire(session, device, before.deployment_id if before else "", components)


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
    if report["status"] == "IDLE" or report["status"] == state.status:
        return
    state.status = report["status"]
    state.reason = report["error"]
    state.modified_at = now_ms()
    _settle(session, state)


def deadline_of(session: Session, state: DesiredState) -> float | None:
    """Return the seconds that a device has from when it hears of a state; None without end."""
    key = (state.account, state.region, state.deployment_id)
    deployment = session.get(Deployment, key)
    config = deployment.request.get("iotJobConfiguration", {}) if deployment else {}
    minutes = config.get("timeoutConfig", {}).get("inProgressTimeoutInMinutes")
    return None if minutes is None else minutes * 60.0


def _settle(session: Session, state: DesiredState) -> None:
    key = (state.account, state.region, state.deployment_id)
    deployment = session.get(Deployment, key)
    if deployment is None or deployment.status != ACTIVE:
        return
    ends = {devices.SUCCEEDED: COMPLETED, devices.FAILED: FAILED}
    if state.status in ends:
        deployment.status = ends[state.status]
        deployment.modified_at = now_ms()


def _of_target(device: Device, target_arn: str) -> Any:
    return (
        (Deployment.account == device.account)
        & (Deployment.region == device.region)
        & (Deployment.target_arn == target_arn)
    )


def list_deployments(
    session: Session,
    account: str,
    region: str,
    target_arn: str | None,
    latest_only: bool,
    after: list[Any] | None,
    limit: int,
) -> list[Deployment]:
    """Return up to `limit` deployments, newest first, after [creation time, id]."""
    conditions = [Deployment.account == account, Deployment.region == region]
    if target_arn is not None:
        conditions.append(Deployment.target_arn == target_arn)
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
