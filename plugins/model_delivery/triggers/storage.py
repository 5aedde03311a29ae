"""Start a run when a new object lands in a bucket."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from model_delivery.exceptions import InvalidRequestError

SEEN_KEY = "model_delivery.seen"
MAX_BACKOFF_SECONDS = 300.0


class NewObjectTrigger(BaseEventTrigger):
    """Fires when objects below an S3 prefix are new or changed, once for each listing.

    What was there when the watch began fires nothing. What was seen is kept in the asset's state
    store, so an object that lands while the triggerer is down fires when it is up again; one that
    fired just before a crash may fire a second time, never not at all. The event's payload lists
    the `uploads`, each with `uri`, `etag` and `modified`, which tell one upload from another.

    :param uri: `s3://bucket/prefix/`.
    :param suffix: only objects whose key ends so. (default: all)
    :param poll_interval: time between two listings, in seconds. (default: 10)
    :param aws_conn_id: connection of the bucket.
    """

    def __init__(
        self,
        *,
        uri: str,
        suffix: str = "",
        poll_interval: float = 10.0,
        aws_conn_id: str = "aws_default",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not uri.startswith("s3://"):
            raise InvalidRequestError(f"{uri!r} cannot be watched: give an s3:// prefix")
        self.uri = uri
        self.suffix = suffix
        self.poll_interval = poll_interval
        self.aws_conn_id = aws_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every argument."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "uri": self.uri,
                "suffix": self.suffix,
                "poll_interval": self.poll_interval,
                "aws_conn_id": self.aws_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """List, compare with what was seen, fire for each difference, remember."""
        seen = await self._load()
        async with aclosing(self._listings()) as listings:
            async for found in listings:
                uploads = [] if seen is None else self._new(found, seen)
                if uploads:
                    yield TriggerEvent({"uploads": uploads})
                etags = {uri: upload["etag"] for uri, upload in found.items()}
                if etags != seen:
                    await self._save(etags)
                seen = etags

    def _new(self, found: dict[str, dict[str, str]], seen: dict[str, str]) -> list[dict[str, str]]:
        new = [uri for uri in sorted(found) if seen.get(uri) != found[uri]["etag"]]
        for uri in new:
            self.log.info("New object %s", uri)
        return [{"uri": uri, **found[uri]} for uri in new]

    async def _listings(self) -> AsyncGenerator[dict[str, dict[str, str]], None]:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        failures = 0
        while True:
            try:
                # One client for the whole watch: making one keeps the event loop busy for 0.1 s.
                hook = await asyncio.to_thread(S3Hook, aws_conn_id=self.aws_conn_id)
                async with await hook.get_async_conn() as client:
                    while True:
                        yield await self._list(client)
                        failures = 0
                        await asyncio.sleep(self.poll_interval)
            except Exception as error:  # a store that is away must not end the watch
                failures += 1
                self.log.warning("Cannot list %s (%d): %s", self.uri, failures, error)
                await asyncio.sleep(
                    min(MAX_BACKOFF_SECONDS, self.poll_interval * 2 ** min(failures, 10))
                )

    async def _list(self, client: Any) -> dict[str, dict[str, str]]:
        bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        found = {}
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        async for page in pages:
            for each in page.get("Contents", []):
                if each["Key"].endswith(self.suffix):
                    found[f"s3://{bucket}/{each['Key']}"] = {
                        "etag": each["ETag"].strip('"'),
                        "modified": each["LastModified"].isoformat(),
                    }
        return found

    async def _load(self) -> dict[str, str] | None:
        if self.asset_state_store is None:
            return None
        seen = await self.asset_state_store.aget(SEEN_KEY)
        return {u: str(e) for u, e in seen.items()} if isinstance(seen, dict) else None

    async def _save(self, etags: dict[str, str]) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(SEEN_KEY, dict(etags))
