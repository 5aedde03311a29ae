"""Greengrass deployments to core devices and to groups of them.

Of the policies: an agent changes over in one step or keeps what it ran, so nothing is left to roll
back or to leave half done, and ROLLBACK and DO_NOTHING come to the same. A bundle's component
subscribes to no notification, so the policies on updates and configurations wait for nobody, as on
Greengrass where no component subscribes.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import to_datetime
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.configuration import apply_update
from model_delivery_localcloud.services.greengrass_components import component_arn
from model_delivery_localcloud.services.greengrass_tags import check_tags
from model_delivery_localcloud.services.iot_names import GROUP, JOB, arn_of, name_of
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.store import deployments, devices, fleet_deployments, things
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.idempotency import recall, remember
from model_delivery_localcloud.store.tables import ComponentVersion, Deployment

DEFAULT_PAGE = 50
LONGEST_TIMEOUT_MINUTES = 7 * 24 * 60
_OPERATION = "CreateDeployment"
_TARGET = re.compile(r"arn:aws:iot:([^:]+):([0-9]+):(thing|thinggroup)/(.+)")
# What AWS answers for a deployment that names no policies.
_POLICIES: Mapping[str, Any] = {
    "failureHandlingPolicy": "ROLLBACK",
    "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
    "configurationValidationPolicy": {"timeoutInSeconds": 30},
}


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
        """Deploy components to a thing or a group, replacing what was deployed to it before."""
        params, caller = call.params, call.caller
        check_request(params)
        check_tags(params.get("tags", {}))
        scope = (caller.account, caller.region)
        with self._database.write() as session:
            known = recall(session, (*scope, _OPERATION), params)
            if known is not None:
                return known
            thing = _lock_target(session, caller, params["targetArn"])
            _check_parent(session, caller, thing, params)
            for name, wanted in params.get("components", {}).items():
                _check_component(session, caller, name, wanted["componentVersion"])
            made = deployments.create_deployment(session, scope, thing, dict(params))
            answer = {"deploymentId": made.id, **job_of(caller, made.id)}
            remember(session, (*scope, _OPERATION), params, answer)
        # Small fleets are reached now; a worker does the rest, and all that comes by and by.
        fleet_deployments.take_up(self._database, scope, made.id)
        return answer

    def get(self, call: Call) -> dict[str, Any]:
        """Answer a deployment with its request and status."""
        with self._database.read() as session:
            deployment = _find(session, call)
        request = deployment.request
        answer = {
            **_summary(deployment),
            **job_of(call.caller, deployment.id),
            "components": request.get("components", {}),
            "deploymentPolicies": {**_POLICIES, **request.get("deploymentPolicies", {})},
            "iotJobConfiguration": request.get("iotJobConfiguration", {}),
        }
        return {**answer, "tags": request["tags"]} if request.get("tags") else answer

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of deployments, newest first; the latest of each target by default."""
        params = call.params
        filters = {key: params[key] for key in params if key not in {"nextToken", "maxResults"}}
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            rows = deployments.list_deployments(
                session,
                call.caller.account,
                call.caller.region,
                params.get("targetArn"),
                params.get("parentTargetArn"),
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
        """Cancel an ACTIVE deployment; devices that are not done with it go back."""
        with self._database.write() as session:
            found = _find(session, call)
            session.refresh(found, with_for_update=True)
            if found.status != deployments.ACTIVE:
                raise ServiceError(
                    "ConflictException",
                    f"Deployment {found.id} is {found.status}: only an ACTIVE one can be canceled.",
                    409,
                    {"resourceId": found.id, "resourceType": "deployment"},
                )
            deployments.cancel_deployment(found)
        scope = (call.caller.account, call.caller.region)
        fleet_deployments.take_up(self._database, scope, found.id)
        return {"message": f"Deployment {found.id} is canceled."}


def check_request(params: Mapping[str, Any]) -> None:
    """Raise ValidationException for what localcloud does not honour, by name."""
    for name, wanted in params.get("components", {}).items():
        refuse_members(wanted, ["runWith"])
        apply_update({}, wanted.get("configurationUpdate", {}))
        if not wanted["componentVersion"]:
            raise validation_error(f"components.{name}.componentVersion is empty.")
    policies = params.get("deploymentPolicies", {})
    for policy in ("componentUpdatePolicy", "configurationValidationPolicy"):
        if policies.get(policy, {}).get("timeoutInSeconds", 1) < 1:
            raise validation_error(
                f"deploymentPolicies.{policy}.timeoutInSeconds must be 1 or more."
            )
    config = params.get("iotJobConfiguration", {})
    minutes = config.get("timeoutConfig", {}).get("inProgressTimeoutInMinutes", 1)
    if not 1 <= minutes <= LONGEST_TIMEOUT_MINUTES:
        raise validation_error(
            "iotJobConfiguration.timeoutConfig.inProgressTimeoutInMinutes must be from 1 to "
            f"{LONGEST_TIMEOUT_MINUTES} (7 days)."
        )
    for criterion in config.get("abortConfig", {}).get("criteriaList", []):
        if not 0 < criterion["thresholdPercentage"] <= 100:
            raise validation_error(
                "iotJobConfiguration.abortConfig: thresholdPercentage must be above 0, at most 100."
            )
    _check_rate(config.get("jobExecutionsRolloutConfig", {}).get("exponentialRate"))


def job_of(caller: Caller, deployment_id: str) -> dict[str, str]:
    """Return id and ARN of the IoT job that carries a deployment on AWS; it has the same id."""
    return {"iotJobId": deployment_id, "iotJobArn": arn_of(caller, JOB, deployment_id)}


def _check_rate(exponential: Mapping[str, Any] | None) -> None:
    if exponential is not None and len(exponential["rateIncreaseCriteria"]) != 1:
        raise validation_error(
            "iotJobConfiguration.jobExecutionsRolloutConfig.exponentialRate.rateIncreaseCriteria "
            "needs one of numberOfNotifiedThings and numberOfSucceededThings."
        )


def _lock_target(session: Session, caller: Caller, arn: str) -> str:
    """Lock a deployment's target; returns the thing's name, empty for a group."""
    found = _TARGET.fullmatch(arn)
    if found is None or (found[1], found[2]) != (caller.region, caller.account):
        raise validation_error(
            f"targetArn {arn} is not in account {caller.account}, region {caller.region}."
        )
    scope = (caller.account, caller.region)
    if found[3] == "thinggroup":
        if things.lock_group(session, scope, found[4]) is None:
            raise _no_target(arn, "thing group", "make it with CreateThingGroup of AWS IoT")
        return ""
    if devices.lock_device(session, *scope, found[4]) is None:
        hint = "make its registration token with model-delivery-localcloud device-token"
        raise _no_target(arn, "thing", hint)
    return found[4]


def _no_target(arn: str, what: str, hint: str) -> ServiceError:
    members = {"resourceId": arn, "resourceType": what.replace(" ", "")}
    return ServiceError(
        "ResourceNotFoundException", f"No such {what}: {arn}; {hint}.", 404, members
    )


def _check_parent(session: Session, caller: Caller, thing: str, params: Mapping[str, Any]) -> None:
    """Hold a subdeployment to its parent: its target is a part of the parent's."""
    parent_arn = params.get("parentTargetArn")
    if parent_arn is None:
        return
    scope = (caller.account, caller.region)
    parent = name_of(parent_arn, caller, GROUP)
    if parent is None or things.find_group(session, scope, parent) is None:
        raise _no_target(parent_arn, "thing group", "parentTargetArn names the parent's target")
    if thing:
        inside = parent in things.all_groups_of(session, scope, thing)
    else:
        name = name_of(params["targetArn"], caller, GROUP) or ""
        inside = name in things.family(session, scope, parent)[1:]
    if not inside:
        raise validation_error(f"{params['targetArn']} is no part of parentTargetArn {parent_arn}.")


def _check_component(session: Session, caller: Caller, name: str, version: str) -> None:
    if session.get(ComponentVersion, (caller.account, caller.region, name, version)) is None:
        arn = component_arn(caller, name, version)
        raise ServiceError(
            "ResourceNotFoundException",
            f"Component version does not exist: {arn}; create it first.",
            404,
            {"resourceId": arn, "resourceType": "component"},
        )


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
    if deployment.slot != deployment.target_arn:
        answer["parentTargetArn"] = deployment.slot
    return {**answer, "deploymentName": deployment.name} if deployment.name else answer
