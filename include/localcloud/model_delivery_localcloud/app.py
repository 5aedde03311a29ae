"""The ASGI application: AWS services, device wire, portal and health on one port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from model_delivery_localcloud.edge.releases import ReleaseKey
from model_delivery_localcloud.edge.wire import DeviceWire
from model_delivery_localcloud.errors import ServiceError, SignatureRefused, StoreError
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.portal.grants import Grants
from model_delivery_localcloud.portal.pages import Portal
from model_delivery_localcloud.protocol.gateway import Gateway, checked_handlers
from model_delivery_localcloud.protocol.messages import Request
from model_delivery_localcloud.services import greengrass, iot, sts
from model_delivery_localcloud.services.human_loops import HumanLoops
from model_delivery_localcloud.services.human_review import FlowDefinitions
from model_delivery_localcloud.services.human_task_uis import HumanTaskUis
from model_delivery_localcloud.services.personalize import Personalize
from model_delivery_localcloud.services.sagemaker import SageMaker
from model_delivery_localcloud.services.sagemaker_tags import Tags
from model_delivery_localcloud.services.solution_versions import PATH as SOLUTION_VERSIONS
from model_delivery_localcloud.services.solution_versions import read_registration, register
from model_delivery_localcloud.services.workteams import Workteams
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.access_keys import KnownKey, find_access_key
from model_delivery_localcloud.store.database import BUSY, Database, is_busy
from model_delivery_localcloud.store.sealing import Sealer

LARGEST_BODY = 16 * 1024 * 1024
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
TASK_COUNT = "FlowDefinitionTaskCount"


def create_app(settings: Settings) -> Starlette:
    """Return the application over the settings' database and object store.

    Raises StoreError unless the database answers and is migrated.
    """
    database = Database(settings.database_url, settings.database_lock_seconds)
    database.check()
    objects = ObjectStore(settings)
    gateway = _gateway(settings, database, objects)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        database.close()

    return Starlette(
        routes=[
            Route("/healthz", partial(_healthz, database)),
            *DeviceWire(database, objects, ReleaseKey(settings.home)).routes(),
            *Portal(settings, database).routes(),
            Route(
                SOLUTION_VERSIONS,
                partial(_register, gateway, database, objects),
                methods=["POST"],
            ),
            Route("/{path:path}", partial(_aws, gateway), methods=METHODS),
        ],
        lifespan=lifespan,
        exception_handlers={OperationalError: _busy},
    )


def _gateway(settings: Settings, database: Database, objects: ObjectStore) -> Gateway:
    sealer = Sealer(settings.secret_key)

    def find_key(access_key_id: str) -> KnownKey | None:
        with database.read() as session:
            return find_access_key(session, sealer, access_key_id)

    services = {
        "sts": sts.handlers(),
        "sagemaker": {
            **SageMaker(database).handlers(),
            **FlowDefinitions(database).handlers(),
            **HumanTaskUis(database, Grants(settings).public_media).handlers(),
            **Workteams(database).handlers(),
            **Tags(database).handlers(),
        },
        "personalize": Personalize(database).handlers(),
        "greengrassv2": greengrass.handlers(database, objects),
        "iot": iot.handlers(database),
        "sagemaker-a2i-runtime": HumanLoops(database).handlers(),
    }
    maxima = {TASK_COUNT: settings.review_most_tasks}
    return Gateway(checked_handlers(services), find_key, maxima)


def _busy(_request: HttpRequest, error: Exception) -> HttpResponse:
    if not is_busy(error):
        raise error
    return JSONResponse({"problem": BUSY}, 503, {"Retry-After": "1"})


async def _healthz(database: Database, _request: HttpRequest) -> HttpResponse:
    try:
        await run_in_threadpool(database.ping)
    except StoreError as error:
        return JSONResponse({"status": "failing", "error": str(error)}, status_code=503)
    return JSONResponse({"status": "ok"})


async def _aws(gateway: Gateway, request: HttpRequest) -> HttpResponse:
    wire = await _wire(request)
    if wire is None:
        return _too_large()
    answer = await run_in_threadpool(gateway.handle, wire)
    return HttpResponse(answer.body, answer.status, dict(answer.headers))


async def _register(
    gateway: Gateway, database: Database, objects: ObjectStore, request: HttpRequest
) -> HttpResponse:
    wire = await _wire(request)
    if wire is None:
        return _too_large()

    def answer() -> HttpResponse:
        try:
            caller = gateway.caller(wire, "personalize")
            arn = register(database, objects, caller, read_registration(wire.body))
        except SignatureRefused as refused:
            return JSONResponse({"message": str(refused)}, 403)
        except ServiceError as refused:
            return JSONResponse(
                {"message": refused.message}, refused.status, {"x-amzn-ErrorType": refused.code}
            )
        return JSONResponse({"solutionVersionArn": arn}, 201)

    return await run_in_threadpool(answer)


def _too_large() -> HttpResponse:
    return JSONResponse(
        {"message": f"The body is larger than {LARGEST_BODY} bytes."},
        status_code=413,
        headers={"x-amzn-ErrorType": "RequestEntityTooLargeException"},
    )


async def _wire(request: HttpRequest) -> Request | None:
    """Return the request as the protocol layer reads it, None where its body is too large."""
    body = await _read_body(request)
    if body is None:
        return None
    return Request(
        method=request.method,
        raw_path=request.scope["raw_path"].decode("ascii", "replace"),
        query=request.scope["query_string"].decode("ascii", "replace"),
        headers=tuple(
            (key.decode(), value.decode("latin-1")) for key, value in request.headers.raw
        ),
        body=body,
    )


async def _read_body(request: HttpRequest) -> bytes | None:
    chunks = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
