"""Items as pages show them: their template filled in, the model's answer, why they are here."""

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from model_delivery_localcloud.portal.grants import Grants
from model_delivery_localcloud.portal.sized_cache import SizedCache
from model_delivery_localcloud.review.facts import (
    MODEL_ANSWER,
    for_reviewers,
    read_content,
    text_for_reviewers,
)
from model_delivery_localcloud.review.reasons import reasons_of
from model_delivery_localcloud.review.template import TemplateRefused, render_template
from model_delivery_localcloud.review.views import CLASSIFY, FRAME, fault_in_answer, view_of
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_slots import Held
from model_delivery_localcloud.store.review_tables import (
    Assignment,
    FlowDefinition,
    HumanLoop,
    HumanLoopInput,
    HumanTaskUi,
)
from model_delivery_localcloud.store.tables import User

log = logging.getLogger(__name__)

BROKEN = "broken"
REMEMBERED_SECONDS = 3600.0
# Of text; parsed, it takes some ten times as much.
REMEMBERED_BYTES = 16 * 1024 * 1024


# One prepared statement: an item that is shown for the first time is read for each answer.
_LOOP: Any = HumanLoop.__table__
_INPUT: Any = HumanLoopInput.__table__
_SHOWN = (
    select(_LOOP.c.model_label, _INPUT.c.content)
    .join(_INPUT, _INPUT.c.loop_id == _LOOP.c.id)
    .where(_LOOP.c.id == bindparam("loop"), _LOOP.c.flow_id == bindparam("flow"))
)


@dataclass(frozen=True)
class _Shown:
    """What is the same for everybody who is shown an item, and never changes."""

    flow_id: str
    content: Any
    data: str
    model_label: str | None
    why: list[str]
    view: dict[str, Any]


def held_by(session: Session, loop: HumanLoop, user: User) -> Held:
    """Return an item that a reviewer has just taken."""
    mine = session.get_one(Assignment, (loop.id, user.name))
    return Held(loop.id, loop.name, loop.model_label, loop.confidence, mine.draft, mine.lease_until)


class Items:
    """Makes items of human loops."""

    def __init__(self, database: Database, grants: Grants) -> None:
        self._database = database
        self._grants = grants
        # A flow definition's template never changes, and cannot go before it does.
        self._template = lru_cache(maxsize=256)(_TemplateOf(database))
        self._remembered: SizedCache[int, _Shown] = SizedCache(REMEMBERED_BYTES, REMEMBERED_SECONDS)

    def item(self, flow: FlowDefinition, held: Held) -> dict[str, Any]:
        """Return what a page shows of an item that its reviewer holds."""
        shown = self._shown(flow, held.loop)
        return {
            "loop": held.loop,
            "name": held.name,
            "input": shown.content if shown else None,
            "data": shown.data if shown else "",
            "model": {
                "answer": held.model_label,
                "confidence": held.confidence,
                "acceptable": shown is not None and _model_answer(shown) is not None,
            },
            "why": shown.why if shown else [],
            "view": shown.view if shown else _broken("it is gone"),
            "draft": held.draft,
            "held_until": held.held_until,
        }

    def rendered(self, session: Session, flow: FlowDefinition, loop: HumanLoop) -> str:
        """Return an item's template, filled in; raises TemplateRefused where it cannot be."""
        return self._render(flow, _content(session, loop.id))

    def model_answer(self, flow: FlowDefinition, loop_id: int) -> dict[str, Any] | None:
        """Return the answer that accepting the model's would be, None where there is none."""
        shown = self._shown(flow, loop_id)
        return None if shown is None else _model_answer(shown)

    def fault_of(self, flow: FlowDefinition, loop_id: int, answer: dict[str, Any]) -> str | None:
        """Tell what is wrong with an answer of one of the portal's own pages, None if nothing."""
        shown = self._shown(flow, loop_id)
        return None if shown is None else fault_in_answer(shown.view, answer)

    def _shown(self, flow: FlowDefinition, loop_id: int) -> _Shown | None:
        """Return an item of this flow definition, None for one that is not."""
        found = self._remembered.get(loop_id)
        if found is None:
            with self._database.read() as session:
                row = session.execute(_SHOWN, {"loop": loop_id, "flow": flow.id}).first()
            if row is None:
                return None
            found, size = self._made(flow, loop_id, row.content, row.model_label)
            self._remembered.put(loop_id, found, size)
        return found if found.flow_id == flow.id else None

    def _made(
        self, flow: FlowDefinition, loop_id: int, text: str, label: str | None
    ) -> tuple[_Shown, int]:
        """Return an item as it is shown, whatever is in it, and how much text it is made of.

        Its reviewer holds it already: an error here would meet them again at each call, and keep
        the queue from them.
        """
        content, data, why, rendered = None, "", [], ""
        try:
            content, data = for_reviewers(read_content(text)), text_for_reviewers(text)
            why = reasons_of(content)
            rendered = self._render(flow, content)
            view = view_of(rendered, content)
            if view["kind"] == FRAME:
                view["src"] = self._grants.frame(flow.id, loop_id)
        except TemplateRefused as refused:
            view = _broken(str(refused))
        except SQLAlchemyError:
            raise  # the item is not to blame
        except Exception as error:
            log.exception("item %d of %s cannot be shown", loop_id, flow.name)
            view = _broken(f"its data cannot be read ({type(error).__name__})")
        size = len(text) + len(data) + len(rendered)
        return _Shown(flow.id, content, data, label, why, view), size

    def _render(self, flow: FlowDefinition, content: Any) -> str:
        return render_template(self._template(flow.id), content, self._grants.media)


def _broken(problem: str) -> dict[str, Any]:
    return {"kind": BROKEN, "problem": problem}


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


def _model_answer(shown: _Shown) -> dict[str, Any] | None:
    if shown.view["kind"] != CLASSIFY or shown.model_label is None:
        return None
    name, known = shown.view["name"], shown.view["labels"]
    if not shown.view["multiple"]:
        label = shown.model_label
        return {name: {"label": label}} if label in known else None
    chosen = shown.content[MODEL_ANSWER]
    labels = [str(each).strip() for each in (chosen if isinstance(chosen, list) else [chosen])]
    answer = {name: {"labels": labels}}
    return answer if fault_in_answer(shown.view, answer) is None else None


def _content(session: Session, loop_id: int) -> Any:
    stored = session.get_one(HumanLoopInput, loop_id)
    return for_reviewers(read_content(stored.content))
