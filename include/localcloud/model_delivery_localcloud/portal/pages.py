"""The pages and their routes."""

import json
from typing import Any

from model_delivery_engine.errors import EngineError
from model_delivery_engine.manifest import Manifest
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.portal.charts import compile_charts
from model_delivery_localcloud.portal.grants import FRAME, MEDIA, Grants
from model_delivery_localcloud.portal.media import READ_SECONDS, Media
from model_delivery_localcloud.portal.rendering import FOLDER, Renderer
from model_delivery_localcloud.portal.review_admin import AdminPage
from model_delivery_localcloud.portal.review_api import ReviewApi
from model_delivery_localcloud.portal.review_desk import Desk
from model_delivery_localcloud.portal.review_items import Items
from model_delivery_localcloud.portal.review_lead import LeadPages
from model_delivery_localcloud.portal.review_pages import ReviewPages
from model_delivery_localcloud.portal.rollouts import RolloutPages
from model_delivery_localcloud.portal.sessions import Endpoint, SignIn, session_middleware
from model_delivery_localcloud.portal.template_frame import TemplateFrame
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import compilation, devices, personalize
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import progress_of
from model_delivery_localcloud.store.tables import BatchInferenceJob, CompilationJob, Device
from model_delivery_localcloud.store.users import Role

MOST_ROWS = 200
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
STATIC = {path.name: TYPES[path.suffix] for path in (FOLDER / "static").iterdir()}


