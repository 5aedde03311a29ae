"""Human loops of Augmented AI, by the batch: start them, stop them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery import a2i
from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected, open_hook
from model_delivery.exceptions import InvalidRequestError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.task import HOOK, StartsHumanLoops
from model_delivery.links.human_review import ReviewQueueLink
from model_delivery.links.job import JOB_LINK_KEY
from model_delivery.operators.human_task_uis import HOOK as FLOW_HOOK
from model_delivery.xcom import VERSION, StartedHumanLoops, StoppedHumanLoops

if TYPE_CHECKING:
    from model_delivery.human_loops.state import LoopState
    from model_delivery.human_loops.worker import HumanLoopWorker, LoopInput


class StartHumanLoopsOperator(StartsHumanLoops):
    """Starts a human loop for each line of an object; a retry starts none twice.

    The loops' names are made of the task instance and the line's number. The manifest says which
    loop is about which item, with the digest of its input, which the service does not give back.

    Source: Augmented AI Runtime API, StartHumanLoop.

    :param flow_definition_arn: ARN of the human review workflow.
    :param inputs_uri: JSON Lines: `{"item": id, "content": {…}}`; reviewers see the content.
    :param manifest_uri: where the manifest is written.
    :param content_classifiers: FreeOfPersonallyIdentifiableInformation, FreeOfAdultContent; the
        first is needed for a public work team.
    """

    template_fields: Sequence[str] = (
        *StartsHumanLoops.template_fields, "flow_definition_arn", "inputs_uri",
        "manifest_uri", "content_classifiers",
    )  # fmt: skip
    operator_extra_links = (ReviewQueueLink(),)

    def __init__(
        self,
        *,
        flow_definition_arn: str,
        inputs_uri: str,
        manifest_uri: str,
        content_classifiers: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.flow_definition_arn = flow_definition_arn
        self.inputs_uri = inputs_uri
        self.manifest_uri = manifest_uri
        self.content_classifiers = content_classifiers

    def execute(self, context: Context) -> StartedHumanLoops:
        """Start the loops, then write the manifest."""
        state, kill = self._taken_up(context)
        with kill.running():
            self._stop_superseded(state)
            return self._start_all(context, state)

    def _start_all(self, context: Context, state: "LoopState") -> StartedHumanLoops:
        from model_delivery.human_loops.state import round_batch
        from model_delivery.human_loops.workflow import describe_workflow, workteam_of
        from model_delivery.links.human_review import queue_url

        flow = describe_workflow(
            open_hook(FLOW_HOOK, self.connection_settings), self.flow_definition_arn
        )
        attributes = a2i.data_attributes(self.content_classifiers, workteam_of(flow))
        worker, storage = self._worker, self._storage()
        prefix = state.loop_prefix()
        # Every line is read before the first loop is started, and a clear stops what a kill left.
        count = sum(1 for _ in read_inputs(storage, self.inputs_uri))
        state.keep_round(0, flow=self.flow_definition_arn, prefix=prefix, count=count)
        self._waiting = round_batch(state.rounds[0])
        context["ti"].xcom_push(
            key=JOB_LINK_KEY, value=queue_url(self.hook, self.flow_definition_arn)
        )
        started = worker.start(
            self.flow_definition_arn, prefix, read_inputs(storage, self.inputs_uri), attributes
        )
        lines = [loop.line() + b"\n" for loop in started]
        storage.write_stream(self.manifest_uri, lines)
        batch = started_batch(worker, self.flow_definition_arn, prefix, len(lines))
        state.keep_round(0, batch=batch.written())
        self._waiting = None  # they are the next task's now
        self._stop_superseded(state)  # the service may have been away before
        self.log.info("%d human loops are started", len(batch))
        return {
            "version": VERSION,
            "flow_definition_arn": self.flow_definition_arn,
            "loop_prefix": prefix,
            "loops": len(batch),
            "created_after": batch.created_after,
            "manifest_uri": self.manifest_uri,
        }


class StopHumanLoopsOperator(AwsConnected):
    """Stops the loops of a batch that are still open; nobody can answer them any more.

    Source: Augmented AI Runtime API, StopHumanLoop.

    :param started: what `StartHumanLoopsOperator` returned; or
    :param loop_names: names of loops.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "started", "loop_names")

    def __init__(
        self,
        *,
        started: Mapping[str, Any] | None = None,
        loop_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.started = started
        self.loop_names = loop_names

    @property
    def hook_path(self) -> str:
        """Augmented AI's runtime."""
        return HOOK

    def execute(self, context: Context) -> StoppedHumanLoops:
        """Ask for each to be stopped."""
        from model_delivery.human_loops.worker import HumanLoopWorker
        from model_delivery.service_errors import named_errors

        batch = given_batch(self.started, "", self.loop_names)
        with named_errors("the human loops"):
            stopped = HumanLoopWorker(self.open_hook).stop(batch)
        self.log.info("Asked to stop %d of %d human loops", stopped, len(batch))
        return {
            "version": VERSION,
            "flow_definition_arn": batch.flow_definition_arn,
            "loops": len(batch),
            "stopped": stopped,
        }


def given_batch(
    started: Mapping[str, Any] | None,
    flow_definition_arn: str | None,
    loop_names: Sequence[str] | None,
) -> LoopBatch:
    """Return the batch that a task was given, started elsewhere or by names."""
    if bool(started) == bool(loop_names):
        raise InvalidRequestError(
            "give started (what StartHumanLoopsOperator returned) or loop_names, and not both"
        )
    if started:
        return LoopBatch.read(started)
    names = tuple(loop_names or ())
    return LoopBatch(flow_definition_arn or "", count=len(names), names=names)


def started_batch(
    worker: "HumanLoopWorker", flow_definition_arn: str, prefix: str, count: int
) -> LoopBatch:
    """Return the batch just started, with the time from which its loops are listed."""
    batch = LoopBatch(flow_definition_arn, prefix, count)
    return LoopBatch(flow_definition_arn, prefix, count, (), worker.created_after(batch))


def read_inputs(storage: Any, uri: str) -> Iterator["LoopInput"]:
    """Yield the inputs of an object of JSON Lines; InvalidRequestError names a bad line."""
    from model_delivery_engine.batch.lines import read_lines

    from model_delivery.human_loops.worker import LoopInput

    for number, (_offset, line) in enumerate(read_lines(storage.read(uri)), start=1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            yield LoopInput(str(given["item"]), json.dumps(given["content"], ensure_ascii=False))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequestError(
                f'{uri}, line {number} is no input of a human loop ({error!r}): write {{"item": '
                '"id", "content": {…}}'
            ) from error
