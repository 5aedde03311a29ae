"""Deletes the versions of a component that no device refers to."""

from model_delivery.jobs.faults import MISSING_CODES
from model_delivery.jobs.service import Call
from model_delivery.rollouts.calls import Steps, code_of, pages
from model_delivery.rollouts.plan import RolloutPlan


def delete_unused(plan: RolloutPlan) -> Steps[tuple[list[str], dict[str, str]]]:
    """Delete versions; return those that were, and why each other was kept.

    A version is referred to by the newest deployment to any thing or group, or by a device that has
    it installed.
    """
    place = plan.account_arn.replace(":iot:", ":greengrass:")
    arn = f"{place}:components:{plan.component}"
    call = Call("list_component_versions", {"arn": arn, "maxResults": 100}, "nextToken",
                {"componentVersions": []})  # fmt: skip
    versions = {
        each["componentVersion"]: each["arn"]
        for answer in (yield from pages(call))
        for each in answer["componentVersions"]
    }
    if not versions:
        return [], {}
    kept = yield from _deployed(plan.component)
    kept |= yield from _installed(plan.component)
    deleted = []
    for version, version_arn in versions.items():
        if version in kept:
            continue
        try:
            yield Call("delete_component", {"arn": version_arn})
        except Exception as error:
            if code_of(error) not in MISSING_CODES:
                raise
        deleted.append(version)
    return deleted, {version: why for version, why in kept.items() if version in versions}


def _deployed(component: str) -> Steps[dict[str, str]]:
    found: dict[str, str] = {}
    call = Call("list_deployments", {"historyFilter": "LATEST_ONLY", "maxResults": 100},
                token="nextToken")  # fmt: skip
    for page in (yield from pages(call)):
        for each in page["deployments"]:
            if each["deploymentStatus"] == "CANCELED":
                continue
            answer = yield Call("get_deployment", {"deploymentId": each["deploymentId"]})
            wanted = answer.get("components", {}).get(component)
            if wanted is not None:
                found[wanted["componentVersion"]] = f"{each['targetArn']} is to run it"
    return found


def _installed(component: str) -> Steps[dict[str, str]]:
    found: dict[str, str] = {}
    call = Call("list_core_devices", {"maxResults": 100}, token="nextToken")
    for page in (yield from pages(call)):
        for device in page["coreDevices"]:
            name = device["coreDeviceThingName"]
            asked = {"coreDeviceThingName": name, "maxResults": 100}
            installed = Call("list_installed_components", asked, "nextToken",
                             {"installedComponents": []})  # fmt: skip
            for answer in (yield from pages(installed)):
                for each in answer["installedComponents"]:
                    if each["componentName"] == component:
                        found[each["componentVersion"]] = f"{name} runs it"
    return found
