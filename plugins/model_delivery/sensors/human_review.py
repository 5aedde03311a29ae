"""Wait for a flow definition, or for a batch of human loops."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.bases.sensor import PokeReturnValue

from model_delivery.aws import AWS_TEMPLATE_FIELDS
from model_delivery.exceptions import InvalidRequestError, JobFailedError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.task import HOOK
from model_delivery.jobs.sensor import JobSensor, ServiceSensor
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.operators.flow_definitions import flow_definition_result
from model_delivery.operators.human_loops import given_batch
from model_delivery.xcom import VERSION, EndedHumanLoops, FlowDefinitionResult

if TYPE_CHECKING:
    from model_delivery.human_loops.watch import EndedLoop
    from model_delivery.triggers.human_review import HumanLoopTrigger

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


class HumanLoopSensor(ServiceSensor):
    """Waits until every human loop of a batch has ended: one sensor, however many loops.

    Deferred sensors of one flow definition share one list, of which a look reads at most a page for
    each hundred loops that are open.

    :param started: what `StartHumanLoopsOperator` returned; or
    :param loop_names: names of loops, with
    :param flow_definition_arn: their flow definition.
    :param expired: what becomes of loops that end without their answers (expired, stopped or
        deleted): "fail" fails the task, "keep" only counts them. (default: "fail")

    The others are `ServiceSensor`'s.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.started = started
        self.loop_names = loop_names
        self.flow_definition_arn = flow_definition_arn
        self.expired = expired

    @property
    def hook_path(self) -> str:
        """Augmented AI's runtime."""
        return HOOK

    @property
    def label(self) -> str:
        """How many loops, of which flow definition."""
        batch = self._batch()
        return f"{len(batch)} human loops of {batch.flow_definition_arn}"

    def trigger(self, *, doubted: bool) -> "HumanLoopTrigger":
        """Return what waits for the batch; its list and a loop's description say the same."""
        from model_delivery.triggers.human_review import SERVICE, HumanLoopTrigger, batch_handle

        return HumanLoopTrigger(
            service=SERVICE,
            handle=batch_handle(self._batch()),
            owned=False,
            **self.trigger_settings(float(self.poke_interval)),
        )

    def execute(self, context: Context) -> EndedHumanLoops:
        """Look once before deferring."""
        if self.expired not in EXPIRED_POLICIES:
            raise InvalidRequestError(
                f"expired is {self.expired!r}: give {' or '.join(EXPIRED_POLICIES)}"
            )
        ended: EndedHumanLoops = super().execute(context)
        return ended

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Read the list; loops that ended without answers follow the policy."""
        from model_delivery.human_loops.worker import HumanLoopWorker
        from model_delivery.service_errors import named_errors

        batch = self._batch()
        with named_errors("the human loops"):
            worker = HumanLoopWorker(self.open_hook, outage=self.outage_timeout)
            ended = list(worker.ended(batch, lambda _open: False))
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
