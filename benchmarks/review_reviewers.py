"""Simulated reviewers in a process of their own: `python -m benchmarks.review_reviewers PLAN`.

PLAN is a JSON file: `url`, `flow`, `people` (cookie and token of each), `seconds`, `rate` (answers
a second of all of them together; 0 is as fast as the answers come), `warm` (seconds before those
that count, in which the server makes its first of everything). Each reviewer posts an answer, which
brings the next item; the time of that call is what is measured. The calls are plain HTTP/1.1
over a socket, so that the clients leave the processor to the server.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class Reviewer:
    """One reviewer over one kept-alive connection."""

    def __init__(self, plan: dict[str, Any], person: dict[str, str]) -> None:
        self._host = urlsplit(plan["url"])
        self._flow = plan["flow"]
        self._person = person
        self.times: list[float] = []
        self.problems: list[str] = []

    async def work(self, start: float, until: float, pause: float) -> None:
        """Answer until the time is over, one answer each `pause` seconds; count from `start`."""
        self._reader, self._writer = await asyncio.open_connection(
            self._host.hostname, self._host.port
        )
        items = (await self._call("next", {}))["items"]
        due = time.monotonic() + random.random() * pause
        while items and time.monotonic() < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += pause
            answer = {"digit": {"label": str(random.randrange(10))}}
            began = time.monotonic()
            body = {"loop": items[0]["loop"], "answer": answer, "spent_ms": 10, "next": True}
            items = (await self._call("answer", body)).get("items", [])
            if began >= start:
                self.times.append(time.monotonic() - began)
        self._writer.close()

    async def _call(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(value).encode()
        self._writer.write(
            f"POST /review/api/{self._flow}/{name} HTTP/1.1\r\nHost: {self._host.netloc}\r\n"
            f"Cookie: {self._person['cookie']}\r\nX-CSRF-Token: {self._person['csrf']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next(
            int(line.partition(":")[2])
            for line in head.split("\r\n")
            if line.lower().startswith("content-length")
        )
        answer = json.loads(await self._reader.readexactly(length))
        if " 200 " not in head.split("\r\n", 1)[0]:
            self.problems.append(str(answer))
        return dict(answer)


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Run all reviewers and return the time of each answer."""
    reviewers = [Reviewer(plan, person) for person in plan["people"]]
    pause = len(reviewers) / plan["rate"] if plan["rate"] else 0.0
    began = time.monotonic() + plan["warm"]
    until = began + plan["seconds"]
    await asyncio.gather(*(each.work(began, until, pause) for each in reviewers))
    return {
        "seconds": time.monotonic() - began,
        "times": [each for reviewer in reviewers for each in reviewer.times],
        "problems": [each for reviewer in reviewers for each in reviewer.problems],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))))
