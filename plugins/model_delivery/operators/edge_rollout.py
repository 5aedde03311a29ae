"""Change what a fleet runs, in stages that stop by themselves."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowTaskTimeout

from model_delivery.aws import AWS_TEMPLATE_FIELDS
from model_delivery.exceptions import (
    InvalidRequestError,
    JobFailedError,
    RolloutStoppedError,
)
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.retries import Pause
from model_delivery.jobs.task import WaitingTask
from model_delivery.jobs.tries import is_final
from model_delivery.jobs.trigger import MOST_FAILED_WAITS
from model_delivery.links.job import JOB_LINK_KEY, JobLink
from model_delivery.xcom import VERSION, EdgeRolloutResult

if TYPE_CHECKING:
    from model_delivery.jobs.kill import Kill
    from model_delivery.rollouts.control import Look, Rollout
    from model_delivery.rollouts.plan import Change, RolloutPlan
    from model_delivery.rollouts.run import RolloutWorker
    from model_delivery.rollouts.state import RolloutState

ON_FAILURE = ("PAUSE", "ABORT", "ROLLBACK")
ROLLOUT_KEY = "rollout"
EVERYBODY = ({"name": "all", "percent": 100},)
HOOK = "model_delivery.hooks.edge.GreengrassV2Hook"


class RolloutLink(JobLink):
    """Opens the rollout's page in localcloud, or its thing group in the AWS console."""

    name = "Rollout"


