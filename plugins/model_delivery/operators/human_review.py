"""Have people review what a model is unsure of, and let what they say count."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowTaskTimeout

from model_delivery import a2i
from model_delivery.aws import open_hook
from model_delivery.class_names import class_names
from model_delivery.exceptions import DeliveryRefusedError, InvalidRequestError, JobFailedError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.task import StartsHumanLoops
from model_delivery.jobs.attempt import GRACE
from model_delivery.jobs.rate import check_intervals
from model_delivery.jobs.task import WaitingTask
from model_delivery.jobs.trigger import MOST_FAILED_WAITS
from model_delivery.links.human_review import ReviewQueueLink
from model_delivery.links.job import JOB_LINK_KEY
from model_delivery.operators.human_loops import started_batch
from model_delivery.operators.human_task_uis import HOOK as FLOW_HOOK
from model_delivery.xcom import VERSION, HumanReviewResult

if TYPE_CHECKING:
    from model_delivery.human_loops.review import Review
    from model_delivery.human_loops.state import LoopState
    from model_delivery.human_loops.watch import EndedLoop

METHODS = ("majority", "quorum", "dawid-skene")
SOURCES = ("classifier", *a2i.REQUEST_SOURCES)
EXPIRED_POLICIES = ("fail", "unreviewed")
ROUNDS_KEY = "human_loops"
# For how long loops that are asked to stop may go on; then they have ended without answers.
STOP_SECONDS = 120.0


class HumanReviewOperator(WaitingTask, StartsHumanLoops):
    """Has people review the results that conditions choose, and writes the reviewed data set.

    Evaluates the conditions over the results, starts a human loop for each that one of them
    chooses, waits without a worker slot until all have ended, makes one label of the reviewers'
    answers, and writes below `output_uri`: `reviewed.jsonl`, the results with what reviewers made
    of each, and `review.json` with agreement, figures by reviewer and class, and what is known of
    the results that nobody looked at. A top-level Sampling condition is what tells of those.

    Where reviewers disagree, one more is asked (`tie_break_flow_definition_arn`), then an
    adjudicator rules (`adjudication_flow_definition_arn`), where there are such workflows; nothing
    is decided by default. A retry finds the loops of the try before it. A task that a user ends or
    clears, or whose time is over, stops those that are open; one whose worker is evicted leaves
    them to the next try.

    :param results_uri: results of a batch, JSON Lines of `input`, `output`, `error`.
    :param output_uri: folder of what is written.
    :param flow_definition_arn: the human review workflow, for custom tasks (no request source).
    :param conditions: human loop activation conditions, as JSON text or what it stands for.
    :param source: what the results are of: "classifier", or the request source whose responses
        they hold. (default: "classifier")
    :param score_output: of a classifier: the output with one score a class.
    :param labels: of a classifier: names of the classes, a list or its JSON text.
        (default: their places, from 0)
    :param id_field: field of the records that tells them apart. (default: "id")
    :param hidden_fields: fields that reviewers are not shown, as the label. (default: none)
    :param task_object_field: field with what is reviewed: the URI of an image, or a text.
    :param method: "majority", "quorum" or "dawid-skene". (default: "majority")
    :param quorum: equal answers that "quorum" needs. (default: 2)
    :param tie_break_flow_definition_arn: workflow for one more opinion where the first differ. On
        AWS of another team, since a reviewer who meets an item again counts once; localcloud
        gives it to others of the same team, where there are enough.
    :param adjudication_flow_definition_arn: workflow whose answer decides what is open still.
    :param content_classifiers: FreeOfPersonallyIdentifiableInformation, FreeOfAdultContent; the
        first is needed for a public work team.
    :param max_loops: most items to have reviewed; more are an error. (default: 10000)
    :param review_timeout: longest time for each round, in seconds; then what is open is stopped.
        (default: as long as the workflow keeps tasks available)
    :param expired: what becomes of items whose loop ended without answers: "fail" fails the task,
        whose retry asks for these again; "unreviewed" leaves them undecided, which counts against
        the model in each interval's lower end. (default: "fail")
    :param poll_interval: shortest time between two looks at the service, in seconds. (default: 5)

    `deferrable`, `max_poll_interval` and `outage_timeout` are `WaitingTask`'s.
    """

    template_fields: Sequence[str] = (
        *StartsHumanLoops.template_fields, "results_uri", "output_uri", "flow_definition_arn",
        "conditions", "source", "score_output", "labels", "id_field", "hidden_fields",
        "task_object_field", "method", "quorum", "tie_break_flow_definition_arn",
        "adjudication_flow_definition_arn", "content_classifiers", "max_loops", "review_timeout",
        "expired",
    )  # fmt: skip
    operator_extra_links = (ReviewQueueLink(),)

    def __init__(
        self,
        *,
        results_uri: str,
        output_uri: str,
        flow_definition_arn: str,
        conditions: str | Mapping[str, Any],
        source: str = "classifier",
        score_output: str = "",
        labels: Sequence[str] | str | None = None,
        id_field: str = "id",
        hidden_fields: Sequence[str] = (),
        task_object_field: str | None = None,
        method: str = "majority",
        quorum: int | str = 2,
        tie_break_flow_definition_arn: str | None = None,
        adjudication_flow_definition_arn: str | None = None,
        content_classifiers: Sequence[str] | None = None,
        max_loops: int | str = 10_000,
        review_timeout: float | str | None = None,
        expired: str = "fail",
        poll_interval: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results_uri = results_uri
        self.output_uri = output_uri
        self.flow_definition_arn = flow_definition_arn
        self.conditions = conditions
        self.source = source
        self.score_output = score_output
        self.labels = labels
        self.id_field = id_field
        self.hidden_fields = hidden_fields
        self.task_object_field = task_object_field
        self.method = method
        self.quorum = quorum
        self.tie_break_flow_definition_arn = tie_break_flow_definition_arn
        self.adjudication_flow_definition_arn = adjudication_flow_definition_arn
        self.content_classifiers = content_classifiers
        self.max_loops = max_loops
        self.review_timeout = review_timeout
        self.expired = expired
        self.poll_interval = poll_interval
        check_intervals(poll_interval=poll_interval)
        self._failed_waits = 0
        self._waited = False

    def execute(self, context: Context) -> HumanReviewResult:
        """Choose, start, and wait; a retry goes on where the try before it ended."""
        state, kill = self._taken_up(context)
        with kill.running():
            self._stop_superseded(state)
            self._check()
            return self._review_all(context, state)

    def _review_all(self, context: Context, state: "LoopState") -> HumanReviewResult:
        from model_delivery.human_loops.review import REVIEW
        from model_delivery.links.human_review import queue_url

        url = queue_url(self.hook, self.flow_definition_arn)
        context["ti"].xcom_push(key=JOB_LINK_KEY, value=url)
        if state.get("counts") is None:
            import dataclasses

            counts, digest = self._engine(
                lambda: self._review.select(self._parsed(), int(self.max_loops))
            )
            state.save(counts=dataclasses.asdict(counts), results=digest)
            self.log.info("To review: %s", counts)
        rounds = state.rounds
        if not rounds:
            self._begin(context, state, 0, REVIEW)
        elif rounds[-1].get("ended") and rounds[-1].get("failed"):
            self._begin(context, state, len(rounds), rounds[-1]["purpose"])
        left = None if not rounds or rounds[-1].get("ended") else len(rounds) - 1
        return self._go_on(context, state, deferrable=self.deferrable, left=left)

    def execute_complete(self, context: Context, event: Any = None, failed_waits: int = 0) -> Any:
        """Go on after the wait: an event only says that it is time to ask the service again.

        :param failed_waits: how often the triggerer could not wait for this review before.
        """
        self._failed_waits = self.failed_waits(event, failed_waits)
        deferrable = self.deferrable
        if self._failed_waits:
            # An outage that is over ends so for every wait at once: not all find a worker's slot.
            deferrable = deferrable and self._failed_waits < MOST_FAILED_WAITS
            where = "in the triggerer again" if deferrable else "here"
            self.log.warning("The triggerer could not wait (%s): waiting %s", event["error"], where)
        state, kill = self._taken_up(context)
        with kill.running():
            self._stop_superseded(state)
            return self._go_on(context, state, deferrable=deferrable)

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

    def _begin(self, context: Context, state: "LoopState", number: int, purpose: str) -> None:
        """Note a round and what it is about, then start its loops.

        So the name of each is known before the first is started, whatever comes between.
        """
        counts = state.get("counts")
        count = counts["picked"] + counts["sampled"]
        flow = self._flows[purpose] or state.rounds[-1]["flow"]
        if number:
            wanted = self._engine(lambda: self._wanted(state.rounds))
            count = len(wanted)
            self._review.ask_again(state.rounds, wanted)
        else:
            self._check_workflows()
        prefix = state.loop_prefix(number)
        state.keep_round(number, purpose=purpose, flow=flow, prefix=prefix, count=count)
        self._started(state, number)

    def _started(self, state: "LoopState", number: int) -> LoopBatch:
        """Return the batch of a round, started now if it is not yet."""
        from model_delivery.human_loops.state import round_batch

        kept = state.rounds[number]
        self._waiting = round_batch(kept)
        if "batch" in kept:
            return self._waiting
        attributes = a2i.data_attributes(self.content_classifiers)
        count = self._engine(
            lambda: self._review.start(
                self._worker, number, kept["flow"], kept["prefix"], attributes
            )
        )
        batch = started_batch(self._worker, kept["flow"], kept["prefix"], count)
        deadline = None
        if self.review_timeout not in (None, ""):
            ends = datetime.now(UTC) + timedelta(seconds=float(self.review_timeout or 0))
            deadline = ends.isoformat()
        state.keep_round(number, batch=batch.written(), deadline=deadline)
        self._stop_superseded(state)  # the service may have been away before
        self.log.info("Round %d (%s): %d human loops", number, kept["purpose"], count)
        return batch

    def _check_workflows(self) -> None:
        """Hold each round's workflow against the first item, before any loop is started."""
        from model_delivery.human_loops.workflow import (
            check_template,
            describe_workflow,
            workteam_of,
        )

        hook = open_hook(FLOW_HOOK, self.connection_settings)
        first = self._review.first_input()
        for arn in dict.fromkeys(filter(None, self._flows.values())):
            flow = describe_workflow(hook, arn)
            a2i.data_attributes(self.content_classifiers, workteam_of(flow))
            if first is not None:
                check_template(hook, flow, first.item, first.content)

    @property
    def _flows(self) -> dict[str, str | None]:
        """The workflow for each purpose, in the order of their rounds."""
        from model_delivery.human_loops.review import ADJUDICATION, REVIEW, TIE_BREAK

        return {
            REVIEW: self.flow_definition_arn,
            TIE_BREAK: self.tie_break_flow_definition_arn,
            ADJUDICATION: self.adjudication_flow_definition_arn,
        }

    def _wanted(self, before: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the items of the round that follows: what a failed one left, or what is open."""
        if before[-1].get("failed"):
            return self._review.unanswered(len(before) - 1)
        return self._review.open(before)

    def _go_on(
        self, context: Context, state: "LoopState", *, deferrable: bool, left: int | None = None
    ) -> HumanReviewResult:
        """Wait for the newest round, then begin the next or finish.

        :param left: number of a round that an earlier try left: the loops that it stopped are no
            failure of this one, which asks for their items again.
        """
        while True:
            number = len(state.rounds) - 1
            if not state.rounds[number].get("ended"):
                batch, self._waited = self._started(state, number), False
                ended = self._wait(context, state.rounds[number], batch, deferrable=deferrable)
                lacking = self._end(state, number, batch, ended)
                if lacking and (number != left or self._waited):
                    raise JobFailedError(f"{lacking}; a retry asks for these again")
                if lacking:
                    self.log.warning("%s: asking for these again", lacking)
                    self._begin(context, state, number + 1, state.rounds[number]["purpose"])
                    continue
            following = self._following(state)
            if following is None:
                return self._finish(state)
            self._begin(context, state, number + 1, following)

    def _wait(
        self, context: Context, kept: Mapping[str, Any], batch: LoopBatch, *, deferrable: bool
    ) -> "list[EndedLoop]":
        """Return the loops once all have ended, or are stopped since their time is over."""
        from model_delivery.human_loops.review import wait_here
        from model_delivery.human_loops.watch import left_open
        from model_delivery.service_errors import named_errors

        deadline = datetime.fromisoformat(kept["deadline"]) if kept.get("deadline") else None

        def go_on_waiting(still_open: int) -> bool:
            self._waited = True
            self._check_killed(still_open, len(batch))
            if deadline is not None and datetime.now(UTC) >= deadline:
                return False
            if self.execution_timeout and self.time_taken(context) >= self.execution_timeout:
                self._worker.stop(batch)
                raise AirflowTaskTimeout(
                    f"execution_timeout {self.execution_timeout} is over: stopped "
                    f"{still_open} of {len(batch)} human loops"
                )
            if deferrable:
                self._defer(context, batch, deadline)
            self.log.info("%d of %d human loops are open", still_open, len(batch))
            self._pause.sleep(self.poll_interval)
            return True

        self._waiting = batch
        with named_errors(f"the human loops of {batch.flow_definition_arn}"):
            ended = wait_here(self._worker, batch, go_on_waiting)
            if len(ended) < len(batch):
                done = {loop.name for loop in ended}
                left = [name for name in batch if name not in done]
                self.log.warning("Time is over: stopping %d human loops", len(left))
                self._worker.stop(left)
                # What was answered at the last moment counts.
                ended = wait_here(self._worker, batch, self._until_stopped(len(batch)))
                done = {loop.name for loop in ended}
                ended += [left_open(name) for name in batch if name not in done]
        # What has ended now may have ended by our own stop.
        self._check_killed(len(batch) - len(ended), len(batch))
        self._waiting = None
        return ended

    def _until_stopped(self, loops: int) -> Callable[[int], bool]:
        """Return a wait for what was asked to stop: a stop takes moments, a last answer its output.

        An output waits for as long as the service's store is away.
        """
        until = time.monotonic() + STOP_SECONDS

        def wait(still_open: int) -> bool:
            self._check_killed(still_open, loops)
            self._pause.sleep(self.poll_interval)
            return time.monotonic() < until

        return wait

    def _check_killed(self, still_open: int, loops: int) -> None:
        if self._pause.cut:
            raise JobFailedError(f"{GRACE}: {still_open} of {loops} human loops were open")

    def _defer(self, context: Context, batch: LoopBatch, deadline: datetime | None) -> None:
        from model_delivery.triggers.human_review import SERVICE, HumanLoopTrigger, batch_handle

        left = None if deadline is None else (deadline - datetime.now(UTC)).total_seconds()
        self.defer(
            trigger=HumanLoopTrigger(
                service=SERVICE,
                handle=batch_handle(batch),
                **self.trigger_settings(self.poll_interval),
            ),
            method_name="execute_complete",
            kwargs={"failed_waits": self._failed_waits} if self._failed_waits else None,
            timeout=self.time_left(context, left),
        )

    def _end(
        self, state: "LoopState", number: int, batch: LoopBatch, ended: "list[EndedLoop]"
    ) -> str:
        """Keep a round's answers; return what is lacking of them by the policy."""
        from model_delivery.hooks.human_review import FlowDefinitions
        from model_delivery.jobs.client import JobClient
        from model_delivery.sensors.human_review import unanswered_message

        completed = [loop for loop in ended if loop.status == "Completed"]
        flows = JobClient(
            FlowDefinitions(),
            lambda: open_hook(FLOW_HOOK, self.connection_settings),
            self.outage_timeout,
        )
        flow = flows.describe({"name": batch.flow_definition_arn.rpartition("/")[2]}).detail
        self._engine(lambda: self._review.collect(self._worker, number, completed, flow))
        first = [loop for loop in ended if loop.status != "Completed"]
        failed = bool(first) and self.expired == "fail"
        state.keep_round(number, ended=True, failed=failed)
        message = unanswered_message(first, len(batch)) if first else ""
        if first and not failed:
            self.log.warning("%s; they stay undecided", message)
        return message if failed else ""

    def _following(self, state: "LoopState") -> str | None:
        """Return the purpose of the round to come, or None after the last."""
        held = {each["purpose"] for each in state.rounds}
        for purpose, flow in self._flows.items():
            if (
                flow
                and purpose not in held
                and self._engine(lambda: self._review.open(state.rounds))
            ):
                return purpose
        return None

    def _finish(self, state: "LoopState") -> HumanReviewResult:
        from model_delivery_engine.review.selection import SelectionCounts

        counts = SelectionCounts(**state.get("counts"))
        document = self._engine(
            lambda: self._review.finish(state.rounds, counts, state.get("results"))
        )
        state.save(done=True)
        return self._result(document, sum(len(LoopBatch.read(r["batch"])) for r in state.rounds))

    def _result(self, document: Mapping[str, Any], loops: int) -> HumanReviewResult:
        counted, found = document["counts"], document["estimate"]
        percent = document["agreement"]["percent"]
        self.log.info("Reviewed: %s", counted)
        return {
            "version": VERSION,
            "output_uri": self._review.objects.reviewed,
            "report_uri": self._review.objects.report,
            "flow_definition_arn": self.flow_definition_arn,
            "results": counted["results"],
            "loops": loops,
            "answers": counted["answers"],
            "confirmed": counted["confirmed"],
            "corrected": counted["corrected"],
            "undecided": counted["undecided"],
            "unreviewed": counted["unreviewed"],
            "agreement": percent["value"] if percent else -1.0,
            "model_accuracy": found["model_accuracy"]["value"],
            "model_accuracy_interval": _ends(found["model_accuracy"]),
            "corrected_accuracy": found["corrected_accuracy"]["value"],
            "corrected_accuracy_interval": _ends(found["corrected_accuracy"]),
            "unreviewed_errors": found["unreviewed_errors"]["value"],
            "unreviewed_errors_interval": _ends(found["unreviewed_errors"]),
        }

    @cached_property
    def _review(self) -> "Review":
        from model_delivery_engine.review.consolidation import Method
        from model_delivery_engine.review.inferences import Source
        from model_delivery_engine.review.selection import ResultsLayout

        from model_delivery.human_loops.review import Review, ReviewObjects

        layout = ResultsLayout(
            Source(self.source), self.score_output, class_names(self.labels),
            self.id_field, tuple(self.hidden_fields), self.task_object_field or None,
        )  # fmt: skip
        return Review(
            self._storage(), ReviewObjects(self.output_uri.rstrip("/")), self.results_uri, layout,
            Method(self.method), int(self.quorum),
        )  # fmt: skip

    def _parsed(self) -> Any:
        from model_delivery_engine.review.conditions import parse_conditions
        from model_delivery_engine.review.inferences import Source

        return parse_conditions(self.conditions, Source(self.source))

    def _check(self) -> None:
        _one_of("source", self.source, SOURCES)
        _one_of("method", self.method, METHODS)
        _one_of("expired", self.expired, EXPIRED_POLICIES)
        if self.source == "classifier" and not self.score_output:
            raise InvalidRequestError("score_output is missing: a classifier's conditions need it")
        if self.source == a2i.TEXTRACT and self.method == "dawid-skene":
            raise InvalidRequestError(
                "method is 'dawid-skene', which needs classes: the texts of a form have none; "
                "give 'majority' or 'quorum'"
            )
        self._engine(self._parsed)

    def _engine(self, work: Any) -> Any:
        """Run the engine's part; what it refuses, a retry cannot mend."""
        from model_delivery_engine.errors import EngineError

        try:
            return work()
        except EngineError as error:
            raise DeliveryRefusedError(f"{self.results_uri}: {error}") from error


def _ends(interval: Mapping[str, float]) -> list[float]:
    return [interval["low"], interval["high"]]


def _one_of(parameter: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidRequestError(f"{parameter} is {value!r}: give one of {', '.join(known)}")