class Portal:
    """The pages over the store; each but sign-in and the style sheet needs a signed-in person."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._renderer = Renderer()
        self._sign_in = SignIn(database, self._renderer)
        self._middleware = [session_middleware(settings)]
        grants = Grants(settings)
        items = Items(database, grants)
        desk = Desk(settings, database, items)
        self._review = ReviewApi(desk, self._sign_in)
        self._review_pages = ReviewPages(self._renderer, self._sign_in, desk)
        self._lead = LeadPages(database, self._renderer, self._sign_in, desk)
        self._admin = AdminPage(database, self._renderer, self._sign_in)
        self._rollouts = RolloutPages(database, self._renderer, self._sign_in)
        objects = ObjectStore(settings, read_seconds=READ_SECONDS, attempts=1)
        self._media = Media(objects, grants)
        self._frame = TemplateFrame(database, items, grants)

    def routes(self) -> list[Route]:
        """Return the portal's routes."""
        guarded = self._sign_in.guarded
        return [
            self._route("/", guarded(self.home, *Role)),
            self._route("/sign-in", self._sign_in.show),
            self._route("/sign-in", self._sign_in.submit, "POST"),
            self._route("/sign-out", self._sign_in.leave, "POST"),
            self._route("/jobs/compilation", guarded(self.jobs)),
            self._route("/jobs/compilation/{account}/{region}/{name}", guarded(self.job)),
            self._route("/jobs/batch-inference", guarded(self.batch_jobs)),
            self._route("/jobs/batch-inference/{account}/{region}/{name}", guarded(self.batch_job)),
            self._route("/devices", guarded(self.devices)),
            *self._review.routes(self._route),
            *self._review_pages.routes(self._route),
            *self._lead.routes(self._route),
            *self._admin.routes(self._route),
            *self._rollouts.routes(self._route),
            # These two carry their right in their path: a template's frame has no session.
            Route(f"{MEDIA}/{{token}}", self._media.show, methods=["GET"]),
            Route(f"{FRAME}/{{token}}", self._frame.show, methods=["GET"]),
            Route("/static/{name}", _static, methods=["GET"]),
        ]

    async def home(self, request: Request) -> Response:
        """Send people to what they are here for."""
        admin = request.state.user.role == Role.ADMIN
        return RedirectResponse("/jobs/compilation" if admin else "/review", status_code=303)

    async def jobs(self, request: Request) -> Response:
        """List the newest compilation jobs of all accounts and regions."""
        rows = await run_in_threadpool(self._newest_jobs)
        return self._renderer.page(request, "jobs.html", jobs=rows, limit=MOST_ROWS)

    async def job(self, request: Request) -> Response:
        """Show one compilation job: state, progress, times, reason, log, figures."""
        found = await run_in_threadpool(self._find_job, request.path_params)
        if found is None:
            return self._renderer.page(request, "missing.html", status=404)
        job, progress = found
        running = job.status not in compilation.TERMINAL
        manifest = _manifest(job)
        charts = compile_charts(manifest) if manifest else {}
        return self._renderer.page(
            request,
            "job.html",
            job=job,
            progress=progress,
            running=running,
            manifest=manifest,
            charts=charts,
        )

    async def batch_jobs(self, request: Request) -> Response:
        """List the newest batch inference jobs of all accounts and regions."""
        rows = await run_in_threadpool(self._newest_batch_jobs)
        return self._renderer.page(request, "batch_jobs.html", jobs=rows, limit=MOST_ROWS)

    async def batch_job(self, request: Request) -> Response:
        """Show one batch inference job: state, progress, counts, times, reason, log."""
        found = await run_in_threadpool(self._find_batch_job, request.path_params)
        if found is None:
            return self._renderer.page(request, "missing.html", status=404)
        job, progress = found
        running = job.status not in personalize.TERMINAL
        return self._renderer.page(
            request, "batch_job.html", job=job, progress=progress, running=running
        )

    async def devices(self, request: Request) -> Response:
        """List the devices: health, what they run, what they shall run."""
        rows = await run_in_threadpool(self._devices)
        return self._renderer.page(request, "devices.html", devices=rows)

    def _route(self, path: str, page: Endpoint, method: str = "GET") -> Route:
        return Route(path, page, methods=[method], middleware=self._middleware)

    def _newest_jobs(self) -> list[CompilationJob]:
        newest = select(CompilationJob).order_by(CompilationJob.created_at.desc()).limit(MOST_ROWS)
        with self._database.read() as session:
            return list(session.scalars(newest))

    def _find_job(self, key: dict[str, Any]) -> tuple[CompilationJob, str] | None:
        with self._database.read() as session:
            scope = key["account"], key["region"]
            found = compilation.find_compilation_job(session, *scope, key["name"])
            return None if found is None else (found, progress_of(session, found.job_id))

    def _newest_batch_jobs(self) -> list[BatchInferenceJob]:
        table = BatchInferenceJob
        newest = select(table).order_by(table.created_at.desc()).limit(MOST_ROWS)
        with self._database.read() as session:
            return list(session.scalars(newest))

    def _find_batch_job(self, key: dict[str, Any]) -> tuple[BatchInferenceJob, str] | None:
        with self._database.read() as session:
            scope = key["account"], key["region"]
            found = personalize.find_batch_job(session, scope, key["name"])
            return None if found is None else (found, progress_of(session, found.job_id))

    def _devices(self) -> list[dict[str, Any]]:
        everyone = select(Device).order_by(Device.account, Device.region, Device.thing)
        with self._database.read() as session:
            return [
                {
                    "device": device,
                    "healthy": devices.is_healthy(device),
                    "desired": devices.newest_desired(session, device),
                }
                for device in session.scalars(everyone.limit(MOST_ROWS))
            ]


def _manifest(job: CompilationJob) -> dict[str, Any] | None:
    """Return a job's manifest with what releases after it added, None where it is of no use."""
    if job.manifest is None:
        return None
    try:
        manifest = Manifest.from_json(json.dumps(job.manifest))
    except EngineError:
        return None
    return dict(json.loads(manifest.to_json()))


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response("no such file", 404, media_type="text/plain")
    # A page's modules must be those of the page: a browser asks again each time.
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return FileResponse(FOLDER / "static" / name, media_type=STATIC[name], headers=headers)
