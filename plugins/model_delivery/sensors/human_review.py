"""Wait for a flow definition, or for a batch of human loops."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import Context
from airflow.sdk.bases.sensor import BaseSensorOperator, PokeReturnValue

from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected
from model_delivery.exceptions import DeliveryError, InvalidRequestError, JobFailedError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.jobs.sensor import JobSensor
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.jobs.trigger import LONGEST_POLL_INTERVAL, OUTAGE_SECONDS
from model_delivery.operators.flow_definitions import flow_definition_result
from model_delivery.operators.human_loops import HOOK, given_batch
from model_delivery.xcom import VERSION, EndedHumanLoops, FlowDefinitionResult

if TYPE_CHECKING:
    from model_delivery.human_loops.watch import EndedLoop

EXPIRED_POLICIES = ("fail", "keep")
_SHOWN = 3


class FlowDefinitionSensor(JobSensor):
    """Waits until a flow definition is Active; one that failed fails the task.

    :param flow_definition_name: name of the flow definition.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "flow_definition_name")

    def __init__(self, *, flow_definition_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow_definition_name = flow_definition_name

    @property
    def service(self) -> JobService:
        """Flow definitions."""
        from model_delivery.hooks.human_review import FlowDefinitions

        return FlowDefinitions()

    def handle(self) -> Handle:
        """Return the flow definition by its name."""
        return {"name": self.flow_definition_name}

    def result(self, description: JobDescription) -> FlowDefinitionResult:
        """Name, ARN, status and the answers' place."""
        return flow_definition_result(description)


class HumanLoopSensor(AwsConnected, BaseSensorOperator):
    """Waits until every human loop of a batch has ended: one sensor, however many loops.

    Deferred sensors of one flow definition share one list, of which a look reads at most a page for
    each hundred loops that are open.

    :param started: what `StartHumanLoopsOperator` returned; or
    :param loop_names: names of loops, with
    :param flow_definition_arn: their flow definition.
    :param expired: what becomes of loops that end without their answers (expired, stopped or
        deleted): "fail" fails the task, "keep" only counts them. (default: "fail")
    :param deferrable: wait in the triggerer instead of a worker slot.
        (default: Airflow's `operators.default_deferrable`)
    :param max_poll_interval: longest time between two looks while deferred, in seconds.
        (default: 30)
    :param outage_timeout: how long the service may give no usable answer while deferred before the
        wait fails, in seconds. (default: 900)
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "started", "loop_names", "flow_definition_arn",
    )  # fmt: skip

    def __init__(
        self,
        *,
        started: Mapping[str, Any] | None = None,
        loop_names: Sequence[str] | None = None,
        flow_definition_arn: str | None = None,
        expired: str = "fail",
        deferrable: bool | None = None,
        max_poll_interval: float = LONGEST_POLL_INTERVAL,
        outage_timeout: float = OUTAGE_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.started = started
        self.loop_names = loop_names
        self.flow_definition_arn = flow_definition_arn
        self.expired = expired
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = deferrable
        self.max_poll_interval = max_poll_interval
        self.outage_timeout = outage_timeout

    @property
    def hook_path(self) -> str:
        """Augmented AI's runtime."""
        return HOOK

    def execute(self, context: Context) -> EndedHumanLoops:
        """Look once before deferring."""
        if self.expired not in EXPIRED_POLICIES:
            raise InvalidRequestError(
                f"expired is {self.expired!r}: give {' or '.join(EXPIRED_POLICIES)}"
            )
        if not self.deferrable:
            waited: EndedHumanLoops = super().execute(context)
            return waited
        looked = self.poke(context)
        if not isinstance(looked, PokeReturnValue):
            self._defer()
        return cast(EndedHumanLoops, looked.xcom_value)

    def _defer(self) -> NoReturn:
        from model_delivery.triggers.human_review import SERVICE, HumanLoopTrigger, batch_handle

        self.defer(
            trigger=HumanLoopTrigger(
                service=SERVICE,
                handle=batch_handle(self._batch()),
                poll_interval=float(self.poke_interval),
                max_poll_interval=self.max_poll_interval,
                outage_timeout=self.outage_timeout,
                owned=False,
                **self.connection_settings,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Finish after the wait: an event only says that it is time to ask the service again."""
        error = event.get("error") if isinstance(event, Mapping) else None
        if not error:
            return self.execute(context)
        looked = self.poke(context)
        if isinstance(looked, PokeReturnValue):
            return looked.xcom_value
        raise DeliveryError(f"the triggerer could not wait for the human loops: {error}")

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Read the list; loops that ended without answers follow the policy."""
        from model_delivery.human_loops.worker import HumanLoopWorker
        from model_delivery.service_errors import named_errors

        batch = self._batch()
        with named_errors("the human loops"):
            ended = list(HumanLoopWorker(self.hook).ended(batch, lambda _open: False))
        self.log.info("%d of %d human loops have ended", len(ended), len(batch))
        if len(ended) < len(batch):
            return False
        unanswered = [loop for loop in ended if loop.status != "Completed"]
        if unanswered and self.expired == "fail":
            raise JobFailedError(unanswered_message(unanswered, len(batch)))
        return PokeReturnValue(True, self._result(batch, ended))

    def _result(self, batch: LoopBatch, ended: Sequence["EndedLoop"]) -> EndedHumanLoops:
        return {
            "version": VERSION,
            "flow_definition_arn": batch.flow_definition_arn,
            "loops": len(batch),
            "statuses": dict(Counter(loop.status for loop in ended)),
        }

    def _batch(self) -> LoopBatch:
        if self.loop_names and not self.flow_definition_arn:
            raise InvalidRequestError("flow_definition_arn is missing: loop_names need it")
        return given_batch(self.started, self.flow_definition_arn, self.loop_names)


def unanswered_message(loops: "Sequence[EndedLoop]", count: int) -> str:
    """Return what to tell of loops that ended without their answers."""
    shown = "; ".join(
        f"{loop.name} {loop.status}{': ' + loop.reason if loop.reason else ''}"
        for loop in loops[:_SHOWN]
    )
    return (
        f"{len(loops)} of {count} human loops ended without their answers ({shown}"
        f"{', …' if len(loops) > _SHOWN else ''}): start them again, or give reviewers more time "
        "with task_availability_seconds"
    )
