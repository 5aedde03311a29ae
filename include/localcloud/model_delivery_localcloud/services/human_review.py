"""Amazon SageMaker: the flow definitions of Augmented AI."""

import uuid
from collections.abc import Mapping
from typing import Any

from model_delivery_engine.errors import ConditionsError
from model_delivery_engine.review.conditions import parse_conditions
from model_delivery_engine.review.inferences import Source
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.services.refusals import refuse_members
from model_delivery_localcloud.services.review_lists import answer_page
from model_delivery_localcloud.services.review_names import (
    FLOW_DEFINITION,
    HUMAN_TASK_UI,
    WORKTEAM,
    arn_of,
    name_in,
    scope_of,
)
from model_delivery_localcloud.services.sagemaker_tags import check_tags
from model_delivery_localcloud.store import human_loops
from model_delivery_localcloud.store import review_resources as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import (
    FlowDefinition,
    HumanLoop,
    HumanTaskUi,
    Workteam,
)

DEFAULT_AVAILABILITY = 10 * 86_400
LONGEST_AVAILABILITY = 365 * 86_400
DEFAULT_TIME_LIMIT = 3_600
_KEPT = (
    "HumanLoopRequestSource", "HumanLoopActivationConfig", "HumanLoopConfig", "OutputConfig",
    "RoleArn",
)  # fmt: skip


class FlowDefinitions:
    """Flow definitions over the store; the worker process makes them Active, or deletes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on flow definitions."""
        return {
            "CreateFlowDefinition": self.create,
            "DescribeFlowDefinition": self.describe,
            "ListFlowDefinitions": self.list,
            "DeleteFlowDefinition": self.delete,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Make a flow definition; a name that is taken answers ResourceInUse."""
        params = dict(call.params)
        _check_request(params)
        config = params["HumanLoopConfig"]
        team = name_in(config["WorkteamArn"], call.caller, WORKTEAM, "HumanLoopConfig.WorkteamArn")
        ui_arn = config["HumanTaskUiArn"]
        ui = name_in(ui_arn, call.caller, HUMAN_TASK_UI, "HumanLoopConfig.HumanTaskUiArn")
        name, scope = params["FlowDefinitionName"], scope_of(call.caller)
        arn = arn_of(call.caller, FLOW_DEFINITION, name)
        try:
            with self._database.write() as session:
                _require(session, Workteam, scope, team, "work team")
                _require(session, HumanTaskUi, scope, ui, "human task UI")
                session.add(
                    FlowDefinition(
                        account=scope[0],
                        region=scope[1],
                        name=name,
                        id=uuid.uuid4().hex,
                        workteam=team,
                        human_task_ui=ui,
                        request=params,
                        status=states.INITIALIZING,
                        created_at=now_ms(),
                    )
                )
        except IntegrityError:
            raise ServiceError(
                "ResourceInUse", f"Flow definition already exists: {arn}; choose another name."
            ) from None
        return {"FlowDefinitionArn": arn}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a flow definition's request and status."""
        with self._database.read() as session:
            flow = _find(session, call)
        reason = {"FailureReason": flow.failure_reason} if flow.failure_reason else {}
        return {
            "FlowDefinitionArn": arn_of(call.caller, FLOW_DEFINITION, flow.name),
            "FlowDefinitionName": flow.name,
            "FlowDefinitionStatus": flow.status,
            "CreationTime": to_datetime(flow.created_at),
            **{name: flow.request[name] for name in _KEPT if name in flow.request},
            **reason,
        }

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of flow definitions, ascending by creation time unless asked."""

        def summary(flow: FlowDefinition) -> dict[str, Any]:
            reason = {"FailureReason": flow.failure_reason} if flow.failure_reason else {}
            return {
                "FlowDefinitionName": flow.name,
                "FlowDefinitionArn": arn_of(call.caller, FLOW_DEFINITION, flow.name),
                "FlowDefinitionStatus": flow.status,
                "CreationTime": to_datetime(flow.created_at),
                **reason,
            }

        return answer_page(self._database, call, FlowDefinition, "FlowDefinitionSummaries", summary)

    def delete(self, call: Call) -> dict[str, Any]:
        """Begin to delete a flow definition that has no human loop in progress."""
        with self._database.write() as session:
            flow = _find(session, call, states.lock)
            going = select(func.count()).where(
                HumanLoop.flow_id == flow.id, HumanLoop.status == human_loops.IN_PROGRESS
            )
            if number := session.scalar(going):
                raise ServiceError(
                    "ResourceInUse",
                    f"{number} human loops of {flow.name} are in progress: stop them first.",
                )
            flow.status = states.DELETING
        return {}


def activation_conditions(request: Mapping[str, Any]) -> str | None:
    """Return the activation conditions of a CreateFlowDefinition input, or None."""
    config = request.get("HumanLoopActivationConfig")
    if config is None:
        return None
    return str(config["HumanLoopActivationConditionsConfig"]["HumanLoopActivationConditions"])


def _check_request(params: Mapping[str, Any]) -> None:
    refuse_members(params, ["OutputConfig.KmsKeyId"])
    if "PublicWorkforceTaskPrice" in params["HumanLoopConfig"]:
        raise validation_error(
            "HumanLoopConfig.PublicWorkforceTaskPrice pays a public workforce; localcloud's work "
            "teams are private: leave it out."
        )
    check_tags(params.get("Tags", []))
    uri = params["OutputConfig"]["S3OutputPath"]
    if not uri.startswith("s3://"):
        raise validation_error(f"OutputConfig.S3OutputPath must be an s3:// URI, got '{uri}'.")
    lifetime = params["HumanLoopConfig"].get("TaskAvailabilityLifetimeInSeconds", 1)
    if lifetime > LONGEST_AVAILABILITY:
        raise validation_error(
            "HumanLoopConfig.TaskAvailabilityLifetimeInSeconds must be at most "
            f"{LONGEST_AVAILABILITY} (365 days)."
        )
    _check_conditions(params)


def _check_conditions(params: Mapping[str, Any]) -> None:
    text = activation_conditions(params)
    if text is None:
        return
    if "HumanLoopRequestSource" not in params:
        raise validation_error(
            "HumanLoopActivationConfig needs HumanLoopRequestSource: of custom tasks, conditions "
            "are evaluated by whoever starts their human loops."
        )
    source = Source(params["HumanLoopRequestSource"]["AwsManagedHumanLoopRequestSource"])
    try:
        parse_conditions(text, source)
    except ConditionsError as error:
        raise validation_error(f"HumanLoopActivationConditions: {error}.") from error


def _require(session: Session, table: Any, scope: tuple[str, str], name: str, what: str) -> None:
    if states.hold(session, table, scope, name) is None:
        raise validation_error(f"There is no {what} {name} in {scope[1]}: create it first.")


def _find(session: Session, call: Call, find: Any = states.find) -> FlowDefinition:
    name = call.params["FlowDefinitionName"]
    flow: FlowDefinition | None = find(session, FlowDefinition, scope_of(call.caller), name)
    if flow is None:
        raise ServiceError(
            "ResourceNotFound",
            f"Could not find flow definition {arn_of(call.caller, FLOW_DEFINITION, name)}.",
        )
    return flow
