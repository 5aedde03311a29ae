"""The process: the agent's loop and its inference endpoint on one event loop."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from model_delivery_edge.agent import Agent
from model_delivery_edge.cloud import CloudClient
from model_delivery_edge.errors import SettingsError
from model_delivery_edge.home import Home
from model_delivery_edge.memory import limit_arenas
from model_delivery_edge.oip import build_app
from model_delivery_edge.runtime import Runtime

log = logging.getLogger(__name__)
_DRAIN_SECONDS = 5
_ANY_HOST = frozenset({"0.0.0.0", "::", ""})


@dataclass(frozen=True)
class Settings:
    """How an agent runs.

    :param thing: thing name of the device
    :param cloud: base URL of the cloud
    :param home: folder for all the device keeps
    :param host: address to listen on
    :param port: port to listen on; 0 takes a free one
    :param api_token: bearer token of the endpoint; None: the one in ``home``, made if absent
    :param registration_token: called for the one-time token if the device is not registered
    :param release_key: to pin, in base64 (default: what the registration gives)
    """

    thing: str
    cloud: str
    home: Path
    host: str
    port: int
    api_token: str | None
    registration_token: Callable[[], str]
    release_key: str | None = None


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; then finish the requests that run and return.

    :raises EdgeError: what keeps the agent from running
    """
    limit_arenas()
    # uvicorn raises the signal that stopped it once more when it is done: to us, it has been said.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with Home(settings.home, settings.thing) as home, _listen(settings) as listener:
        asyncio.run(_serve(settings, home, listener))


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
            "choose another --host or --port"
        ) from error
    return listener


async def _serve(settings: Settings, home: Home, listener: socket.socket) -> None:
    runtime = Runtime()
    app = build_app(runtime, settings.thing, settings.api_token or home.api_token())
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = uvicorn.Server(config)
    port = listener.getsockname()[1]
    endpoint = None if settings.host in _ANY_HOST else f"http://{settings.host}:{port}"
    log.info("thing %s listens on %s:%d", settings.thing, settings.host, port)
    async with CloudClient(settings.cloud, settings.thing) as cloud:
        agent = Agent(
            home,
            cloud,
            runtime,
            endpoint=endpoint,
            registration_token=settings.registration_token,
            release_key=settings.release_key,
        )
        try:
            await _run_both(agent, server, listener)
        finally:
            runtime.close()


async def _run_both(agent: Agent, server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until the server was told to stop, or the agent cannot go on."""
    following = asyncio.create_task(agent.run())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.wait([following, serving], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    following.cancel()
    try:
        await following
    except asyncio.CancelledError:
        log.info("stopped")
