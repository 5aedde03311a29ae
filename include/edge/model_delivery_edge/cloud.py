"""The device's side of the wire: registration, desired state, artifacts, reports."""

import platform
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx

from model_delivery_edge import __version__
from model_delivery_edge.errors import CloudRefused, CloudUnavailable, ProtocolError
from model_delivery_edge.wire import PROTOCOL_HEADER, PROTOCOL_VERSION, Desired, Report

POLL_SECONDS = 25  # the wire allows 30; proxies like to cut at 30
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_POLL_TIMEOUT = httpx.Timeout(POLL_SECONDS + 15.0, connect=10.0)
_LATER = frozenset({408, 425, 429})


class ReleaseKey(NamedTuple):
    """The key with which a cloud signs releases, and how many rotations led to it."""

    public: str
    number: int


class CloudClient:
    """Calls the cloud for one thing.

    :param url: the cloud's base URL
    :param thing: the device's thing name
    :param key: the device key, None before registration
    """

    def __init__(self, url: str, thing: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.thing = thing
        self._key = key
        headers = {PROTOCOL_HEADER: PROTOCOL_VERSION, "User-Agent": f"{__package__}/{__version__}"}
        self._http = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=_TIMEOUT)
        self._device = f"/edge/v1/devices/{quote(thing, safe='')}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def use_key(self, key: str) -> None:
        """Authenticate with this device key from now on."""
        self._key = key

    async def register(self, token: str, public_key: str) -> tuple[str, ReleaseKey | None]:
        """Trade a one-time token for the device key and the cloud's release key.

        :param public_key: the device's own, with which it signs

        :raises CloudRefused: a token that is wrong or was used (403)
        :raises CloudUnavailable: worth another try
        """
        body = {
            "token": token,
            "architecture": platform.machine(),
            "platform": platform.system().lower(),
            "agent_version": __version__,
            "public_key": public_key,
        }
        response = await self._call("POST", f"{self._device}/registration", json=body)
        answer = _json(response)
        key = answer.get("device_key")
        if not isinstance(key, str) or not key:
            raise ProtocolError(f"{self.url}: the registration's answer has no device_key")
        public, number = answer.get("release_key"), answer.get("release_key_number", 0)
        if not isinstance(public, str):
            return key, None
        return key, ReleaseKey(public, int(number))

    async def desired(self, after: int) -> Desired | None:
        """Wait up to POLL_SECONDS for a desired state newer than a generation; None if none came.

        :raises ProtocolError: an answer that is no desired state
        """
        params = {"after": after, "wait": POLL_SECONDS}
        response = await self._call(
            "GET", f"{self._device}/desired", params=params, timeout=_POLL_TIMEOUT
        )
        if response.status_code == httpx.codes.NO_CONTENT:
            return None
        return Desired.from_json(_json(response))

    async def report(self, report: Report) -> None:
        """Say what this device does and runs."""
        await self._call("PUT", f"{self._device}/reported", json=report.to_json())

    @asynccontextmanager
    async def artifact(
        self, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Open an artifact as a stream; 416 is handed back, other errors are raised.

        :param path: as the desired state gave it
        :param headers: Range and If-Range
        """
        sent = {**self._authorization(), "Accept-Encoding": "identity", **headers}
        try:
            async with self._http.stream("GET", path, headers=sent) as response:
                if response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    await self._require_success(response)
                yield response
        except httpx.TransportError as error:
            raise self._unavailable(error) from error

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = await self._http.request(
                method, path, headers=self._authorization(), **options
            )
        except httpx.TransportError as error:
            raise self._unavailable(error) from error
        await self._require_success(response)
        return response

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _unavailable(self, error: httpx.TransportError) -> CloudUnavailable:
        why = str(error) or type(error).__name__
        return CloudUnavailable(f"{self.url} is not reachable ({why})")

    async def _require_success(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        await response.aread()
        message = f"{self.url} answered {status}: {_reason(response)}"
        if response.is_server_error or status in _LATER:
            raise CloudUnavailable(message)
        if status == httpx.codes.UPGRADE_REQUIRED:
            message += f"; this agent speaks protocol {PROTOCOL_VERSION}: update it or the cloud"
        raise CloudRefused(message, status)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        data = response.json()
    except ValueError as error:
        raise ProtocolError(
            f"{response.url.host} answered {response.url.path} with no JSON; "
            "check that --cloud is the cloud's own URL"
        ) from error
    if not isinstance(data, dict):
        raise ProtocolError(f"{response.url.host} answered {response.url.path} with no object")
    return data


def _reason(response: httpx.Response) -> str:
    """Its `error` in one short line; never the request, which carries the key."""
    try:
        text = str(_json(response).get("error", response.reason_phrase))
    except ProtocolError:
        text = response.reason_phrase
    return " ".join(text.split())[:300]
