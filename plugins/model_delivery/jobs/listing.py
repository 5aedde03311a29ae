"""Reads a service's list, page by page, from a watermark where the service takes one."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from model_delivery.jobs.faults import reading
from model_delivery.jobs.service import Call, JobList, ListedJob

# A change may show in the list this much after its own time; also covers pages that shift.
OVERLAP_SECONDS = 5.0
# A list that is behind: this often, what changed in so much time is read once more.
BEHIND_SECONDS = 60.0

Ask = Callable[[Call], Awaitable[Mapping[str, Any]]]
# Takes the jobs of a page; true means that no further page is needed.
Hear = Callable[[Sequence[ListedJob]], Awaitable[bool]]


class ListReader:
    """The reads of one scope's list.

    The watermark is the service's own time when the last complete read began, less an overlap.
    Our clock is never compared with the service's: a change that we see at some moment says that
    the service's clock has come at least so far, and from there only the time that passes counts.
    """

    def __init__(self, job_list: JobList, scope: str) -> None:
        self._list = job_list
        self._scope = scope
        self._watermark: datetime | None = None
        # The service's time at a moment of our monotonic clock.
        self._clock: tuple[datetime, float] | None = None
        self._read_at = 0.0
        self._reread_at = time.monotonic()

    async def changes(self, ask: Ask, hear: Hear, most_pages: int) -> bool:
        """Read what changed since the last time, or all jobs without a watermark.

        :returns: whether up to so many pages told all of it.
        """
        if self._list.takes_watermark and self._watermark is None:
            # Only for its times: what changes from here on is what the next reads are about.
            await self.newest(ask, hear, most_pages=1)
            return True
        told = await self._read(ask, hear, self._watermark, most_pages)
        if told and self._watermark and time.monotonic() - self._reread_at >= BEHIND_SECONDS:
            # Twice as far back, so that each change is looked for at least this long.
            since = self._watermark - timedelta(seconds=2 * BEHIND_SECONDS)
            self._reread_at = time.monotonic()
            await self._read(ask, hear, since, most_pages, again=True)
        return told

    async def newest(self, ask: Ask, hear: Hear, most_pages: int) -> None:
        """Read up to so many pages whatever the watermark, the newest jobs first."""
        await self._read(ask, hear, None, most_pages)

    async def _read(
        self,
        ask: Ask,
        hear: Hear,
        since: datetime | None,
        most_pages: int,
        *,
        again: bool = False,
    ) -> bool:
        started = time.monotonic()
        call = self._list.call(self._scope, since)
        pages = 1
        while True:
            response = await ask(call)
            with reading(call.operation):
                jobs = self._list.read(response)
            self._set_clock(jobs, response)
            enough = await hear(jobs)
            following = call.after(response)
            if following is None or enough or pages == most_pages:
                break
            call, pages = following, pages + 1
        if not again and (since is not None or self._watermark is None):
            self._advance(started)
        return following is None or enough

    def _set_clock(self, jobs: Sequence[ListedJob], response: Mapping[str, Any]) -> None:
        times = [job.modified for job in jobs if job.modified is not None]
        now = _service_time(response)
        moment = time.monotonic()
        if now is not None:
            self._step_back(now, moment)
        if not times:
            return
        # One entry with a time to come would hide every later change: the service's own clock is
        # the limit.
        newest = min(max(times), now) if now else max(times)
        if self._clock is None or newest > self._time_at(moment):
            self._clock = (newest, moment)

    def _step_back(self, now: datetime, moment: float) -> None:
        """Follow a clock that was put back, or was one host's that went ahead of the others."""
        if self._clock is None or now > self._time_at(moment) - timedelta(seconds=OVERLAP_SECONDS):
            return
        self._clock = (now, moment)
        if self._watermark is not None:
            since = now - timedelta(seconds=moment - self._read_at + OVERLAP_SECONDS)
            self._watermark = min(self._watermark, since)

    def _time_at(self, moment: float) -> datetime:
        """Return a time that the service's clock had reached at a moment of ours."""
        assert self._clock is not None
        known, at = self._clock
        return known + timedelta(seconds=moment - at)

    def _advance(self, started: float) -> None:
        self._read_at = started
        if self._clock is None:
            return
        watermark = self._time_at(started) - timedelta(seconds=OVERLAP_SECONDS)
        if self._watermark is None or watermark > self._watermark:
            self._watermark = watermark


def _service_time(response: Mapping[str, Any]) -> datetime | None:
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
