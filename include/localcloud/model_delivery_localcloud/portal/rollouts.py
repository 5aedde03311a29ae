"""The pages of edge rollouts and of one device, and the buttons of a rollout."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from model_delivery_localcloud.portal.rendering import Renderer
from model_delivery_localcloud.portal.review_api import MakeRoute
from model_delivery_localcloud.portal.sessions import SignIn, is_too_large, valid_csrf
from model_delivery_localcloud.store import devices, rollouts
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.fleet_tables import ThingGroup
from model_delivery_localcloud.store.tables import Device
from model_delivery_localcloud.store.users import Role

MOST_ROWS = 200
MOST_GENERATIONS = 20
_PATH = "/rollouts/{account}/{region}/{id}"
# What each wish does, as its confirmation asks.
QUESTIONS = {
    "pause": "Pause this rollout? Devices that have begun finish; no further one begins.",
    "resume": "Resume this rollout? Further devices begin at once.",
    "approve": "Approve the next stage? Its devices begin at once.",
    "rollback": "Roll back? Every device of this rollout gets again what it had before.",
}


class RolloutPages:
    """What everybody may see of rollouts, and what leads and administrators may ask for."""

    def __init__(self, database: Database, renderer: Renderer, sign_in: SignIn) -> None:
        self._database = database
        self._renderer = renderer
        self._sign_in = sign_in

    def routes(self, route: MakeRoute) -> list[Route]:
        """Return the routes."""
        guarded, leads = self._sign_in.guarded, (Role.LEAD, Role.ADMIN)
        device = "/devices/{account}/{region}/{thing}"
        return [
            route("/rollouts", guarded(self.show_all, *Role), "GET"),
            route(_PATH, guarded(self.show, *Role), "GET"),
            route(f"{_PATH}/wish/{{wish}}", guarded(self.ask, *leads), "GET"),
            route(f"{_PATH}/wish/{{wish}}", guarded(self.wish, *leads), "POST"),
            route(device, guarded(self.device, *leads), "GET"),
        ]

    async def show_all(self, request: Request) -> Response:
        """List the newest rollouts."""
        found = await run_in_threadpool(self._newest)
        return self._renderer.page(request, "rollouts.html", rollouts=found, limit=MOST_ROWS)

    async def show(self, request: Request) -> Response:
        """Show one rollout: stages, devices, timeline, and the buttons."""
        found = await run_in_threadpool(self._find, request)
        if found is None:
            return self._renderer.page(request, "missing.html", status=404)
        may_ask = request.state.user.role in (Role.LEAD, Role.ADMIN)
        return self._renderer.page(
            request, "rollout.html", rollout=found, may_ask=may_ask, limit=MOST_ROWS
        )

    async def ask(self, request: Request) -> Response:
        """Ask whether a person means it."""
        return await self._confirm(request)

    async def wish(self, request: Request) -> Response:
        """Write the wish into the rollout's record, unless that has changed since."""
        if is_too_large(request):
            return await self._confirm(request, "The form is too large.", 413)
        form = await request.form()
        if not valid_csrf(request, form.get("csrf")):
            return await self._confirm(request, "This form was open for too long.", 403)
        try:
            version = int(str(form.get("version", "")))
            await run_in_threadpool(self._wish, request, version)
        except (ValueError, rollouts.Stale) as stale:
            return await self._confirm(request, str(stale), 409)
        return RedirectResponse(_address(request), status_code=303)

    async def device(self, request: Request) -> Response:
        """Show one device: facts, groups, deployments, what it runs, what it was sent."""
        found = await run_in_threadpool(self._device, request.path_params)
        if found is None:
            return self._renderer.page(request, "missing.html", status=404)
        return self._renderer.page(request, "device.html", **found)

    async def _confirm(
        self, request: Request, problem: str | None = None, status: int = 200
    ) -> Response:
        wanted = request.path_params["wish"]
        found = await run_in_threadpool(self._find, request)
        if found is None or wanted not in QUESTIONS:
            return self._renderer.page(request, "missing.html", status=404)
        if problem is None and wanted not in found.wishes:
            problem, status = f"The rollout is {found.facts.get('state', '?')} now.", 409
        return self._renderer.page(
            request, "rollout_wish.html", status=status, rollout=found, wish=wanted,
            question=QUESTIONS[wanted], problem=problem, address=_address(request),
        )  # fmt: skip

    def _newest(self) -> list[ThingGroup]:
        with self._database.read() as session:
            return rollouts.newest(session, MOST_ROWS)

    def _find(self, request: Request) -> rollouts.Rollout | None:
        key = request.path_params
        if "\0" in "".join(key.values()):  # no text to Postgres
            return None
        with self._database.read() as session:
            return rollouts.find(session, (key["account"], key["region"]), key["id"])

    def _wish(self, request: Request, version: int) -> None:
        key, person = request.path_params, request.state.user.name
        scope = (key["account"], key["region"])
        with self._database.write() as session:
            rollouts.wish(session, scope, key["id"], key["wish"], version, person)

    def _device(self, key: dict[str, str]) -> dict[str, Any] | None:
        if "\0" in "".join(key.values()):
            return None
        with self._database.read() as session:
            device: Device | None = devices.find_device(session, **key)
            if device is None:
                return None
            return {
                "device": device,
                "healthy": devices.is_healthy(device),
                "groups": rollouts.device_groups(session, device),
                "deployments": devices.list_executions(session, device)[:MOST_ROWS],
                "states": devices.newest_states(session, device, MOST_GENERATIONS),
            }


def _address(request: Request) -> str:
    key = request.path_params
    return f"/rollouts/{key['account']}/{key['region']}/{key['id']}"
