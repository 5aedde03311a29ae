"""What a device is sent: its thing's components with the rollout's change, or as they were before.

A deployment replaces all that the one before it to the same thing had, so the others are carried
over.
"""

import hashlib
import json
from typing import Any

from model_delivery.jobs.faults import MISSING_CODES
from model_delivery.jobs.service import Call
from model_delivery.rollouts.calls import Steps, code_of
from model_delivery.rollouts.devices import Devices, DeviceView, Sent
from model_delivery.rollouts.plan import Change, RolloutPlan

TAG = "model-delivery:"


class Sending:
    """Makes a rollout's deployments; one that is made already is not made again."""

    def __init__(self, plan: RolloutPlan, devices: Devices) -> None:
        self._plan = plan
        self._devices = devices

    def begin(self, stage: int, name: str) -> Steps[None]:
        """Send a device the change."""
        sent = self._devices.view[name].sent
        components = yield from self._devices.components(sent)
        changed = yield from self._changed(name, components)
        if changed is not None:
            yield from self._deploy(name, stage, changed, sent)

    def _changed(self, name: str, components: dict[str, Any]) -> Steps[dict[str, Any] | None]:
        """Return a device's components with the change; None where there is nothing to send."""
        plan = self._plan
        if plan.change is Change.DEPLOY:
            return {**components, plan.component: self._wanted(plan.version)}
        if plan.component not in components:
            self._devices.unchanged.add(name)
            return None
        if plan.change is Change.RETIRE:
            return {key: value for key, value in components.items() if key != plan.component}
        now = components[plan.component]
        good = yield from self._last_good(name, now["componentVersion"])
        if good is None:
            self._devices.refused[name] = (
                f"it has run no other version of {plan.component} than {now['componentVersion']} "
                "well: deploy the version that it should have"
            )
            return None
        return {**components, plan.component: good}

    def _wanted(self, version: str) -> dict[str, Any]:
        wanted: dict[str, Any] = {"componentVersion": version}
        if self._plan.configuration:
            merged = json.dumps(self._plan.configuration, sort_keys=True)
            wanted["configurationUpdate"] = {"merge": merged}
        return wanted

    def _last_good(self, name: str, version: str) -> Steps[dict[str, Any] | None]:
        """Return what the newest deployment with another version had that the device did well."""
        for sent in (yield from self._devices.before(name)):
            if sent.status not in ("COMPLETED", "INACTIVE"):
                continue
            components = yield from self._devices.components(sent)
            found = components.get(self._plan.component)
            if found is None or found["componentVersion"] == version:
                continue
            if (yield from self._devices.went_well(name, sent)):
                return dict(found)
        return None

    def give_back(self, name: str) -> Steps[bool]:
        """Send a device what it had before the rollout; tell whether there was anything to send."""
        view = self._devices.view[name]
        if view.sent is None or view.went_back or not self._devices.is_own(view.sent):
            return False
        before = yield from self._devices.before(name)
        components = yield from self._devices.components(before[0] if before else None)
        yield from self._deploy(name, None, components, view.sent)
        return True

    def _deploy(
        self, name: str, stage: int | None, components: dict[str, Any], sent: Sent | None
    ) -> Steps[None]:
        deployment = self._devices.deployment_name(stage)
        # Sent twice, as after an answer that was lost, it is one deployment.
        token = f"{deployment}/{name}/{sent.id if sent else ''}"
        request: dict[str, Any] = {
            "targetArn": self._plan.target_arn(name),
            "deploymentName": deployment,
            "components": components,
            "tags": {
                f"{TAG}rollout": self._plan.id,
                f"{TAG}stage": str(self._stage_of(name)),
                f"{TAG}stages": str(len(self._plan.stages)),
            },
            "clientToken": hashlib.sha256(token.encode()).hexdigest(),
        }
        try:
            yield Call("create_deployment", request)
        except Exception as error:
            if code_of(error) not in MISSING_CODES:
                raise
            self._devices.refused[name] = f"it cannot be sent anything: {error}"
        else:
            self._devices.expect(name)

    def _stage_of(self, name: str) -> int:
        stages = enumerate(self._plan.stages, 1)
        return next(number for number, stage in stages if name in stage.devices)

    def cancel(self, view: DeviceView) -> Steps[None]:
        """Cancel a device's deployment, if it is open: the device keeps what it has."""
        if view.sent is None or not self._devices.is_own(view.sent) or not view.is_open:
            return
        try:
            yield Call("cancel_deployment", {"deploymentId": view.sent.id})
        except Exception as error:
            # It ended in this moment, or somebody else cancelled it.
            if code_of(error) not in MISSING_CODES | {"ConflictException"}:
                raise
