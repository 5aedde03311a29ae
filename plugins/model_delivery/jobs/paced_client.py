"""A triggerer's client of one service: every request counts against the account's rate."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from model_delivery.jobs.faults import is_throttling
from model_delivery.jobs.rate import TokenBucket
from model_delivery.jobs.service import Call, CalledService

CALL_SECONDS = 30.0


class PacedClient:
    """An open client of a service, and the token bucket of its account.

    :param client: an open aiobotocore client, or one alike.
    """

    def __init__(self, service: CalledService, client: Any, bucket: TokenBucket) -> None:
        self._service = service
        self._client = client
        self._bucket = bucket

    async def ask(self, call: Call, seconds: float | None = None) -> Mapping[str, Any]:
        """Send one request when the rate allows it.

        :param seconds: how long to wait for its answer. (default: 30)
        :raises TimeoutError: when there is none by then.
        """
        await self._bucket.take()
        try:
            async with asyncio.timeout(CALL_SECONDS if seconds is None else seconds):
                answer: Mapping[str, Any]
                answer = await getattr(self._client, call.operation)(**call.parameters)
        except Exception as error:
            if is_throttling(error):
                self._bucket.throttled()
            absent = self._service.answer_if_missing(call, error)
            if absent is None:
                raise
            answer = absent
        self._bucket.answered()
        return answer

    async def answers(
        self, calls: Iterable[Call], seconds: float | None = None
    ) -> list[Mapping[str, Any]]:
        """Return the answers to calls, page by page."""
        answers = []
        for call in calls:
            page: Call | None = call
            while page is not None:
                answers.append(await self.ask(page, seconds))
                page = page.after(answers[-1])
        return answers
