"""The pages of human review: the queues, the desk, the grid."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from model_delivery_localcloud.portal.rendering import Renderer
from model_delivery_localcloud.portal.review_api import MakeRoute
from model_delivery_localcloud.portal.review_desk import Desk, Refused
from model_delivery_localcloud.portal.sessions import SignIn
from model_delivery_localcloud.store.users import Role

OF_NAME = "/queues"


class ReviewPages:
    """The pages; what they show comes by the calls of `review_api.py`."""

    def __init__(self, renderer: Renderer, sign_in: SignIn, desk: Desk) -> None:
        self._renderer = renderer
        self._sign_in = sign_in
        self._desk = desk

    def routes(self, route: MakeRoute) -> list[Route]:
        """Return the routes."""
        everyone = tuple(Role)
        return [
            route("/review", self._sign_in.guarded(self.queues, *everyone), "GET"),
            route(
                f"{OF_NAME}/{{account}}/{{region}}/{{name}}",
                self._sign_in.guarded(self.named, *everyone),
                "GET",
            ),
            route("/review/{flow}", self._sign_in.guarded(self.desk, *everyone), "GET"),
            route("/review/{flow}/grid", self._sign_in.guarded(self.grid, *everyone), "GET"),
        ]

    async def queues(self, request: Request) -> Response:
        """List the queues of the person's teams."""
        user = request.state.user
        queues = await run_in_threadpool(self._desk.queues, user)
        return self._renderer.page(request, "review_queues.html", queues=queues)

    async def named(self, request: Request) -> Response:
        """Send people to the queue of a flow definition, as a link from elsewhere names it."""
        user, key = request.state.user, request.path_params
        queues = await run_in_threadpool(self._desk.queues, user)
        wanted = key["account"], key["region"], key["name"]
        for queue in queues:
            if (queue["account"], queue["region"], queue["name"]) == wanted:
                return RedirectResponse(f"/review/{queue['flow']}", status_code=303)
        return self._renderer.page(request, "missing.html", status=404)

    async def desk(self, request: Request) -> Response:
        """Show the desk of one queue."""
        return await self._of_queue(request, "review_desk.html")

    async def grid(self, request: Request) -> Response:
        """Show many items of one queue."""
        return await self._of_queue(request, "review_grid.html")

    async def _of_queue(self, request: Request, template: str) -> Response:
        user, flow_id = request.state.user, request.path_params["flow"]
        try:
            flow = await run_in_threadpool(self._desk.find_queue, user, flow_id)
        except Refused:
            return self._renderer.page(request, "missing.html", status=404)
        title = flow.request["HumanLoopConfig"]["TaskTitle"]
        return self._renderer.page(request, template, flow=flow, title=title)
