"""Reads a service's list, page by page, from a watermark where the service takes one."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from model_delivery.exceptions import JobError
from model_delivery.jobs.service import Call, JobList, ListedJob

# A change may show in the list this much after its own time.
OVERLAP_SECONDS = 10.0

Ask = Callable[[Call], Awaitable[Mapping[str, Any]]]
# Takes the jobs of a page; true means that no further page is needed.
Hear = Callable[[Sequence[ListedJob]], Awaitable[bool]]


class ListReader:
    """The reads of one scope's list.

    The watermark is the newest of the service's own times, less an overlap and the time that the
    read took: our clock is never compared with the service's.
    """

    def __init__(self, job_list: JobList, scope: str) -> None:
        self._list = job_list
        self._scope = scope
        self._watermark: datetime | None = None

    async def changes(self, ask: Ask, hear: Hear) -> None:
        """Read what changed since the last time: all pages, or all jobs without a watermark."""
        if self._list.takes_watermark and self._watermark is None:
            # Only for its times: what changes from here on is what the next reads are about.
            await self.newest(ask, hear, most_pages=1)
        else:
            await self._read(ask, hear, self._watermark, None)

    async def newest(self, ask: Ask, hear: Hear, most_pages: int) -> None:
        """Read up to so many pages whatever the watermark, the newest jobs first."""
        await self._read(ask, hear, None, most_pages)

    async def _read(
        self, ask: Ask, hear: Hear, since: datetime | None, most_pages: int | None
    ) -> None:
        started = time.monotonic()
        newest: datetime | None = None
        call = self._list.call(self._scope, since)
        tokens: set[str] = set()
        while True:
            response = await ask(call)
            jobs = self._list.read(response)
            newest = _newest(newest, jobs, response)
            enough = await hear(jobs)
            token = self._list.next_token(response)
            if token is None or enough or len(tokens) + 1 == most_pages:
                break
            if token in tokens:
                raise JobError(f"{call.operation} answered the same page token twice")
            tokens.add(token)
            parameters = {**call.parameters, self._list.token_parameter: token}
            call = Call(call.operation, parameters)
        self._advance(newest, since, time.monotonic() - started)

    def _advance(self, newest: datetime | None, since: datetime | None, took: float) -> None:
        if newest is None or (since is None and self._watermark is not None):
            return
        watermark = newest - timedelta(seconds=OVERLAP_SECONDS + took)
        if self._watermark is None or watermark > self._watermark:
            self._watermark = watermark


def _newest(
    newest: datetime | None, jobs: Sequence[ListedJob], response: Mapping[str, Any]
) -> datetime | None:
    times = [job.modified for job in jobs if job.modified is not None]
    if newest is not None:
        times.append(newest)
    if not times:
        return None
    # One entry with a time to come would hide every later change: the service's own clock is
    # the limit.
    now = _service_time(response)
    return min(max(times), now) if now else max(times)


def _service_time(response: Mapping[str, Any]) -> datetime | None:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
