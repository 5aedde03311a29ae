"""What a device shall run: the deployments of its thing and of all its groups, merged.

A device works on one deployment at a time, in the order in which they were made. A deployment that
wants another version of a component than one of another target fails on that device, as on
Greengrass: the older one stays. All functions are for a device that is locked.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.services.configuration import apply_update, merge
from model_delivery_localcloud.services.recipes import read_recipe
from model_delivery_localcloud.store import devices, things
from model_delivery_localcloud.store.fleet_tables import Execution
from model_delivery_localcloud.store.tables import (
    ComponentVersion,
    Deployment,
    DesiredState,
    Device,
)

CONFLICT = "COMPONENT_VERSION_REQUIREMENTS_NOT_MET"
MISSING = "NO_AVAILABLE_COMPONENT_VERSION"
REPLACED = "a newer deployment replaced it"
_ACTIVE = "ACTIVE"

Components = list[dict[str, Any]]


class _Unmet(Exception):
    """A deployment cannot be on this device; holds a code of Greengrass's and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def add_execution(session: Session, device: Device, deployment: Deployment, now: int) -> bool:
    """Queue a deployment for a device; returns False where it had it already."""
    key = (device.account, device.region, device.thing, deployment.id)
    if session.get(Execution, key) is not None:
        return False
    session.add(
        Execution(
            account=device.account, region=device.region, thing=device.thing,
            deployment_id=deployment.id, slot=deployment.slot, deployed_at=deployment.created_at,
            generation=0, applied=False, status=devices.QUEUED, created_at=now, modified_at=now,
        )
    )  # fmt: skip
    session.flush()
    return True


def reconcile(session: Session, device: Device, *, undone: bool = False) -> None:
    """End what is no more for this device, begin what waits, and send it back where need be.

    :param undone: whether something that was sent to it does not count any more
    """
    live = _live(session, device)
    deployments = _deployments(session, device, live)
    targets = _targets(session, device)
    for each in live:
        undone |= _end_if_over(session, each, deployments[each.deployment_id], targets, live)
    waiting = [each for each in live if each.status in devices.OPEN]
    under_way = [each for each in waiting if each.generation]
    if under_way and not undone:
        return
    for each in under_way:  # what it was sent with has changed
        each.generation, each.status, each.deadline = 0, devices.QUEUED, None
    applied = [each for each in live if each.applied]
    for each in sorted(waiting, key=lambda one: (one.deployed_at, one.deployment_id)):
        if _begin(session, device, each, applied, deployments):
            return
    if undone:
        _send_back(session, device, applied, deployments)


def settle(session: Session, device: Device, state: DesiredState) -> None:
    """Take what a device said of a desired state as the outcome of its deployment."""
    key = (device.account, device.region, device.thing, state.deployment_id)
    execution = session.get(Execution, key)
    if (
        execution is None
        or execution.generation != state.generation
        or execution.status not in devices.OPEN
    ):
        return
    deployment = session.get_one(Deployment, (device.account, device.region, state.deployment_id))
    if state.status == devices.IN_PROGRESS:
        execution.status, execution.modified_at = devices.IN_PROGRESS, state.modified_at
        limit = time_limit(deployment)
        execution.deadline = None if limit is None else state.modified_at + limit
        return
    end(session, execution, deployment, state.status, state.reason)
    if state.status == devices.SUCCEEDED:
        for other in _live(session, device):
            if other.slot == execution.slot:
                other.applied = False
        execution.applied = True
        session.flush()
    reconcile(session, device)


def time_out(session: Session, device: Device, deployment_id: str, now: int) -> bool:
    """End an execution whose deadline has passed, if it has; the device goes back."""
    execution = session.get(
        Execution, (device.account, device.region, device.thing, deployment_id),
        populate_existing=True,
    )  # fmt: skip
    if execution is None or execution.deadline is None or execution.deadline > now:
        return False
    deployment = session.get_one(Deployment, (device.account, device.region, deployment_id))
    minutes = deployment.request["iotJobConfiguration"]["timeoutConfig"][
        "inProgressTimeoutInMinutes"
    ]
    reason = f"not done {minutes} min after it began"
    end(session, execution, deployment, devices.TIMED_OUT, reason)
    _close(session, execution, reason)
    reconcile(session, device, undone=True)
    return True


def end(
    session: Session, execution: Execution, deployment: Deployment, status: str, reason: str | None
) -> None:
    """End an execution; with it a deployment to that thing alone."""
    now = now_ms()
    execution.status, execution.reason = status, reason
    execution.modified_at, execution.deadline = now, None
    session.flush()
    if deployment.thing and deployment.status == _ACTIVE and status != devices.CANCELED:
        deployment.status = "COMPLETED" if status == devices.SUCCEEDED else "FAILED"
        deployment.modified_at = now


def merged_versions(
    applied: Iterable[tuple[str, Mapping[str, str]]], slot: str, wanted: Mapping[str, str]
) -> dict[str, str]:
    """Return the versions of all components once `wanted` has the place of its slot.

    :param applied: slot and versions by component of each deployment that the device has
    :raises ValueError: another slot has another version of a component
    """
    versions: dict[str, str] = {}
    for other, has in applied:
        if other == slot:
            continue
        for name, version in has.items():
            if wanted.get(name, version) != version:
                raise ValueError(
                    f"component {name}: {wanted[name]} is wanted, and {other} has {version}; "
                    "give both targets the same version"
                )
            versions[name] = version
    return {**versions, **wanted}


