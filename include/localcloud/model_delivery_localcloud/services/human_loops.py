"""Amazon Augmented AI Runtime: human loops."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms, to_datetime, to_milliseconds
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.review.facts import Facts, digest_of, facts_of, read_content
from model_delivery_localcloud.services.human_review import DEFAULT_AVAILABILITY
from model_delivery_localcloud.services.paging import decode_token, encode_token
from model_delivery_localcloud.services.review_names import (
    FLOW_DEFINITION,
    HUMAN_LOOP,
    arn_of,
    name_in,
    scope_of,
)
from model_delivery_localcloud.store import human_loops as states
from model_delivery_localcloud.store import review_queue as queue
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.group_commit import GroupCommit, one_by_one
from model_delivery_localcloud.store.review_tables import FlowDefinition, HumanLoop

DEFAULT_PAGE = 100
_DESCENDING = "Descending"


class HumanLoops:
    """Human loops over the store; reviewers answer them in the portal."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A task starts thousands of loops, many at a time.
        self._commits = GroupCommit(database, one_by_one)

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations of the runtime."""
        return {
            "StartHumanLoop": self.start,
            "DescribeHumanLoop": self.describe,
            "ListHumanLoops": self.list,
            "StopHumanLoop": self.stop,
            "DeleteHumanLoop": self.delete,
        }

    def start(self, call: Call) -> dict[str, Any]:
        """Start a loop; the same name with the same request again is the same loop."""
        params, scope = call.params, scope_of(call.caller)
        text = params["HumanLoopInput"]["InputContent"]
        name, attributes = params["HumanLoopName"], dict(params.get("DataAttributes", {}))
        flow_arn = params["FlowDefinitionArn"]
        digest = digest_of(flow_arn, text, attributes)
        facts = _facts(text)
        flow_name = name_in(flow_arn, call.caller, FLOW_DEFINITION, "FlowDefinitionArn")
        now = now_ms()

        def work(session: Session) -> str:
            """Return the digest of what the loop was started with, now or before."""
            flow = _active(session, scope, flow_name)
            # A retry starts thousands again: each that failed here would spoil what others started.
            found = states.find_loop(session, scope, name)
            if found is not None:
                return found.input_digest
            config = flow.request["HumanLoopConfig"]
            seconds = config.get("TaskAvailabilityLifetimeInSeconds", DEFAULT_AVAILABILITY)
            loop = HumanLoop(
                account=scope[0],
                region=scope[1],
                name=name,
                flow_id=flow.id,
                flow_name=flow.name,
                status=states.IN_PROGRESS,
                phase=states.OPEN,
                queue=flow.id,
                priority=facts.priority,
                task_count=config["TaskCount"],
                free_slots=config["TaskCount"],
                input_digest=digest,
                model_label=facts.model_label,
                confidence=facts.confidence,
                known_answer=facts.known_answer,
                created_at=now,
                modified_at=now,
                expires_at=now + seconds * 1000,
                due_at=now + seconds * 1000,
            )
            states.add_loop(session, loop, text, attributes)
            if facts.excluded:
                queue.keep_from(session, loop, flow, facts.excluded, now)
            return digest

        try:
            started = self._commits.run(work)
        except IntegrityError:  # another server was quicker
            started = self._digest(scope, name)
        if started != digest:
            raise ServiceError(
                "ConflictException",
                f"A human loop {name} was started with another input, flow definition or data "
                "attributes: choose another name.",
                409,
            )
        return {"HumanLoopArn": arn_of(call.caller, HUMAN_LOOP, name)}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a loop's status; it is Completed once its output is in the object store."""
        with self._database.read() as session:
            loop = _find(session, call)
        output = {"HumanLoopOutput": {"OutputS3Uri": loop.output_uri}} if loop.output_uri else {}
        return {
            "CreationTime": to_datetime(loop.created_at),
            "HumanLoopStatus": loop.status,
            "HumanLoopName": loop.name,
            "HumanLoopArn": arn_of(call.caller, HUMAN_LOOP, loop.name),
            "FlowDefinitionArn": arn_of(call.caller, FLOW_DEFINITION, loop.flow_name),
            **output,
            **({"FailureCode": loop.failure_code} if loop.failure_code else {}),
            **({"FailureReason": loop.failure_reason} if loop.failure_code else {}),
        }

    def list(self, call: Call) -> dict[str, Any]:
        """Answer a page of a flow's loops, ascending by creation time unless asked otherwise."""
        params = call.params
        filters = {key: params[key] for key in params if key not in {"NextToken", "MaxResults"}}
        after = decode_token(params.get("NextToken"), filters, (int, int))
        limit = params.get("MaxResults", DEFAULT_PAGE)
        with self._database.read() as session:
            loops = states.list_loops(
                session,
                _flow(session, call),
                created_after=_moment(params, "CreationTimeAfter"),
                created_before=_moment(params, "CreationTimeBefore"),
                descending=params.get("SortOrder") == _DESCENDING,
                after=after,
                limit=limit + 1,
            )
        page = loops[:limit]
        answer: dict[str, Any] = {
            "HumanLoopSummaries": [_summary(loop, call.caller) for loop in page]
        }
        if len(loops) > limit:
            answer["NextToken"] = encode_token([page[-1].created_at, page[-1].id], filters)
        return answer

    def stop(self, call: Call) -> dict[str, Any]:
        """Stop a loop; one whose answers are all in completes, one that ended stays as it is."""
        with self._database.write() as session:
            states.stop_loop(session, _find(session, call), now_ms())
        return {}

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete a loop with its answers; what it wrote stays in storage."""
        with self._database.write() as session:
            states.delete_loop(session, _find(session, call))
        return {}

    def _digest(self, scope: tuple[str, str], name: str) -> str | None:
        with self._database.read() as session:
            loop = states.find_loop(session, scope, name)
        return loop.input_digest if loop else None


def _facts(text: str) -> Facts:
    try:
        content = read_content(text)
    except ValueError as error:
        raise validation_error(f"HumanLoopInput.InputContent is not JSON: {error}.") from error
    try:
        return facts_of(content)
    except ValueError as error:
        raise validation_error(f"HumanLoopInput.InputContent: {error}.") from error


def _active(session: Session, scope: tuple[str, str], name: str) -> FlowDefinition:
    flow = resources.hold(session, FlowDefinition, scope, name)
    if flow is None:
        raise validation_error(f"There is no flow definition {name}: create it first.")
    if flow.status != resources.ACTIVE:
        reason = f" ({flow.failure_reason})" if flow.failure_reason else ""
        raise validation_error(
            f"The flow definition {name} is {flow.status}{reason}; human loops start once it is "
            f"{resources.ACTIVE}."
        )
    return flow


def _flow(session: Session, call: Call) -> FlowDefinition:
    arn = call.params["FlowDefinitionArn"]
    name = name_in(arn, call.caller, FLOW_DEFINITION, "FlowDefinitionArn")
    flow = resources.find(session, FlowDefinition, scope_of(call.caller), name)
    if flow is None:
        raise ServiceError("ResourceNotFoundException", f"Flow definition not found: {arn}", 404)
    return flow


def _find(session: Session, call: Call) -> HumanLoop:
    name = call.params["HumanLoopName"]
    loop = states.find_loop(session, scope_of(call.caller), name)
    if loop is None:
        arn = arn_of(call.caller, HUMAN_LOOP, name)
        raise ServiceError("ResourceNotFoundException", f"Human loop not found: {arn}", 404)
    return loop


def _summary(loop: HumanLoop, caller: Caller) -> dict[str, Any]:
    reason = {"FailureReason": loop.failure_reason} if loop.failure_code else {}
    return {
        "HumanLoopName": loop.name,
        "HumanLoopStatus": loop.status,
        "CreationTime": to_datetime(loop.created_at),
        "FlowDefinitionArn": arn_of(caller, FLOW_DEFINITION, loop.flow_name),
        **reason,
    }


def _moment(params: Mapping[str, Any], name: str) -> int | None:
    return to_milliseconds(params[name]) if name in params else None
