"""A proxy between Airflow and a service: it hurts the calls that a test picks out.

It knows the process at the other end of each connection, so that a test can SIGKILL a task exactly
between two of its calls, without a hook in production code.
"""

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stack.ports import LOOPBACK

Moment = Literal["before", "after"]


@dataclass
class Exchange:
    """One call as the proxy sees it.

    :param operation: AWS's operation, or method and path of a REST call, ids left out.
    :param pid: process that called.
    :param moment: before the service gets the call, or after it answered and before the caller
        gets to know.
    """

    operation: str
    pid: int
    body: bytes
    path: str
    moment: Moment = "before"
    answer: bytes = b""


# What a rule may do to a call: nothing (None), replace the answer, or cut the connection.
Fault = Callable[[Exchange], "Effect | None"]


@dataclass(frozen=True)
class Effect:
    """What happens to the call: a pause, then an answer instead of the service's, or a reset."""

    seconds: float = 0.0
    answer: bytes | None = None
    reset: bool = False
    release: threading.Event | None = None


def refusal(status: int, code: str) -> bytes:
    """Return an error as AWS's JSON protocols write it."""
    body = json.dumps({"__type": code, "code": code, "message": f"{code} by the proxy"}).encode()
    head = f"HTTP/1.1 {status} by-the-proxy\r\nContent-Type: application/x-amz-json-1.1\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def page() -> bytes:
    """Return a page under status 200, as a load balancer may answer for a service that is away."""
    body = b"<html><body>We will be back soon.</body></html>"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def end(pid: int, how: signal.Signals = signal.SIGKILL) -> bool:
    """Send one process a signal, by its id; False where it is gone."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True


@dataclass
class FaultProxy:
    """Forwards everything to `upstream` (a port on loopback), except what a rule hurts.

    :param rule: asked for each call, before and after the service has it.
    """

    upstream: int
    rule: Fault = field(default=lambda exchange: None)
    port: int = 0
    calls: list[Exchange] = field(default_factory=list)

    def __enter__(self) -> "FaultProxy":
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        start = asyncio.start_server(self._connected, LOOPBACK, self.port, backlog=256)
        server = self._loop.run_until_complete(start)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request, body = await _message(reader)
        ends = [writer.get_extra_info(end)[1] for end in ("peername", "sockname")]
        line = request.split(b"\r\n", 1)[0].decode()
        pid = await asyncio.to_thread(_owner, *ends)
        exchange = Exchange(_operation(line, request), pid, body, line.split(" ")[1])
        self.calls.append(exchange)
        answer = await self._ruled(exchange)
        if answer is None:
            exchange.answer = await self._forwarded(request + body)
            exchange.moment = "after"
            answer = await self._ruled(exchange)
            if answer is None:
                answer = exchange.answer
        if not answer:  # a reset
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _ruled(self, exchange: Exchange) -> bytes | None:
        effect = await asyncio.to_thread(self.rule, exchange)
        if effect is None:
            return None
        if effect.release is not None:
            await asyncio.to_thread(effect.release.wait, 120)
        await asyncio.sleep(effect.seconds)
        return b"" if effect.reset else effect.answer

    async def _forwarded(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.upstream)
        try:
            writer.write(request)
            await writer.drain()
            head, body = await _message(reader)
            return head + body
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return head, body


def _operation(line: str, head: bytes) -> str:
    target = re.search(rb"(?i)\r\nx-amz-target: *\w+\.(\w+)", head)
    if target:
        return target[1].decode()
    method, path, _version = line.split(" ")
    parts = path.partition("?")[0].strip("/").split("/")
    return f"{method} /{parts[0]}" + ("/{id}" if len(parts) > 1 else "")


def _owner(port: int, ours: int) -> int:
    """Return the process at the other end of a loopback connection to us, 0 if it is gone."""
    ends = [f"0100007F:{port:04X}", f"0100007F:{ours:04X}"]
    inode = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == ends:
            inode = f"socket:[{fields[9]}]"
    owners = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    # A task is the newest of those that share what its ancestors had open.
    for pid in sorted(owners, reverse=True):
        if inode and _holds(pid, inode):
            return pid
    return 0


def _holds(pid: int, inode: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}") == inode for name in os.listdir(folder))
    except OSError:
        return False


def contains(exchange: Exchange, text: str) -> bool:
    """Tell whether a call or its answer mentions something."""
    return any(text.encode() in part for part in (exchange.body, exchange.answer)) or (
        text in exchange.path
    )


def facts(exchange: Exchange) -> dict[str, Any]:
    """Return the JSON of an answer, empty where there is none."""
    try:
        return dict(json.loads(exchange.answer.partition(b"\r\n\r\n")[2]))
    except ValueError:
        return {}