def _end_if_over(
    session: Session,
    execution: Execution,
    deployment: Deployment,
    targets: set[str],
    live: list[Execution],
) -> bool:
    """End what does not count any more; returns whether the device has or may have something."""
    if execution.slot not in targets:
        reason = f"the device left {execution.slot}"
        execution_had = execution.applied
        execution.applied = False
    elif execution.status in devices.OPEN and deployment.status != _ACTIVE:
        reason, execution_had = deployment.reason or REPLACED, False
    elif execution.status in devices.OPEN and any(
        each.slot == execution.slot and each.deployed_at > execution.deployed_at for each in live
    ):
        reason, execution_had = REPLACED, False
    else:
        return False
    if execution.status not in devices.OPEN:
        return execution_had
    sent = execution.generation > 0
    end(session, execution, deployment, devices.CANCELED, reason)
    if sent:
        _close(session, execution, reason)
    return execution_had or sent


def _begin(
    session: Session,
    device: Device,
    execution: Execution,
    applied: list[Execution],
    deployments: Mapping[str, Deployment],
) -> bool:
    """Send a deployment to the device, unless others of its deployments stand against it."""
    deployment = deployments[execution.deployment_id]
    try:
        components = _components(session, device, applied, deployments, execution)
    except _Unmet as unmet:
        execution.error_code = unmet.code
        end(session, execution, deployment, devices.FAILED, str(unmet))
        return False
    state = devices.desire(session, device, execution.deployment_id, components)
    execution.generation, execution.modified_at = state.generation, state.created_at
    session.flush()
    return True


def _send_back(
    session: Session,
    device: Device,
    applied: list[Execution],
    deployments: Mapping[str, Deployment],
) -> None:
    """Give the device again what is left of its deployments, unless it has just that."""
    components = _components(session, device, applied, deployments, None)
    newest = devices.newest_desired(session, device)
    reached = devices.last_succeeded(session, device)
    has = list(reached.components) if reached else []
    settled = newest is None or newest.status in (devices.SUCCEEDED, devices.FAILED)
    if settled and _by_name(has) == _by_name(components):
        return
    last = max(applied, key=lambda one: one.deployed_at, default=None)
    devices.desire(session, device, last.deployment_id if last else "", components)
    session.flush()


def _components(
    session: Session,
    device: Device,
    applied: list[Execution],
    deployments: Mapping[str, Deployment],
    beginning: Execution | None,
) -> Components:
    request = deployments[beginning.deployment_id].request if beginning else {}
    wanted = request.get("components", {})
    has = [(each.slot, _versions(deployments[each.deployment_id])) for each in applied]
    versions = {name: each["componentVersion"] for name, each in wanted.items()}
    try:
        merged = merged_versions(has, beginning.slot if beginning else "", versions)
    except ValueError as conflict:
        raise _Unmet(CONFLICT, str(conflict)) from None
    reached = devices.last_succeeded(session, device)
    before = _by_name(reached.components if reached else [])
    return [
        _component(session, device, name, version, before.get(name), wanted.get(name))
        for name, version in merged.items()
    ]


def _component(
    session: Session,
    device: Device,
    name: str,
    version: str,
    before: Mapping[str, Any] | None,
    wanted: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if wanted is None and before is not None and before["version"] == version:
        return dict(before)
    row = session.get(ComponentVersion, (device.account, device.region, name, version))
    if row is None:
        raise _Unmet(MISSING, f"component {name}, version {version}, was deleted")
    devices.allow_artifact(session, device, row)
    # What a failed or replaced deployment would have set was never applied on the device.
    update = (wanted or {}).get("configurationUpdate", {})
    overrides = apply_update(before["overrides"] if before else {}, update)
    return {
        "name": name,
        "version": version,
        "configuration": merge(read_recipe(row.recipe).configuration, overrides),
        "overrides": overrides,
        "artifact": {"digest": row.artifact_digest, "size": row.artifact_size},
    }


def _close(session: Session, execution: Execution, reason: str) -> None:
    """Let later reports on what an execution sent change nothing."""
    key = (execution.account, execution.region, execution.thing, execution.generation)
    state = session.get(DesiredState, key)
    if state is not None and state.status in devices.OPEN:
        state.status, state.reason, state.modified_at = devices.CANCELED, reason, now_ms()


def _live(session: Session, device: Device) -> list[Execution]:
    mine = (
        Execution.account == device.account,
        Execution.region == device.region,
        Execution.thing == device.thing,
    )
    counts = or_(Execution.applied, Execution.status.in_(devices.OPEN))
    return list(session.scalars(select(Execution).where(*mine, counts)))


def _deployments(session: Session, device: Device, live: list[Execution]) -> dict[str, Deployment]:
    scope = device.account, device.region
    return {
        each.deployment_id: session.get_one(Deployment, (*scope, each.deployment_id))
        for each in live
    }


def _targets(session: Session, device: Device) -> set[str]:
    scope = device.account, device.region
    groups = things.all_groups_of(session, scope, device.thing)
    place = f"arn:aws:iot:{device.region}:{device.account}"
    return {f"{place}:thing/{device.thing}", *(f"{place}:thinggroup/{name}" for name in groups)}


def time_limit(deployment: Deployment) -> int | None:
    """Return how long a device may work on a deployment, in milliseconds; None without end."""
    config = deployment.request.get("iotJobConfiguration", {}).get("timeoutConfig", {})
    minutes = config.get("inProgressTimeoutInMinutes")
    return None if minutes is None else minutes * 60_000


def _versions(deployment: Deployment) -> dict[str, str]:
    wanted = deployment.request.get("components", {})
    return {name: each["componentVersion"] for name, each in wanted.items()}


def _by_name(components: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {each["name"]: each for each in components}