class FleetOperator(WaitingTask):
    """The base of operators that change what many devices run.

    Devices are sent the change by a deployment to each one's thing, stage by stage. A stage is over
    when the effective deployment of every device in it has succeeded, and is broken when too many
    have failed. Devices that are not heard of hold nothing up but the end of their stage, and count
    as failed at its deadline. What is going on, and who asked for what, is in the record, the thing
    group `rollout-ID`; a person may pause, resume, approve and roll back there.

    A retry goes on with the rollout of the try before it. A task that a user ends or clears, or
    whose time is over, gives every device that has begun what it had before. A rollout that was
    stopped fails the task for good: to try a model again that devices refused is for people.

    :param thing_group_name: the fleet: things of this group and of those below it.
    :param thing_names: the fleet by name, in place of a group.
    :param stages: mappings of `name`, one of `devices` (names), `tags` (attributes) and `percent`
        (of the whole fleet, counted from the beginning), and `soak_seconds` (default: 0) and
        `approval` (a person lets the stage begin; default: False). (default: all at once)
    :param success_threshold: share of a stage's devices that have to succeed. (default: 1)
    :param error_threshold: share of a stage's devices that may fail, of those that are done.
        (default: 0)
    :param minimum_sample: so many devices have to be done before that share counts. (default: 1)
    :param budget_devices: so many devices of a group may be unavailable at a time. (default: all)
    :param budget_percent: the same as percentage of each group. (default: 100)
    :param budget_group: attribute of things by which the budget groups them, such as a site.
        (default: all are one group)
    :param stage_timeout: time for the devices of a stage since it began, in seconds.
        (default: 3600)
    :param offline_after: a device that has not begun after so many seconds counts as offline.
        (default: 60)
    :param on_failure: `PAUSE` (a person decides), `ABORT` (devices that are not done keep what they
        have, the others what they got) or `ROLLBACK`. (default: ROLLBACK)
    :param account_id: AWS account of the devices; the connection's own by default.
    :param poll_interval: shortest time between two looks, in seconds. (default: 5)

    `deferrable`, `max_poll_interval` and `outage_timeout` are `WaitingTask`'s.
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "component_name", "thing_group_name", "thing_names", "stages",
        "success_threshold", "error_threshold", "minimum_sample", "budget_devices",
        "budget_percent", "budget_group", "on_failure", "account_id",
    )  # fmt: skip
    operator_extra_links = (RolloutLink(),)

    def __init__(
        self,
        *,
        component_name: str = "",
        thing_group_name: str | None = None,
        thing_names: Sequence[str] = (),
        stages: Sequence[Mapping[str, Any]] | str = EVERYBODY,
        success_threshold: float | str = 1.0,
        error_threshold: float | str = 0.0,
        minimum_sample: int | str = 1,
        budget_devices: int | str | None = None,
        budget_percent: float | str | None = None,
        budget_group: str | None = None,
        stage_timeout: float = 3600.0,
        offline_after: float = 60.0,
        on_failure: str = "ROLLBACK",
        account_id: str | None = None,
        poll_interval: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.component_name = component_name
        self.thing_group_name = thing_group_name
        self.thing_names = thing_names
        self.stages = stages
        self.success_threshold = success_threshold
        self.error_threshold = error_threshold
        self.minimum_sample = minimum_sample
        self.budget_devices = budget_devices
        self.budget_percent = budget_percent
        self.budget_group = budget_group
        self.stage_timeout = stage_timeout
        self.offline_after = offline_after
        self.on_failure = on_failure
        self.account_id = account_id
        self.poll_interval = poll_interval
        check_intervals(
            poll_interval=poll_interval, stage_timeout=stage_timeout, offline_after=offline_after
        )
        self.page = ""
        self._kill: Kill | None = None
        self._rollout: Rollout | None = None
        self._failed_waits = 0

    @property
    @abstractmethod
    def change(self) -> "Change":
        """What is done to the component."""

    def wanted(self) -> dict[str, Any]:
        """Return what the plan has of this change."""
        return {"component": self.component_name}

    @property
    def hook_path(self) -> str:
        """Greengrass."""
        return HOOK

    @cached_property
    def _pause(self) -> Pause:
        return Pause()

    @cached_property
    def _worker(self) -> "RolloutWorker":
        from model_delivery.rollouts.run import RolloutWorker

        return RolloutWorker(self.connection_settings, self._pause, self.outage_timeout)

    def execute(self, context: Context) -> EdgeRolloutResult:
        """Begin, or go on with what a try before began, and follow it to its end."""
        return self._follow(context, deferrable=self.deferrable)

    def execute_complete(self, context: Context, event: Any = None, failed_waits: int = 0) -> Any:
        """Go on after the wait: an event only says that it is time to look again.

        :param failed_waits: how often the triggerer could not drive this rollout before.
        """
        self._failed_waits = self.failed_waits(event, failed_waits)
        deferrable = self.deferrable
        if self._failed_waits:
            deferrable = deferrable and self._failed_waits < MOST_FAILED_WAITS
            where = "in the triggerer again" if deferrable else "here"
            self.log.warning("The triggerer could not wait (%s): going on %s",
                             event["error"], where)  # fmt: skip
        return self._follow(context, deferrable=deferrable)

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Go on when the wait timed out; Airflow calls no other method of ours then."""
        from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            return self.execute_complete(context)
        except TaskDeferralError as error:
            # Airflow dropped our count of failed waits, and a trigger that fails would fail again.
            event = {"error": f"{type(error).__name__}: {error}"}
            return self.execute_complete(context, event, MOST_FAILED_WAITS)

    def _follow(self, context: Context, *, deferrable: bool) -> EdgeRolloutResult:
        from model_delivery.jobs.kill import Kill
        from model_delivery.rollouts.control import Rollout
        from model_delivery.rollouts.state import RolloutState

        state = RolloutState(context)
        self._kill = Kill(
            "devices", state, lambda error: is_final(self, context, error), self._roll_back,
            self.log,
        )  # fmt: skip
        self._kill.came = self._pause.cut  # a kill may be that early
        with self._kill.running():
            plan = state.plan() or self._begin(state)
            self._rollout = Rollout(plan)
            self._show(context, plan)
            look = self._until_end(context, plan, deferrable=deferrable)
            self._rollout = None  # nothing is left to roll back
            return self._ended(plan, look)

    def _begin(self, state: "RolloutState") -> "RolloutPlan":
        """Fix who is in which stage, and keep it before anything is sent."""
        from model_delivery_engine.errors import RolloutError

        try:
            plan = self._plan(state)
        except RolloutError as error:
            raise InvalidRequestError(str(error)) from error
        state.keep(plan)
        sizes = ", ".join(f"{each.name}: {len(each.devices)}" for each in plan.stages)
        self.log.info("Rollout %s of %s to %s; %s", plan.id, plan.component, plan.target, sizes)
        return plan

    def _plan(self, state: "RolloutState") -> "RolloutPlan":
        from model_delivery_engine.rollout.budget import Budget
        from model_delivery_engine.rollout.gate import Limits

        from model_delivery.rollouts.plan import OnFailure, RolloutPlan
        from model_delivery.rollouts.planning import find_fleet, parse_stages, part

        wanted = self.wanted()
        self._check(wanted["component"])
        if isinstance(self.stages, str):
            raise InvalidRequestError(f"stages is {self.stages[:200]!r}: give a list of mappings")
        parsed = parse_stages(self.stages)
        limits = Limits(
            float(self.success_threshold), float(self.error_threshold), int(self.minimum_sample)
        )
        budget = Budget(
            None if self.budget_devices is None else int(self.budget_devices),
            None if self.budget_percent is None else float(self.budget_percent),
        )
        described = bool(self.budget_group) or any(each.stage.tags for each in parsed)
        names = [self.thing_names] if isinstance(self.thing_names, str) else self.thing_names
        about = f"of {wanted['component']}"
        fleet = self._worker.run(
            find_fleet(self.thing_group_name, names, described=described), about
        )
        stages, left = part(fleet, parsed)
        if left:
            self.log.warning("%d of %d devices are in no stage", left, len(fleet))
        groups = {
            device.name: device.tags[self.budget_group]
            for device in fleet
            if self.budget_group and self.budget_group in device.tags
        }
        meta = self.hook.conn.meta
        account = self.account_id or self.hook.account_id
        return RolloutPlan(
            id=state.rollout_id(),
            account_arn=f"arn:{meta.partition}:iot:{meta.region_name}:{account}",
            target=self.thing_group_name or (names[0] if len(names) == 1 else "list"),
            change=self.change,
            stages=stages,
            limits=limits,
            budget=budget,
            groups=groups,
            stage_timeout=float(self.stage_timeout),
            offline_after=float(self.offline_after),
            on_failure=OnFailure(self.on_failure),
            **wanted,
        )  # fmt: skip

    def _check(self, component: str) -> None:
        if not component:
            raise InvalidRequestError("component_name is missing")
        if bool(self.thing_group_name) == bool(self.thing_names):
            raise InvalidRequestError("give one of thing_group_name and thing_names")
        if self.on_failure not in ON_FAILURE:
            raise InvalidRequestError(
                f"on_failure is {self.on_failure!r}: give one of {', '.join(ON_FAILURE)}"
            )

    def _show(self, context: Context, plan: "RolloutPlan") -> None:
        """Push the rollout's id and the address of its page, before anything is sent."""
        from model_delivery.rollouts.state import page_url

        told = {"version": VERSION, "rollout_id": plan.id, "devices": len(plan.devices)}
        context["ti"].xcom_push(key=ROLLOUT_KEY, value=told)
        self.page = page_url(str(self.hook.conn.meta.endpoint_url), plan)
        context["ti"].xcom_push(key=JOB_LINK_KEY, value=self.page)

    def _until_end(self, context: Context, plan: "RolloutPlan", *, deferrable: bool) -> "Look":
        assert self._rollout is not None, "it was planned"
        about = plan.id
        while True:
            look = self._worker.run(self._rollout.look(), about)
            if look.state.is_end:
                return look
            self.log.info("%s: %s", look.state, look.reason)
            if self._pause.cut:
                raise JobFailedError("the task was told to end: its rollout was under way")
            if self.execution_timeout and self.time_taken(context) >= self.execution_timeout:
                raise AirflowTaskTimeout(
                    f"execution_timeout {self.execution_timeout} is over: rollout {plan.id} was "
                    f"{look.state}"
                )
            if deferrable:
                self._defer(context, plan)
            self._pause.sleep(self.poll_interval)

    def _defer(self, context: Context, plan: "RolloutPlan") -> None:
        from model_delivery.triggers.edge_rollout import SERVICE, RolloutTrigger, rollout_handle

        self.defer(
            trigger=RolloutTrigger(
                service=SERVICE,
                handle=rollout_handle(plan),
                **self.trigger_settings(self.poll_interval),
            ),
            method_name="execute_complete",
            kwargs={"failed_waits": self._failed_waits} if self._failed_waits else None,
            timeout=self.time_left(context, None),
        )

    def _ended(self, plan: "RolloutPlan", look: "Look") -> EdgeRolloutResult:
        from model_delivery.rollouts.record import State, record_name

        for name, reason in list(look.failed.items())[:20]:
            self.log.warning("%s: %s", name, reason)
        if look.state is not State.SUCCEEDED:
            raise RolloutStoppedError(
                f"rollout {plan.id} of {plan.component} is {look.state}: {look.reason}. Its page "
                f"or thing group {record_name(plan.id)} has the details; clear the task to begin "
                "another"
            )
        self.log.info("%s", look.reason)
        return {
            "version": VERSION,
            "rollout_id": plan.id,
            "state": look.state,
            "component_name": plan.component,
            "component_version": plan.version,
            "digest": plan.digest,
            "devices": len(plan.devices),
            "succeeded": look.counts.get("SUCCEEDED", 0),
            "failed": look.counts.get("FAILED", 0),
            "offline": look.counts.get("OFFLINE", 0) + look.counts.get("UNDER_WAY", 0),
        }

    def _roll_back(self, reopen: bool) -> int:
        """Give devices back what they had; return how many were sent something."""
        from model_delivery.rollouts.run import RolloutWorker

        if self._rollout is None:
            return 0
        # Not over clients that what was interrupted may hold, nor cut short by the kill.
        worker = RolloutWorker(self.connection_settings, Pause(), self.outage_timeout)
        plan = self._rollout.plan
        look = worker.run(type(self._rollout)(plan).roll_back("Its task ended"), plan.id,
                          reopen=reopen)  # fmt: skip
        return sum(look.counts.values()) - look.counts.get("WAITING", 0)

    def on_kill(self) -> None:
        """Roll back when the task is killed in the worker, or runs out of time there."""
        self._pause.cut = True
        if self._kill is not None:
            self._kill.come()


