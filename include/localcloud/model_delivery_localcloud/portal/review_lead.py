"""The lead's page: throughput, agreement, confusion, the age of the queue, and the export."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from model_delivery_engine.review.agreement import Agreement, agreement
from model_delivery_engine.review.answers import Answer, by_item
from model_delivery_engine.review.consolidation import Decision, Method, majority
from model_delivery_engine.review.reviewers import reviewer_figures
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from model_delivery_localcloud.clock import now_ms, to_datetime
from model_delivery_localcloud.portal.rendering import SECURITY_HEADERS, Renderer
from model_delivery_localcloud.portal.review_api import MakeRoute
from model_delivery_localcloud.portal.review_desk import Desk, Refused
from model_delivery_localcloud.portal.sessions import SignIn
from model_delivery_localcloud.store import review_figures as figures
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_figures import GivenAnswer
from model_delivery_localcloud.store.users import Role

HOURS = 24
MOST_LABELS = 20
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_COLUMNS = (
    "loop", "worker", "label", "seconds", "submitted_at", "model_label", "confidence",
    "known_answer", "answer",
)  # fmt: skip


class LeadPages:
    """How one queue goes, for leads and administrators."""

    def __init__(self, database: Database, renderer: Renderer, sign_in: SignIn, desk: Desk) -> None:
        self._database = database
        self._renderer = renderer
        self._sign_in = sign_in
        self._desk = desk

    def routes(self, route: MakeRoute) -> list[Route]:
        """Return the routes."""
        leads = (Role.LEAD, Role.ADMIN)
        pages = {"lead": self.show, "export.csv": self.as_csv, "export.json": self.as_json}
        return [
            route(f"/review/{{flow}}/{path}", self._sign_in.guarded(page, *leads), "GET")
            for path, page in pages.items()
        ]

    async def show(self, request: Request) -> Response:
        """Show the figures."""
        try:
            values = await run_in_threadpool(self._figures, request)
        except Refused:
            return self._renderer.page(request, "missing.html", status=404)
        return self._renderer.page(request, "review_lead.html", **values)

    async def as_csv(self, request: Request) -> Response:
        """Export every answer as CSV."""
        return await self._export(request, "text/csv", "csv", _csv_lines)

    async def as_json(self, request: Request) -> Response:
        """Export every answer as JSON."""
        return await self._export(request, "application/json", "json", _json_lines)

    async def _export(self, request: Request, kind: str, ending: str, lines: Any) -> Response:
        user, flow_id = request.state.user, request.path_params["flow"]
        try:
            flow = await run_in_threadpool(self._desk.find_queue, user, flow_id)
        except Refused:
            return self._renderer.page(request, "missing.html", status=404)

        name = f'attachment; filename="{flow.name}.{ending}"'
        headers = {**SECURITY_HEADERS, "Content-Disposition": name}
        return StreamingResponse(lines(self._pages(flow.id)), media_type=kind, headers=headers)

    def _pages(self, flow_id: str) -> Iterator[list[GivenAnswer]]:
        """Yield every answer; whoever reads slowly keeps no transaction open, and little memory."""
        after = 0, ""
        while True:
            with self._database.read() as session:
                page, after = figures.answers_after(session, flow_id, after)
            if not page:
                return
            yield page

    def _figures(self, request: Request) -> dict[str, Any]:
        user, flow_id, now = request.state.user, request.path_params["flow"], now_ms()
        flow = self._desk.find_queue(user, flow_id)
        first = now - now % figures.HOUR_MS - (HOURS - 1) * figures.HOUR_MS
        with self._database.read() as session:
            state = figures.queue_state(session, flow.id, now)
            hours = figures.answers_by_hour(session, flow.id, first)
            workers = figures.answers_by_worker(session, flow.id)
            given = figures.newest_answers(session, flow.id)
        items = by_item(
            Answer(each.loop, each.worker, each.label, each.seconds)
            for each in given
            if each.label is not None and each.known_answer is None
        )
        blank = Counter(each.loop for each in given if each.label is None)
        # Of two answers that are to come, one alone decides nothing.
        least = min(2, flow.request["HumanLoopConfig"]["TaskCount"])
        undecided = Decision(None, 0.0, Method.MAJORITY, {})
        decisions = {
            item: majority(answers, blank[item])
            if len(answers) + blank[item] >= least
            else undecided
            for item, answers in items.items()
        }
        starts = [first + number * figures.HOUR_MS for number in range(HOURS)]
        return {
            "flow": flow,
            "title": flow.request["HumanLoopConfig"]["TaskTitle"],
            "task_count": flow.request["HumanLoopConfig"]["TaskCount"],
            "state": state,
            "hours": [(f"{to_datetime(start):%H}:00", hours.get(start, 0)) for start in starts],
            "people": _people(workers, given, items, decisions),
            "agreement": _shown(agreement(items)) if items else None,
            "confusion": confusion(given, decisions),
            "items": len(items),
            "limit": figures.MOST_ITEMS,
        }


def confusion(given: list[GivenAnswer], decisions: dict[str, Decision]) -> dict[str, Any] | None:
    """Return the model's labels against what the reviewers decided, None where nothing is.

    Labels beyond the 20 commonest count as `others`.
    """
    models = {each.loop: each.model_label for each in given if each.model_label is not None}
    pairs = [
        (models[item], decision.label)
        for item, decision in decisions.items()
        if decision.label is not None and item in models
    ]
    if not pairs:
        return None
    common = Counter(label for pair in pairs for label in pair).most_common(MOST_LABELS)
    known = {label for label, _ in common}
    counted = Counter(
        tuple(label if label in known else "others" for label in pair) for pair in pairs
    )
    labels = sorted({label for pair in counted for label in pair}, key=_natural)
    rows = [(model, [counted[(model, human)] for human in labels]) for model in labels]
    right = sum(number for (model, human), number in counted.items() if model == human)
    return {"labels": labels, "rows": rows, "right": right, "total": len(pairs)}


def _people(
    workers: dict[str, tuple[int, int]],
    given: list[GivenAnswer],
    items: dict[str, list[Answer]],
    decisions: dict[str, Decision],
) -> list[dict[str, Any]]:
    measured = reviewer_figures(items, decisions)
    known = [each for each in given if each.known_answer is not None]
    return [
        {
            "name": name,
            "answers": number,
            "last": last,
            "figures": measured.get(name),
            "honeypots": sum(each.worker == name for each in known),
            "right": sum(each.worker == name and each.label == each.known_answer for each in known),
        }
        for name, (number, last) in sorted(workers.items(), key=lambda each: -each[1][0])
    ]


def _shown(found: Agreement) -> dict[str, Any]:
    return {
        "measures": [
            ("Percent agreement", found.percent, f"{found.items} items with two answers or more"),
            ("Fleiss' kappa", found.fleiss, f"{found.fleiss_items} items"),
            ("Krippendorff's alpha", found.alpha, f"{found.items} items"),
        ],
        "pairs": found.pairs,
        "by_class": found.by_class,
    }


def _natural(label: str) -> tuple[int, float, str]:
    # Not `isdigit`: a superscript is a digit too, and no number.
    return (0, float(label), "") if label.isdecimal() else (1, 0.0, label)


def _csv_lines(pages: Iterator[list[GivenAnswer]]) -> Iterator[str]:
    yield _csv_rows([_COLUMNS])
    for page in pages:
        yield _csv_rows([_cell(value) for value in _record(each).values()] for each in page)


def _csv_rows(rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def _json_lines(pages: Iterator[list[GivenAnswer]]) -> Iterator[str]:
    opening = "["
    for page in pages:
        lines = [json.dumps(_record(each), ensure_ascii=False) for each in page]
        yield f"{opening}\n" + ",\n".join(lines)
        opening = ","
    yield "\n]\n" if opening == "," else "[]\n"


def _record(each: GivenAnswer) -> dict[str, Any]:
    found = asdict(each)
    found["submitted_at"] = to_datetime(each.submitted_at).isoformat(timespec="milliseconds")
    return {name: found[name] for name in _COLUMNS}


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
