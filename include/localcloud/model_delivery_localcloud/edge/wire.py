"""The routes of the device wire: registration, desired state, artifacts, reported state."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.edge.messages import (
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    SPOKEN,
    THING_NAME,
    WireError,
    part_details,
    read_poll,
    read_registration,
    read_report,
)
from model_delivery_localcloud.edge.ranges import UnsatisfiableRangeError, parse_range
from model_delivery_localcloud.edge.releases import ReleaseKey, is_signed
from model_delivery_localcloud.edge.waiting import DesiredBoard, generations_reader
from model_delivery_localcloud.errors import ObjectError
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.store import deployments, devices
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.tables import Device, DeviceArtifact

LARGEST_BODY = 64 * 1024

Endpoint = Callable[[Request], Awaitable[Response]]


class DeviceWire:
    """Serves devices over the store and streams artifacts from the object store."""

    def __init__(self, database: Database, objects: ObjectStore, key: ReleaseKey) -> None:
        self._database = database
        self._objects = objects
        self._key = key
        self._board = DesiredBoard(generations_reader(database))

    def routes(self) -> list[Route]:
        """Return the routes below `/edge/v1`."""
        thing = "/edge/v1/devices/{thing}"
        return [
            Route(f"{thing}/registration", _guarded(self.register), methods=["POST"]),
            Route(f"{thing}/desired", _guarded(self.desired), methods=["GET"]),
            Route(f"{thing}/reported", _guarded(self.reported), methods=["PUT"]),
            Route("/edge/v1/artifacts/{digest}", _guarded(self.artifact), methods=["GET"]),
        ]

    async def register(self, request: Request) -> Response:
        """Trade a one-time token for the device's key."""
        thing = _thing(request)
        token, facts = read_registration(await _body(request))

        def spend() -> str | None:
            with self._database.write() as session:
                return devices.register(session, thing, token, facts)

        key = await run_in_threadpool(spend)
        if key is None:
            raise WireError(
                403,
                f"the registration token for {thing} is wrong, used or expired; make a new one "
                "with model-delivery-localcloud device-token",
            )
        answer: dict[str, Any] = {"device_key": key}
        if _speaks_2(request):
            answer |= {"release_key": self._key.public, "release_key_number": self._key.number}
        return JSONResponse(answer, status_code=201)

    async def desired(self, request: Request) -> Response:
        """Answer the desired state once its generation exceeds `after`, 204 if it does not."""
        after, seconds = read_poll(request.query_params)
        device = await self._authenticate(request)
        if device.generation <= after and seconds:
            await self._board.wait((device.account, device.region, device.thing), after, seconds)
        state = await run_in_threadpool(self._newest, device, after, _speaks_2(request))
        return Response(status_code=204) if state is None else JSONResponse(state)

    async def reported(self, request: Request) -> Response:
        """Take what the device reports; it is its heartbeat too."""
        device = await self._authenticate(request)
        body, details = await _body(request), None
        if _speaks_2(request):
            body, details = part_details(body)
        report = read_report(body)
        if details is not None:
            _check_profiles(device, details["profiles"])

        def record() -> None:
            with self._database.write() as session:
                key = (device.account, device.region, device.thing)
                locked = devices.lock_device(session, *key)
                if locked is None or locked.key_hash is None:
                    raise WireError(401, "the device was deleted; register it again")
                deployments.record_report(session, locked, report)
                locked.details = details

        await run_in_threadpool(record)
        return Response(status_code=204)

    async def artifact(self, request: Request) -> Response:
        """Stream an artifact that was deployed to this device, or a range of it."""
        device = await self._authenticate(request)
        digest = request.path_params["digest"]
        found = await run_in_threadpool(self._find_artifact, device, digest)
        if found is None:
            raise WireError(404, f"no artifact {digest} was deployed to {device.thing}")
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        # A resumed download goes on only in the very bytes it began with.
        resumable = request.headers.get("if-range") in (None, headers["ETag"])
        try:
            part = parse_range(request.headers.get("range") if resumable else None, found.size)
        except UnsatisfiableRangeError:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{found.size}"})
        return await self._stream(found, part, headers)

    async def _stream(
        self, found: DeviceArtifact, part: tuple[int, int] | None, headers: dict[str, str]
    ) -> Response:
        def open_object() -> Any:
            return self._objects.read(found.uri, etag=found.etag, byte_range=part)

        try:
            chunks = await run_in_threadpool(open_object)
        except ObjectError as error:
            raise WireError(502, f"the artifact cannot be read: {error}") from error
        length = found.size if part is None else part[1] - part[0] + 1
        headers["Content-Length"] = str(length)
        if part is not None:
            headers["Content-Range"] = f"bytes {part[0]}-{part[1]}/{found.size}"
        return StreamingResponse(
            iterate_in_threadpool(chunks),
            status_code=200 if part is None else 206,
            headers=headers,
            media_type="application/gzip",
        )

    async def _authenticate(self, request: Request) -> Device:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        device = None
        if scheme.lower() == "bearer" and key:
            device = await run_in_threadpool(self._find_device, key.strip())
        if device is None:
            raise WireError(401, "the device key is missing or wrong; register the device again")
        if request.path_params.get("thing", device.thing) != device.thing:
            raise WireError(403, f"this key belongs to another device than {_thing(request)}")
        return device

    def _find_device(self, key: str) -> Device | None:
        with self._database.read() as session:
            return devices.find_device_by_key(session, key)

    def _find_artifact(self, device: Device, digest: str) -> DeviceArtifact | None:
        with self._database.read() as session:
            return devices.find_artifact(session, device, digest)

    def _newest(self, device: Device, after: int, signed: bool) -> dict[str, Any] | None:
        with self._database.read() as session:
            key = (device.account, device.region, device.thing)
            current = devices.find_device(session, *key)
            if current is None or current.generation <= after:
                return None
            state = devices.newest_desired(session, current)
            deadline = deployments.deadline_of(session, state) if state and signed else None
        assert state is not None, "every generation above 0 has a desired state"
        answer: dict[str, Any] = {
            "generation": state.generation,
            "deployment_id": state.deployment_id,
            "components": [_component(item) for item in state.components],
        }
        if signed:
            for component in answer["components"]:
                component["release"] = self._release(device.thing, state.generation, component)
            retry = any(item["configuration"].get("retry") is True for item in state.components)
            answer |= {"keys": self._key.keys, "deadline_seconds": deadline, "retry": retry}
        return answer

    def _release(self, thing: str, number: int, component: dict[str, Any]) -> dict[str, Any]:
        statement = {
            "type": "release",
            "thing": thing,
            "component": component["name"],
            "version": component["version"],
            "digest": component["artifact"]["digest"],
            "size": component["artifact"]["size"],
            "number": number,
        }
        return {"number": number, "signature": self._key.sign(statement)}


