"""Greengrass deployments to core devices."""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import to_datetime
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.configuration import apply_update, merge
from model_delivery_localcloud.services.greengrass_components import component_arn
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.recipes import read_recipe
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.store import deployments, devices
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.idempotency import recall, remember
from model_delivery_localcloud.store.tables import ComponentVersion, Deployment, Device

DEFAULT_PAGE = 50
_OPERATION = "CreateDeployment"
_TARGET = re.compile(r"arn:aws:iot:([^:]+):([0-9]+):(thing|thinggroup)/(.+)")
_REFUSED = (
    "iotJobConfiguration",
    "parentTargetArn",
    "deploymentPolicies.componentUpdatePolicy",
    "deploymentPolicies.configurationValidationPolicy",
)


class Deployments:
    """Deployments over the store; devices learn of them by their desired state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on deployments."""
        return {
            _OPERATION: self.create,
            "GetDeployment": self.get,
            "ListDeployments": self.list,
            "CancelDeployment": self.cancel,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Deploy components to a thing, replacing what was deployed to it before."""
        params = call.params
        _check_request(params)
        thing = _thing(params["targetArn"], call.caller)
        key = (call.caller.account, call.caller.region, _OPERATION)
        with self._database.write() as session:
            device = devices.lock_device(session, key[0], key[1], thing)
            if device is None:
                raise _no_thing(params["targetArn"])
            known = recall(session, key, params)
            if known is not None:
                return known
            components = [
                _component(session, call.caller, device, name, wanted)
                for name, wanted in params.get("components", {}).items()
            ]
            deployment = deployments.create_deployment(
                session, device, params["targetArn"], dict(params), components
            )
            answer = {"deploymentId": deployment.id}
            remember(session, key, params, answer)
        return answer

    def get(self, call: Call) -> dict[str, Any]:
        """Answer a deployment with its request and status."""
        with self._database.read() as session:
            deployment = _find(session, call)
        request = deployment.request
        answer = {
            **_summary(deployment),
            "components": request.get("components", {}),
            "deploymentPolicies": {"failureHandlingPolicy": "ROLLBACK"},
        }
        return {**answer, "tags": request["tags"]} if request.get("tags") else answer

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of deployments, newest first; the latest of each target by default."""
        params = call.params
        refuse_members(params, ["parentTargetArn"])
        filters = {key: params[key] for key in params if key not in {"nextToken", "maxResults"}}
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            rows = deployments.list_deployments(
                session,
                call.caller.account,
                call.caller.region,
                params.get("targetArn"),
                params.get("historyFilter", "LATEST_ONLY") == "LATEST_ONLY",
                decode_token(params.get("nextToken"), filters, (int, str)),
                limit + 1,
            )
        page = rows[:limit]
        answer: dict[str, Any] = {"deployments": [_summary(row) for row in page]}
        if len(rows) > limit:
            answer["nextToken"] = encode_token([page[-1].created_at, page[-1].id], filters)
        return answer

    def cancel(self, call: Call) -> dict[str, Any]:
        """Cancel an ACTIVE deployment; its device goes back to what last succeeded there."""
        with self._database.write() as session:
            found = _find(session, call)
            device = devices.lock_device(session, found.account, found.region, found.thing)
            assert device is not None, "things are never deleted"
            session.refresh(found)
            if found.status != deployments.ACTIVE:
                raise ServiceError(
                    "ConflictException",
                    f"Deployment {found.id} is {found.status}: only an ACTIVE one can be canceled.",
                    409,
                    {"resourceId": found.id, "resourceType": "deployment"},
                )
            deployments.cancel_deployment(session, device, found)
        return {"message": f"Deployment {found.id} is canceled."}


def _check_request(params: Mapping[str, Any]) -> None:
    refuse_members(params, _REFUSED)
    for name in params.get("components", {}):
        refuse_members(params["components"][name], ["runWith"])
    policies = params.get("deploymentPolicies", {})
    if policies.get("failureHandlingPolicy", "ROLLBACK") != "ROLLBACK":
        raise validation_error(
            "localcloud does not support deploymentPolicies.failureHandlingPolicy DO_NOTHING: "
            "a device always keeps what it ran."
        )


def _thing(target_arn: str, caller: Caller) -> str:
    found = _TARGET.fullmatch(target_arn)
    if found is None or (found[1], found[2]) != (caller.region, caller.account):
        raise validation_error(
            f"targetArn {target_arn} is not in account {caller.account}, region {caller.region}."
        )
    if found[3] != "thing":
        raise validation_error(f"localcloud does not support thing groups: {target_arn}.")
    return found[4]


def _no_thing(target_arn: str) -> ServiceError:
    return ServiceError(
        "ResourceNotFoundException",
        f"No such thing: {target_arn}; make its registration token with "
        "model-delivery-localcloud device-token.",
        404,
        {"resourceId": target_arn, "resourceType": "thing"},
    )


def _component(
    session: Session, caller: Caller, device: Device, name: str, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    version = wanted["componentVersion"]
    row = session.get(ComponentVersion, (device.account, device.region, name, version))
    if row is None:
        arn = component_arn(caller, name, version)
        raise ServiceError(
            "ResourceNotFoundException",
            f"Component version does not exist: {arn}; create it first.",
            404,
            {"resourceId": arn, "resourceType": "component"},
        )
    devices.allow_artifact(session, device, row)
    before = _overrides(session, device, name)
    overrides = apply_update(before, wanted.get("configurationUpdate", {}))
    return {
        "name": name,
        "version": version,
        "configuration": merge(read_recipe(row.recipe).configuration, overrides),
        "overrides": overrides,
        "artifact": {"digest": row.artifact_digest, "size": row.artifact_size},
    }


def _overrides(session: Session, device: Device, name: str) -> dict[str, Any]:
    # What a failed or replaced deployment would have set was never applied on the device.
    reached = devices.last_succeeded(session, device)
    for component in reached.components if reached else []:
        if component["name"] == name:
            return dict(component["overrides"])
    return {}


def _find(session: Session, call: Call) -> Deployment:
    deployment_id = call.params["deploymentId"]
    key = (call.caller.account, call.caller.region, deployment_id)
    deployment = session.get(Deployment, key)
    if deployment is None:
        raise ServiceError(
            "ResourceNotFoundException",
            f"Deployment does not exist: {deployment_id}",
            404,
            {"resourceId": deployment_id, "resourceType": "deployment"},
        )
    return deployment


def _summary(deployment: Deployment) -> dict[str, Any]:
    answer = {
        "targetArn": deployment.target_arn,
        "revisionId": str(deployment.revision),
        "deploymentId": deployment.id,
        "creationTimestamp": to_datetime(deployment.created_at),
        "deploymentStatus": deployment.status,
        "isLatestForTarget": deployment.latest,
    }
    return {**answer, "deploymentName": deployment.name} if deployment.name else answer
