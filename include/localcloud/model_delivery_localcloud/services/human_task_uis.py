"""Amazon SageMaker: human task UIs, the templates that reviewers work with."""

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.errors import ServiceError, validation_error
from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call
from model_delivery_localcloud.review.facts import read_content
from model_delivery_localcloud.review.template import (
    Grant,
    TemplateRefused,
    check_template,
    render_template,
)
from model_delivery_localcloud.services.review_lists import answer_page
from model_delivery_localcloud.services.review_names import HUMAN_TASK_UI, arn_of, name_in, scope_of
from model_delivery_localcloud.services.sagemaker_tags import check_tags
from model_delivery_localcloud.store import review_resources as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import FlowDefinition, HumanTaskUi

RENDERING_ERROR = "RenderingError"


class HumanTaskUis:
    """Human task UIs over the store.

    :param grant: returns the URL under which a browser may read an object.
    """

    def __init__(self, database: Database, grant: Grant) -> None:
        self._database = database
        self._grant = grant

    def handlers(self) -> Mapping[str, Handler]:
        """Return the operations on human task UIs."""
        return {
            "CreateHumanTaskUi": self.create,
            "DescribeHumanTaskUi": self.describe,
            "ListHumanTaskUis": self.list,
            "DeleteHumanTaskUi": self.delete,
            "RenderUiTemplate": self.render,
        }

    def create(self, call: Call) -> dict[str, Any]:
        """Store a template that can be rendered; an element we do not have is refused by name."""
        params = call.params
        content = params["UiTemplate"]["Content"]
        try:
            check_template(content)
        except TemplateRefused as refused:
            raise validation_error(f"UiTemplate.Content: {refused}.") from refused
        check_tags(params.get("Tags", []))
        name, scope = params["HumanTaskUiName"], scope_of(call.caller)
        arn = arn_of(call.caller, HUMAN_TASK_UI, name)
        try:
            with self._database.write() as session:
                session.add(
                    HumanTaskUi(
                        account=scope[0],
                        region=scope[1],
                        name=name,
                        content=content,
                        digest=hashlib.sha256(content.encode()).hexdigest(),
                        request={key: params[key] for key in params if key != "UiTemplate"},
                        created_at=now_ms(),
                    )
                )
        except IntegrityError:
            raise ServiceError(
                "ResourceInUse", f"Human task UI already exists: {arn}; choose another name."
            ) from None
        return {"HumanTaskUiArn": arn}

    def describe(self, call: Call) -> dict[str, Any]:
        """Answer a task UI's digest."""
        with self._database.read() as session:
            ui = _find(session, call)
        return {
            "HumanTaskUiArn": arn_of(call.caller, HUMAN_TASK_UI, ui.name),
            "HumanTaskUiName": ui.name,
            "HumanTaskUiStatus": states.ACTIVE,
            "CreationTime": to_datetime(ui.created_at),
            "UiTemplate": {"ContentSha256": ui.digest},
        }

    def list(self, call: Call) -> dict[str, Any]:
        """Answer one page of task UIs, ascending by creation time unless asked."""

        def summary(ui: HumanTaskUi) -> dict[str, Any]:
            return {
                "HumanTaskUiName": ui.name,
                "HumanTaskUiArn": arn_of(call.caller, HUMAN_TASK_UI, ui.name),
                "CreationTime": to_datetime(ui.created_at),
            }

        return answer_page(self._database, call, HumanTaskUi, "HumanTaskUiSummaries", summary)

    def delete(self, call: Call) -> dict[str, Any]:
        """Delete a task UI that no flow definition uses."""
        scope = scope_of(call.caller)
        with self._database.write() as session:
            ui = _find(session, call, states.lock)
            flow = states.flow_using(session, scope, FlowDefinition.human_task_ui, ui.name)
            if flow is not None:
                raise ServiceError(
                    "ResourceInUse",
                    f"The flow definition {flow.name} uses {ui.name}: delete it first.",
                )
            session.delete(ui)
        return {}

    def render(self, call: Call) -> dict[str, Any]:
        """Answer a template with a task filled in, or what keeps it from being one."""
        content = self._content_to_render(call)
        try:
            task_input = read_content(call.params["Task"]["Input"])
        except ValueError as error:
            raise validation_error(f"Task.Input is no JSON: {error}.") from error
        try:
            check_template(content)
            rendered = render_template(content, task_input, self._grant)
        except TemplateRefused as refused:
            problem = {"Code": RENDERING_ERROR, "Message": str(refused)}
            return {"RenderedContent": "", "Errors": [problem]}
        return {"RenderedContent": rendered, "Errors": []}

    def _content_to_render(self, call: Call) -> str:
        given, arn = call.params.get("UiTemplate"), call.params.get("HumanTaskUiArn")
        if (given is None) == (arn is None):
            raise validation_error("Give exactly one of UiTemplate and HumanTaskUiArn.")
        if given is not None:
            return str(given["Content"])
        name = name_in(str(arn), call.caller, HUMAN_TASK_UI, "HumanTaskUiArn")
        with self._database.read() as session:
            return _named(session, call, name).content


def _find(session: Session, call: Call, find: Any = states.find) -> HumanTaskUi:
    return _named(session, call, call.params["HumanTaskUiName"], find)


def _named(session: Session, call: Call, name: str, find: Any = states.find) -> HumanTaskUi:
    found: HumanTaskUi | None = find(session, HumanTaskUi, scope_of(call.caller), name)
    if found is None:
        raise ServiceError(
            "ResourceNotFound",
            f"Could not find human task UI {arn_of(call.caller, HUMAN_TASK_UI, name)}.",
        )
    return found
