"""Items as pages show them: their template filled in, the model's answer, why they are here."""

from functools import lru_cache
from typing import Any

from sqlalchemy.orm import Session

from model_delivery_localcloud.portal.grants import Grants
from model_delivery_localcloud.review.facts import MODEL_ANSWER, read_content, without_known_answer
from model_delivery_localcloud.review.reasons import reasons_of
from model_delivery_localcloud.review.template import TemplateRefused, render_template
from model_delivery_localcloud.review.views import CLASSIFY, FRAME, view_of
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import (
    Assignment,
    FlowDefinition,
    HumanLoop,
    HumanLoopInput,
    HumanTaskUi,
)
from model_delivery_localcloud.store.tables import User

BROKEN = "broken"


class Items:
    """Makes items of human loops."""

    def __init__(self, database: Database, grants: Grants) -> None:
        self._grants = grants
        # A flow definition's template never changes, and cannot go before it does.
        self._template = lru_cache(maxsize=256)(_TemplateOf(database))

    def item(
        self, session: Session, flow: FlowDefinition, loop: HumanLoop, user: User
    ) -> dict[str, Any]:
        """Return what a page shows of an item that its reviewer holds."""
        mine = session.get_one(Assignment, (loop.id, user.name))
        content = _content(session, loop)
        return {
            "loop": loop.id,
            "name": loop.name,
            "input": content,
            "model": {"answer": loop.model_label, "confidence": loop.confidence},
            "why": reasons_of(content),
            "view": self._view(flow, loop, content),
            "draft": mine.draft,
            "held_until": mine.lease_until,
        }

    def rendered(self, session: Session, flow: FlowDefinition, loop: HumanLoop) -> str:
        """Return an item's template, filled in; raises TemplateRefused where it cannot be."""
        return self._render(flow, _content(session, loop))

    def model_answer(
        self, session: Session, flow: FlowDefinition, loop: HumanLoop
    ) -> dict[str, Any] | None:
        """Return the answer that accepting the model's would be, None where there is none."""
        content = _content(session, loop)
        view = self._view(flow, loop, content)
        if view["kind"] != CLASSIFY or loop.model_label is None:
            return None
        if not view["multiple"]:
            known = loop.model_label in view["labels"]
            return {view["name"]: {"label": loop.model_label}} if known else None
        chosen = content[MODEL_ANSWER]
        labels = [str(each) for each in (chosen if isinstance(chosen, list) else [chosen])]
        return {view["name"]: {"labels": labels}} if set(labels) <= set(view["labels"]) else None

    def fault_of(
        self, session: Session, flow: FlowDefinition, loop: HumanLoop, answer: dict[str, Any]
    ) -> str | None:
        """Tell what is wrong with an answer of one of the portal's own pages, None if nothing."""
        view = self._view(flow, loop, _content(session, loop))
        if view["kind"] != CLASSIFY:
            return None
        given = answer.get(view["name"])
        member = "labels" if view["multiple"] else "label"
        value = given.get(member) if isinstance(given, dict) else None
        chosen = value if view["multiple"] else [value]
        if not isinstance(chosen, list) or not set(map(str, chosen)) <= set(view["labels"]):
            return f"the answer must name a category under {view['name']}.{member}"
        return None

    def _view(self, flow: FlowDefinition, loop: HumanLoop, content: Any) -> dict[str, Any]:
        try:
            view = view_of(self._render(flow, content), content)
        except TemplateRefused as refused:
            return {"kind": BROKEN, "problem": str(refused)}
        if view["kind"] == FRAME:
            view["src"] = self._grants.frame(flow.id, loop.id)
        return view

    def _render(self, flow: FlowDefinition, content: Any) -> str:
        return render_template(self._template(flow.id), content, self._grants.media)


class _TemplateOf:
    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, flow_id: str) -> str:
        with self._database.read() as session:
            flow = resources.find_flow(session, flow_id)
            if flow is None:
                raise TemplateRefused("the flow definition is gone")
            scope = flow.account, flow.region
            ui = resources.find(session, HumanTaskUi, scope, flow.human_task_ui)
        if ui is None:
            raise TemplateRefused("the human task UI is gone")
        return ui.content


def _content(session: Session, loop: HumanLoop) -> Any:
    stored = session.get_one(HumanLoopInput, loop.id)
    return without_known_answer(read_content(stored.content))