def _component(item: dict[str, Any]) -> dict[str, Any]:
    artifact = item["artifact"]
    return {
        "name": item["name"],
        "version": item["version"],
        "configuration": item["configuration"],
        "artifact": {**artifact, "path": f"/edge/v1/artifacts/{artifact['digest']}"},
    }


def _guarded(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        version = request.headers.get(PROTOCOL_HEADER)
        if version not in SPOKEN:
            return JSONResponse(
                {"error": f"{PROTOCOL_HEADER} must be 1 or 2, got {version}"},
                status_code=426,
                headers={PROTOCOL_HEADER: PROTOCOL_VERSION},
            )
        try:
            return await endpoint(request)
        except WireError as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)

    return guarded


def _speaks_2(request: Request) -> bool:
    return request.headers.get(PROTOCOL_HEADER) == PROTOCOL_VERSION


def _check_profiles(device: Device, profiles: list[dict[str, Any]]) -> None:
    for profile in profiles:
        public = device.public_key
        # A device that registered before it had a key says the same, and nobody can prove it.
        if public and not is_signed(public, profile["record"], profile["signature"]):
            raise WireError(400, "a profile is not signed with this device's key; register again")


def _thing(request: Request) -> str:
    thing = str(request.path_params["thing"])
    if not THING_NAME.fullmatch(thing):
        raise WireError(400, f"{thing!r} is not a thing name: {THING_NAME.pattern}")
    return thing


async def _body(request: Request) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise WireError(413, f"the body is larger than {LARGEST_BODY} bytes")
    try:
        return strict_json.loads(body)
    except ValueError:
        raise WireError(400, "the body is not JSON") from None
