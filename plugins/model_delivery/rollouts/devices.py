"""How far each device of a rollout is, by the deployments to it.

Deployments to a thing are listed all at once; what a device itself says of one is asked once, when
the deployment is over. Nothing is kept that the service does not know: whoever goes on with a
rollout, after a crash or in another process, finds the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from model_delivery_engine.rollout.gate import Progress

from model_delivery.jobs.service import Call
from model_delivery.rollouts.calls import Steps, pages
from model_delivery.rollouts.plan import Change, RolloutPlan
from model_delivery.rollouts.record import Record

BACK = "back"
_OPEN = frozenset({"QUEUED", "IN_PROGRESS"})
_WELL = frozenset({"SUCCEEDED", "COMPLETED"})
_BROKEN = frozenset({"BROKEN", "ERRORED"})
# What a device that is not heard of is doing is not asked at each look.
_ASK_AGAIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Sent:
    """The newest deployment to a device's thing."""

    id: str
    name: str
    status: str
    created: datetime


@dataclass(frozen=True)
class DeviceView:
    """What is known of a device in this rollout.

    :param sent: the newest deployment to it, of this rollout or not
    :param went_back: that deployment is this rollout's rollback
    :param reason: why it failed
    """

    progress: Progress
    sent: Sent | None = None
    went_back: bool = False
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the device has a deployment to finish."""
        return self.progress in (Progress.UNDER_WAY, Progress.OFFLINE)


class Devices:
    """The devices of a rollout; `view` holds what the last survey found of each."""

    def __init__(self, plan: RolloutPlan) -> None:
        self._plan = plan
        self._by_arn = {plan.target_arn(name): name for name in plan.devices}
        self._own = f"{plan.id}-"
        self.view: dict[str, DeviceView] = {}
        # By deployment: what a device said of its end; what others' deployments are about.
        self._told: dict[str, tuple[Progress, str]] = {}
        self._others: dict[str, bool | None] = {}
        self._asked: dict[str, datetime] = {}
        # By device: what cannot be sent to it, and why; whether nothing is to be sent.
        self.refused: dict[str, str] = {}
        self.unchanged: set[str] = set()

    def deployment_name(self, stage: int | None) -> str:
        """Return the name of a stage's deployments; None for those that go back."""
        return f"{self._own}{BACK if stage is None else stage}"

    def is_own(self, sent: Sent) -> bool:
        """Tell whether a deployment is this rollout's."""
        return sent.name.startswith(self._own)

    def expect(self, name: str) -> None:
        """Take a device for one that has something to do: it was sent it just now."""
        self.view[name] = DeviceView(Progress.UNDER_WAY)
        self._asked.pop(name, None)

    def survey(self, record: Record, begun: Iterable[str]) -> Steps[None]:
        """Look at all devices.

        :param begun: those of the stages so far: others are asked nothing
        """
        latest: dict[str, Sent] = {}
        call = Call("list_deployments", {"historyFilter": "LATEST_ONLY", "maxResults": 100},
                    token="nextToken")  # fmt: skip
        for answer in (yield from pages(call)):
            for each in answer["deployments"]:
                if (name := self._by_arn.get(each["targetArn"])) is not None:
                    latest[name] = _sent(each)
        asked = set(begun)
        for name in self._plan.devices:
            sent = latest.get(name)
            if name in asked:
                self.view[name] = yield from self._look(name, sent, record)
            else:
                self.view[name] = DeviceView(Progress.WAITING, sent)
        if self._plan.change is Change.DEPLOY:
            yield from self._look_after(asked)

    def _look(self, name: str, sent: Sent | None, record: Record) -> Steps[DeviceView]:
        if name in self.refused:
            return DeviceView(Progress.FAILED, sent, reason=self.refused[name])
        if name in self.unchanged:
            return DeviceView(Progress.SUCCEEDED, sent)
        if sent is None:
            return DeviceView(Progress.WAITING)
        if not self.is_own(sent) and not (yield from self._is_ours_too(name, sent, record)):
            if self._others.get(sent.id) is None:
                return DeviceView(Progress.WAITING, sent)
            why = f"deployment {sent.name or sent.id} replaced this rollout's"
            return DeviceView(Progress.FAILED, sent, reason=why)
        progress, reason = yield from self._outcome(name, sent)
        went_back = sent.name == self.deployment_name(None)
        return DeviceView(progress, sent, went_back, reason)

    def _is_ours_too(self, name: str, sent: Sent, record: Record) -> Steps[bool]:
        """Tell whether a deployment of somebody else's took this rollout's change over.

        `_others` has True for that, False where it replaced ours, None where ours is still to come.
        """
        if sent.created < record.begun:
            return False
        if sent.id not in self._others:
            history = yield from self.history(name)
            if not any(self.is_own(each) for each in history):
                self._others[sent.id] = None
            else:
                wanted = (yield from self.components(sent)).get(self._plan.component, {})
                self._others[sent.id] = wanted.get("componentVersion") == self._plan.version
        return bool(self._others[sent.id])

    def _outcome(self, name: str, sent: Sent) -> Steps[tuple[Progress, str]]:
        if sent.id in self._told:
            return self._told[sent.id]
        if sent.status == "CANCELED":
            return Progress.FAILED, "its deployment was cancelled"
        now = datetime.now(UTC)
        if sent.status == "ACTIVE":
            silent = now - sent.created >= timedelta(seconds=self._plan.offline_after)
            asked = self._asked.get(name)
            if not silent or (asked is not None and now - asked < _ASK_AGAIN):
                known = self.view.get(name)
                return (known.progress if known and known.is_open else Progress.UNDER_WAY), ""
            self._asked[name] = now
        status, reason = yield from self._effective(name, sent)
        if status in _OPEN or not status:
            is_offline = sent.status == "ACTIVE" and status != "IN_PROGRESS"
            return (Progress.OFFLINE if is_offline else Progress.UNDER_WAY), ""
        told = (
            (Progress.SUCCEEDED, "")
            if status in _WELL
            else (Progress.FAILED, reason or status.lower())
        )
        self._told[sent.id] = told
        return told

    def _effective(self, name: str, sent: Sent) -> Steps[tuple[str, str]]:
        """Return the device's word on a deployment, and its reason; empty before it has one."""
        call = Call(
            "list_effective_deployments", {"coreDeviceThingName": name, "maxResults": 100},
            "nextToken", {"effectiveDeployments": []},
        )  # fmt: skip
        for answer in (yield from pages(call)):
            for each in answer["effectiveDeployments"]:
                if each["deploymentId"] == sent.id:
                    return each["coreDeviceExecutionStatus"], each.get("reason", "")
        return "", ""

    def went_well(self, name: str, sent: Sent) -> Steps[bool]:
        """Tell whether a device succeeded with a deployment, which may have been replaced since."""
        status, _reason = yield from self._effective(name, sent)
        return status in _WELL

    def _look_after(self, begun: Iterable[str]) -> Steps[None]:
        """Find devices that had the change and gave it up, as after a watch that went badly."""
        well = {name for name in begun if self.view[name].progress is Progress.SUCCEEDED}
        if not well:
            return
        call = Call("list_core_devices", {"status": "UNHEALTHY", "maxResults": 100},
                    token="nextToken")  # fmt: skip
        now = datetime.now(UTC)
        for answer in (yield from pages(call)):
            for each in answer["coreDevices"]:
                name = each["coreDeviceThingName"]
                asked = self._asked.get(name)
                if name not in well or (asked is not None and now - asked < _ASK_AGAIN):
                    continue
                self._asked[name] = now
                reason = yield from self._given_up(name)
                sent = self.view[name].sent
                if reason and sent is not None:
                    self._told[sent.id] = (Progress.FAILED, reason)
                    self.view[name] = DeviceView(Progress.FAILED, sent, False, reason)

    def _given_up(self, name: str) -> Steps[str]:
        call = Call(
            "list_installed_components", {"coreDeviceThingName": name, "maxResults": 100},
            "nextToken", {"installedComponents": []},
        )  # fmt: skip
        plan = self._plan
        for answer in (yield from pages(call)):
            for each in answer["installedComponents"]:
                if each["componentName"] != plan.component:
                    continue
                state, version = each["lifecycleState"], each["componentVersion"]
                if state in _BROKEN:
                    return f"{plan.component} is {state} since"
                if version != plan.version:
                    return f"it went back to {plan.component} {version} since"
                return ""
        return f"it runs no {plan.component} any more"

    def history(self, name: str) -> Steps[list[Sent]]:
        """Return all deployments that a device's thing ever had, newest first."""
        filters = {"targetArn": self._plan.target_arn(name), "historyFilter": "ALL"}
        call = Call("list_deployments", {**filters, "maxResults": 100}, token="nextToken")
        found = [_sent(each) for page in (yield from pages(call)) for each in page["deployments"]]
        return sorted(found, key=lambda each: each.created, reverse=True)

    def before(self, name: str) -> Steps[list[Sent]]:
        """Return the deployments that a device had before this rollout, newest first."""
        history = yield from self.history(name)
        return [each for each in history if not self.is_own(each)]

    def components(self, sent: Sent | None) -> Steps[dict[str, Any]]:
        """Return what a deployment has a device run, by component name."""
        if sent is None:
            return {}
        answer = yield Call("get_deployment", {"deploymentId": sent.id})
        return dict(answer.get("components", {}))


def _sent(listed: Mapping[str, Any]) -> Sent:
    return Sent(
        listed["deploymentId"], listed.get("deploymentName", ""), listed["deploymentStatus"],
        listed["creationTimestamp"],
    )  # fmt: skip
