"""Greengrass core devices: what they are, what was sent to them, what they run."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import to_datetime
from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.greengrass_deployments import job_of
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.store import devices
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.fleet_tables import Execution
from model_delivery_localcloud.store.tables import Deployment, Device

DEFAULT_PAGE = 50
_LONGEST_ERROR = 255


class CoreDevices:
    """Registered devices over the store.

    HEALTHY means: heard within 30 seconds, and the last report was no failure. (Greengrass keeps
    the last known status of a silent device.)
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on core devices."""
        return {
            "GetCoreDevice": self.get,
            "ListCoreDevices": self.list,
            "DeleteCoreDevice": self.delete,
            "ListEffectiveDeployments": self.list_effective_deployments,
            "ListInstalledComponents": self.list_installed_components,
        }

    def get(self, call: Call) -> dict[str, Any]:
        """Answer a device's facts and health."""
        with self._database.read() as session:
            device = _find(session, call)
        answer = {**_summary(device), "coreVersion": device.agent_version}
        return {**answer, "tags": device.tags} if device.tags else answer

    def delete(self, call: Call) -> dict[str, Any]:
        """Take a device off the list: its key is void, its thing stays."""
        with self._database.write() as session:
            device = _find(session, call)
            key = (device.account, device.region, device.thing)
            locked = devices.lock_device(session, *key)
            assert locked is not None, "it was found in this transaction"
            devices.forget_core_device(session, locked)
        return {}

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of devices by name."""
        params = call.params
        refuse_members(params, ["runtime"])
        status, group_arn = params.get("status"), params.get("thingGroupArn")
        filters = {"status": status, "thingGroupArn": group_arn}
        after = decode_token(params.get("nextToken"), filters, (str,))
        limit = params.get("maxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            rows = devices.list_core_devices(
                session,
                call.caller.account,
                call.caller.region,
                None if status is None else status == "HEALTHY",
                group_arn,
                after[0] if after else None,
                limit + 1,
            )
        answer: dict[str, Any] = {"coreDevices": [_summary(row) for row in rows[:limit]]}
        if len(rows) > limit:
            answer["nextToken"] = encode_token([rows[limit - 1].thing], filters)
        return answer

    def list_effective_deployments(self, call: Call) -> dict[str, Any]:
        """Answer one page of the deployments sent to a device, newest first."""
        with self._database.read() as session:
            device = _find(session, call)
            found = devices.list_executions(session, device)
        items = [_effective(each, deployment, call.caller) for each, deployment in found]
        return _page(call.params, items, "effectiveDeployments", "deploymentId")

    def list_installed_components(self, call: Call) -> dict[str, Any]:
        """Answer one page of what the device last reported as running."""
        with self._database.read() as session:
            device = _find(session, call)
        items = [_installed(item, device) for item in device.running]
        return _page(call.params, items, "installedComponents", "componentName")


def _find(session: Session, call: Call) -> Device:
    name = call.params["coreDeviceThingName"]
    device = devices.find_device(session, call.caller.account, call.caller.region, name)
    if device is None or device.registered_at is None:
        raise ServiceError(
            "ResourceNotFoundException",
            f"Core device does not exist: {name}",
            404,
            {"resourceId": name, "resourceType": "coreDevice"},
        )
    return device


def _summary(device: Device) -> dict[str, Any]:
    assert device.reported_at is not None, "registering counts as the first report"
    return {
        "coreDeviceThingName": device.thing,
        "status": "HEALTHY" if devices.is_healthy(device) else "UNHEALTHY",
        "lastStatusUpdateTimestamp": to_datetime(device.reported_at),
        "platform": device.platform,
        "architecture": device.architecture,
    }


def _effective(execution: Execution, deployment: Deployment, caller: Caller) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "deploymentId": execution.deployment_id,
        "deploymentName": deployment.name,
        **job_of(caller, execution.deployment_id),
        "targetArn": deployment.target_arn,
        "coreDeviceExecutionStatus": execution.status,
        "creationTimestamp": to_datetime(execution.created_at),
        "modifiedTimestamp": to_datetime(execution.modified_at),
    }
    if execution.reason:
        answer["reason"] = execution.reason
        answer["statusDetails"] = _details(execution, execution.reason)
    return answer


def _details(execution: Execution, reason: str) -> dict[str, list[str]]:
    """Return codes as Greengrass has them, where one fits, or the reason itself."""
    if execution.error_code:
        stack = ["DEPLOYMENT_FAILURE", "NO_AVAILABLE_COMPONENT_VERSION"]
        if execution.error_code not in stack:
            stack.append(execution.error_code)
        return {"errorStack": stack, "errorTypes": ["REQUEST_ERROR"]}
    details = {"errorStack": [reason[:_LONGEST_ERROR]]}
    if execution.status == devices.FAILED:
        details["errorTypes"] = ["COMPONENT_ERROR"]
    return details


def _installed(item: Mapping[str, Any], device: Device) -> dict[str, Any]:
    assert device.reported_at is not None, "what runs was reported"
    return {
        "componentName": item["name"],
        "componentVersion": item["version"],
        "lifecycleState": "RUNNING",
        "lifecycleStateDetails": f"bundle {item['digest']}, model {item['model_digest']}",
        "isRoot": True,
        "lastReportedTimestamp": to_datetime(device.reported_at),
    }


def _page(
    params: Mapping[str, Any], items: list[dict[str, Any]], member: str, key: str
) -> dict[str, Any]:
    # These lists are short and made whole: a page starts after the item that the token names.
    filters = {"coreDeviceThingName": params["coreDeviceThingName"], "list": member}
    after = decode_token(params.get("nextToken"), filters, (str,))
    names = [item[key] for item in items]
    start = names.index(after[0]) + 1 if after and after[0] in names else 0
    end = start + params.get("maxResults", DEFAULT_PAGE)
    answer: dict[str, Any] = {member: items[start:end]}
    if end < len(items):
        answer["nextToken"] = encode_token([names[end - 1]], filters)
    return answer
