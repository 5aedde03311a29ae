"""Fetching an artifact over a link that may be cut at any time.

What arrived is kept and the rest is asked for (RFC 9110: Range, with If-Range so that a changed
artifact starts over); tries have no end, since a slow link is no reason to give up. What is given
up on: an artifact that does not fit on the disk, that the cloud refuses, or that has another
digest than announced.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from model_delivery_engine.digest import digest_file

from model_delivery_edge.artifacts import MIB, RESERVE_BYTES, Artifacts
from model_delivery_edge.background import finish_in_thread
from model_delivery_edge.backoff import Backoff
from model_delivery_edge.cloud import CloudClient
from model_delivery_edge.durable import write_durably
from model_delivery_edge.errors import CloudRefused, CloudUnavailable, DownloadError
from model_delivery_edge.wire import Artifact

log = logging.getLogger(__name__)

_BLOCK = MIB
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Download:
    """One artifact on its way to the device.

    :param cloud: where it comes from
    :param artifacts: where it goes
    :param artifact: what it is
    :param backoff: waits between tries (default: from 0.5 s up to 60 s)
    """

    def __init__(
        self,
        cloud: CloudClient,
        artifacts: Artifacts,
        artifact: Artifact,
        backoff: Backoff | None = None,
    ) -> None:
        self._cloud = cloud
        self._artifacts = artifacts
        self._artifact = artifact
        self._backoff = backoff or Backoff()
        self._part = artifacts.part(artifact.digest)
        self._etag = artifacts.etag(artifact.digest)

    async def run(self) -> Path:
        """Return the artifact's path once it is complete, verified and synced.

        :raises DownloadError: no space, or other bytes than announced
        :raises CloudRefused: the cloud will not hand it out
        """
        path = self._artifacts.path(self._artifact.digest)
        if path.exists():
            return path
        resumed = self._have() > 0
        await self._complete()
        if not await self._is_intact() and resumed:
            # The part may have been damaged by the power cut that interrupted it: once more, whole.
            log.warning("artifact %s: its resumed download is damaged", self._artifact.digest)
            self._artifacts.discard(self._artifact.digest)
            await self._complete()
        if not await self._is_intact():
            self._artifacts.discard(self._artifact.digest)
            raise DownloadError(
                f"artifact {self._artifact.digest} arrived with another digest: it was corrupted "
                "or replaced; create the component version again and deploy that"
            )
        return await finish_in_thread(lambda: self._artifacts.adopt(self._artifact.digest))

    async def _is_intact(self) -> bool:
        digest = await finish_in_thread(lambda: digest_file(self._part))
        return digest == self._artifact.digest

    async def _complete(self) -> None:
        while self._have() != self._artifact.size:
            self._check_space()
            before = self._have()
            try:
                await self._fetch()
            except CloudUnavailable as error:
                if self._have() > before:
                    self._backoff.reset()
                seconds = self._backoff.next()
                log.warning(
                    "artifact %s: %d of %d bytes: %s; next try in %.1f s",
                    self._artifact.digest, self._have(), self._artifact.size, error, seconds,
                )  # fmt: skip
                await asyncio.sleep(seconds)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _check_space(self) -> None:
        """Refuse what would fill the disk: the rest, and the whole again to be expanded."""
        needed = self._artifact.size - self._have() + self._artifact.size + RESERVE_BYTES
        if (free := self._artifacts.free_bytes()) < needed:
            raise DownloadError(
                f"artifact {self._artifact.digest} needs {needed // MIB} MiB of disk and "
                f"{free // MIB} MiB are free; free some space and deploy again"
            )

    async def _fetch(self) -> None:
        """Fetch all that is missing in one request."""
        offset, headers = self._resume()
        async with self._cloud.artifact(self._artifact.path, headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._artifacts.discard(self._artifact.digest)
                return
            start, total = self._extent(response, offset)
            self._check_total(total)
            if start == 0:
                await self._begin(response.headers.get("ETag", ""))
            await self._append(response.aiter_bytes(_BLOCK), start)

    def _resume(self) -> tuple[int, dict[str, str]]:
        """Return where to go on, and the headers that ask for it: only what a strong ETag names."""
        etag = self._etag.read_text() if self._etag.exists() else ""
        offset = self._have()
        if not offset or not etag.startswith('"') or offset > self._artifact.size:
            return 0, {}
        return offset, {"Range": f"bytes={offset}-", "If-Range": etag}

    def _extent(self, response: httpx.Response, offset: int) -> tuple[int, int | None]:
        """Return where the answer starts, and the size of the whole artifact if it says so."""
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            length = response.headers.get("Content-Length")
            return 0, int(length) if length else None
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset:
            raise CloudRefused(f"artifact {self._artifact.digest}: not the range asked for", 206)
        return offset, int(found[3])

    def _check_total(self, total: int | None) -> None:
        if total is not None and total != self._artifact.size:
            raise DownloadError(
                f"artifact {self._artifact.digest} has {total} bytes at the cloud and "
                f"{self._artifact.size} in the deployment; create the component version again"
            )

    async def _begin(self, etag: str) -> None:
        self._artifacts.discard(self._artifact.digest)
        await finish_in_thread(lambda: write_durably(self._etag, etag.encode()))
        self._part.touch()

    async def _append(self, blocks: AsyncIterator[bytes], start: int) -> None:
        size = start
        with self._part.open("r+b") as stream:
            stream.seek(start)
            async for block in blocks:
                size += len(block)
                self._check_total(size if size > self._artifact.size else None)
                await finish_in_thread(lambda data=block: stream.write(data))  # type: ignore[misc]
        if size < self._artifact.size:
            raise CloudUnavailable(f"the answer ended after {size} bytes")
