"""An item's template as a document of its own, for the frame around it.

The document is sandboxed by its own header: its origin is opaque, so it has no cookie, no storage
and no way to read the page around it. Its scripts may run, as the templates of Augmented AI expect;
what they load are our own files and the images that were granted. Only the portal's frame gets it:
opened by itself, it could go elsewhere and take the item along. WebRTC is bound by no policy that
browsers know, and of a page that the policy stops the connection is open by then: who writes
templates is trusted with the items that they show.
"""

import re

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from model_delivery_localcloud.portal.grants import Grants
from model_delivery_localcloud.portal.review_items import Items
from model_delivery_localcloud.review.template import TemplateRefused
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import HumanLoop

SCRIPTS = ("base", "inputs", "tasks", "boxes", "layout", "form")
HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'self' 'unsafe-inline'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_CROWD_SCRIPT = re.compile(
    r"<script\b[^>]*\bsrc\s*=\s*[\"']?[^\"'>]*crowd-html-elements[^>]*>\s*</script\s*>",
    re.IGNORECASE,
)


class TemplateFrame:
    """Serves the documents that grants name."""

    def __init__(self, database: Database, items: Items, grants: Grants) -> None:
        self._database = database
        self._items = items
        self._grants = grants

    async def show(self, request: Request) -> Response:
        """Answer an item's template, filled in."""
        # A browser that does not say, over plain HTTP, is not known to be a frame or none.
        if request.headers.get("sec-fetch-dest", "iframe") != "iframe":
            return _problem(403, "a task opens in its page only: go to the queue")
        named = self._grants.read_frame(request.path_params["token"])
        if named is None:
            return _problem(404, "this link is not valid any more: reload the page")
        return await run_in_threadpool(self._answer, *named)

    def _answer(self, flow_id: str, loop_id: int) -> Response:
        with self._database.read() as session:
            flow = resources.find_flow(session, flow_id)
            loop = session.get(HumanLoop, loop_id)
            if flow is None or loop is None:
                return _problem(404, "this item is gone")
            try:
                body = self._items.rendered(session, flow, loop)
            except TemplateRefused as refused:
                return _problem(422, str(refused))
        return HTMLResponse(document(body), headers=HEADERS)


def document(body: str) -> str:
    """Return a rendered template as a document, with our elements in place of AWS's script."""
    # The first runs before the template's own; the others once the elements have their children.
    scripts = "".join(
        f'<script {"" if name == SCRIPTS[0] else "defer "}src="/static/crowd-{name}.js"></script>'
        for name in SCRIPTS
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The task</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="/static/crowd.css">{scripts}</head>'
        f"<body>{_CROWD_SCRIPT.sub('', body)}</body></html>"
    )


def _problem(status: int, message: str) -> Response:
    return Response(message, status, media_type="text/plain", headers=HEADERS)
