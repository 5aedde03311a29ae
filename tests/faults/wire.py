"""A wire that breaks: forwards bytes to a port, cuts connections at random, slows or stops them."""

import asyncio
import random
import threading
from dataclasses import dataclass, field
from typing import Any

from stack.ports import LOOPBACK

BLOCK = 64 * 1024
_Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class BadWire:
    """Forwards connections to `upstream`, a port on loopback.

    :param cut_share: part of the connections that are reset, after some bytes of both directions.
    :param cut_bytes: most of those bytes.
    :param bytes_a_second: speed of each direction of a connection; None for as fast as it goes.
    :param down: whether every connection is refused, also those that are open.
    """

    upstream: int
    cut_share: float = 0.0
    cut_bytes: int = 400_000
    bytes_a_second: float | None = None
    seed: int = 1
    down: bool = False
    cuts: int = 0
    connections: int = 0
    port: int = 0
    _chance: random.Random = field(init=False)

    def __enter__(self) -> "BadWire":
        self._chance = random.Random(self.seed)
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        start = asyncio.start_server(self._connected, LOOPBACK, 0, backlog=256)
        server = self._loop.run_until_complete(start)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(_ended(tasks))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.down:
            writer.transport.abort()
            return
        left = None
        if self._chance.random() < self.cut_share:
            left = self._chance.randint(1, self.cut_bytes)
        try:
            theirs, to_them = await asyncio.open_connection(LOOPBACK, self.upstream)
            try:
                await self._forward((reader, to_them), (theirs, writer), [left])
            finally:
                to_them.transport.abort()
        except OSError:
            pass  # a store that is not there, or that hangs up: so do we
        finally:
            writer.transport.abort()

    async def _forward(self, there: _Way, back: _Way, left: list[int | None]) -> None:
        tasks = [asyncio.ensure_future(self._pump(*way, left)) for way in (there, back)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int | None]
    ) -> None:
        while data := await reader.read(BLOCK):
            if self.down:
                return
            if self.bytes_a_second:
                await asyncio.sleep(len(data) / self.bytes_a_second)
            if left[0] is not None:
                left[0] -= len(data)
                if left[0] <= 0:
                    self.cuts += 1
                    return
            writer.write(data)
            await writer.drain()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Let cancelled tasks end, and the connections that they abort be closed."""
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
