"""The administrator's page of human review: flow definitions and queues, work teams, people."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_delivery_localcloud.portal.rendering import Renderer
from model_delivery_localcloud.portal.review_api import MakeRoute
from model_delivery_localcloud.portal.sessions import SignIn
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_admin import Overview, overview

MOST_ROWS = 500


class AdminPage:
    """Who reviews what, over all accounts and regions."""

    def __init__(self, database: Database, renderer: Renderer, sign_in: SignIn) -> None:
        self._database = database
        self._renderer = renderer
        self._sign_in = sign_in

    def routes(self, route: MakeRoute) -> list[Route]:
        """Return the route; guarded pages without roles are administrators'."""
        return [route("/teams", self._sign_in.guarded(self.show), "GET")]

    async def show(self, request: Request) -> Response:
        """Show everything on one page."""
        found = await run_in_threadpool(self._overview)
        return self._renderer.page(request, "review_admin.html", found=found, limit=MOST_ROWS)

    def _overview(self) -> Overview:
        with self._database.read() as session:
            return overview(session, MOST_ROWS)
