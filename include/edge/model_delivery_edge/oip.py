"""The Open Inference Protocol v2 over REST.

Health is open to everyone on the network the agent listens on; the rest takes the bearer token.
Source: the protocol's REST specification and its ``/v2`` routes.
"""

from model_delivery_engine.tensors import TensorSpec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from model_delivery_edge import __version__
from model_delivery_edge.bearer import BearerAuthentication
from model_delivery_edge.errors import RequestError
from model_delivery_edge.oip_binary import LENGTH_HEADER
from model_delivery_edge.oip_request import answer
from model_delivery_edge.runtime import Runtime, Served

SERVER_NAME = "model-delivery-edge"
PLATFORM = "onnx_onnxv1"
MAX_BODY_BYTES = 64 * 1024 * 1024
HEALTH = frozenset({"/v2/health/live", "/v2/health/ready"})


class OpenInference:
    """The protocol's endpoints.

    :param runtime: what answers
    :param thing: the device's registered name, told with the server's metadata
    :param max_body_bytes: requests above are refused with 413 (default: 64 MiB)
    """

    def __init__(self, runtime: Runtime, thing: str, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._runtime = runtime
        self._thing = thing
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[BaseRoute]:
        """Return the routes, each model route also with a version."""
        routes: list[BaseRoute] = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(model, self._model),
                Route(f"{model}/ready", self._model_ready),
                Route(f"{model}/infer", self._infer, methods=["POST"]),
            ]
        return routes

    async def _server(self, request: Request) -> Response:
        facts = {"name": SERVER_NAME, "version": __version__, "extensions": ["binary_tensor_data"]}
        return JSONResponse({**facts, "thing": self._thing})

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self._runtime.ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        served = self._find(request)
        return JSONResponse(
            {
                "name": served.name,
                "versions": [served.version],
                "platform": PLATFORM,
                "inputs": [_metadata(spec) for spec in served.model.inputs],
                "outputs": [_metadata(spec) for spec in served.model.outputs],
                "digest": served.digest,
                "model_digest": served.manifest.model_digest,
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        served = self._find(request)
        return JSONResponse({"name": served.name, "ready": True})

    async def _infer(self, request: Request) -> Response:
        served = self._find(request)
        _check_encoding(request)
        body = await self._body(request)
        length = request.headers.get(LENGTH_HEADER)
        reply = await self._runtime.run(lambda: answer(served, body, length))
        if reply.json_length is None:
            return Response(reply.content, media_type="application/json")
        headers = {LENGTH_HEADER: str(reply.json_length)}
        return Response(reply.content, media_type="application/octet-stream", headers=headers)

    def _find(self, request: Request) -> Served:
        params = request.path_params
        return self._runtime.find(params["model"], params.get("version"))

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for block in request.stream():
            body += block
            if len(body) > self._max_body_bytes:
                limit = self._max_body_bytes
                raise RequestError(f"the request is over {limit} bytes; send fewer samples", 413)
        return bytes(body)


def build_app(
    runtime: Runtime, thing: str, token: str, max_body_bytes: int = MAX_BODY_BYTES
) -> Starlette:
    """Return the inference endpoint as an ASGI application.

    :param thing: the device's registered name
    :param token: the bearer token that all but health takes
    """
    return Starlette(
        routes=OpenInference(runtime, thing, max_body_bytes).routes(),
        middleware=[Middleware(BearerAuthentication, token=token, public=HEALTH)],
        exception_handlers={
            RequestError: _refused,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )


def _metadata(spec: TensorSpec) -> dict[str, object]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RequestError(f"Content-Encoding {encoding!r} is not served; send it plain", 415)


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RequestError) else 500
    return JSONResponse({"error": str(error)}, status_code=status)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    detail = error.detail if isinstance(error, HTTPException) else "error"
    message = f"{request.method} {request.url.path}: {detail}"
    return JSONResponse({"error": message}, status_code=status, headers=headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _broken(request: Request, error: Exception) -> Response:
    """Answer as the protocol has it; what went wrong is in the log."""
    message = "the agent failed on this request; its log says why"
    return JSONResponse({"error": message}, status_code=500)