class EdgeRolloutOperator(FleetOperator):
    """Rolls a component version out to a fleet.

    Source: IoT Greengrass v2 API (CreateDeployment, ListDeployments, ListEffectiveDeployments), AWS
    IoT API (thing groups).

    :param component_name: name of the component.
    :param component_version: its version.
    :param component: both, as `CreateComponentVersionOperator` returns them.
    :param configuration: merged into the component's default configuration on each device, such as
        limits of its watch; see docs/edge-agent.md.

    Further parameters are `FleetOperator`'s.
    """

    template_fields: Sequence[str] = (
        *FleetOperator.template_fields, "component_version", "component", "configuration",
    )  # fmt: skip

    def __init__(
        self,
        *,
        component_version: str = "",
        component: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.component_version = component_version
        self.component = component
        self.configuration = configuration

    @property
    def change(self) -> "Change":
        """Deploy."""
        from model_delivery.rollouts.plan import Change

        return Change.DEPLOY

    def wanted(self) -> dict[str, Any]:
        """Component, version, digest and configuration."""
        made = self.component or {}
        version = self.component_version or made.get("component_version", "")
        if not version:
            raise InvalidRequestError("give component, or component_name and component_version")
        return {
            "component": self.component_name or made.get("component_name", ""),
            "version": version,
            "digest": made.get("digest", ""),
            "configuration": self.configuration or {},
        }


class RollbackOperator(FleetOperator):
    """Gives a fleet the version of a component again that ran well before the one it has.

    Of each device that is the version of the newest deployment to it, with another version than the
    device has now, that the device succeeded with. A device that never ran another one is named and
    fails; one without the component has nothing to roll back.

    :param component_name: name of the component.

    Further parameters are `FleetOperator`'s; `on_failure` is PAUSE by default.
    """

    def __init__(self, *, on_failure: str = "PAUSE", **kwargs: Any) -> None:
        super().__init__(on_failure=on_failure, **kwargs)

    @property
    def change(self) -> "Change":
        """Roll back."""
        from model_delivery.rollouts.plan import Change

        return Change.LAST_GOOD


class RetireModelOperator(FleetOperator):
    """Takes a component away from a fleet, and deletes the versions that no device refers to.

    :param component_name: name of the component.
    :param delete_versions: delete its versions when the devices are done, other than those that
        another device runs or is to run. (default: True)

    Further parameters are `FleetOperator`'s; `on_failure` is PAUSE by default.
    """

    def __init__(
        self, *, delete_versions: bool = True, on_failure: str = "PAUSE", **kwargs: Any
    ) -> None:
        super().__init__(on_failure=on_failure, **kwargs)
        self.delete_versions = delete_versions

    @property
    def change(self) -> "Change":
        """Take away."""
        from model_delivery.rollouts.plan import Change

        return Change.RETIRE

    def _ended(self, plan: "RolloutPlan", look: "Look") -> EdgeRolloutResult:
        result = super()._ended(plan, look)
        if self.delete_versions:
            from model_delivery.rollouts.retirement import delete_unused

            deleted, kept = self._worker.run(delete_unused(plan), plan.id)
            self.log.info("Deleted %s", ", ".join(deleted) or "no version")
            for version, why in kept.items():
                self.log.warning("%s %s is kept: %s", plan.component, version, why)
        return result
