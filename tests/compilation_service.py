"""SageMaker's compilation jobs over real HTTP, with the faults that a list and a network can have.

It runs in the test's own event loop, so a test sets a fault between two awaits. Where the service
only has to be right, the tests use localcloud.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from aiohttp import web

TARGET = "SageMaker."
PAGE = 100


@dataclass
class Job:
    """A job; times are seconds since 1970 by the service's own clock."""

    status: str
    created: float
    modified: float


@dataclass
class Fault:
    """What is answered in place of the truth: a status with an error code, a reset or a stall.

    :param heard: the request is served, and only its answer is lost.
    """

    status: int = 400
    code: str = ""
    reset: bool = False
    stall: float = 0.0
    heard: bool = False


THROTTLED = Fault(400, "ThrottlingException")
BROKEN = Fault(500, "InternalServerException")
RESET = Fault(reset=True)


@dataclass
class CompilationService:
    """The service, its faults, and what it was asked.

    :param skew: how far its clock is ahead of ours, in seconds.
    """

    skew: float = 0.0
    jobs: dict[str, Job] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    described: Counter[str] = field(default_factory=Counter)
    stopped: Counter[str] = field(default_factory=Counter)
    # Answered in turn, whatever the operation; then by operation until taken away; then by job.
    next_faults: deque[Fault] = field(default_factory=deque)
    faults: dict[str, Fault] = field(default_factory=dict)
    job_faults: dict[str, Fault] = field(default_factory=dict)
    # How the list lies: jobs it does not show, and what it says of others.
    hidden: set[str] = field(default_factory=set)
    stale: dict[str, Job] = field(default_factory=dict)
    between_pages: Callable[[], None] | None = None
    page: int = PAGE
    connections: set[Any] = field(default_factory=set)
    url: str = ""

    def now(self) -> float:
        """Return the time by the service's clock."""
        return time.time() + self.skew

    def add(self, *names: str, status: str = "INPROGRESS", age: float = 0.0) -> None:
        """Make jobs that were created and last changed `age` seconds ago."""
        for name in names:
            self.jobs[name] = Job(status, self.now() - age, self.now() - age)

    def end(self, *names: str, status: str = "COMPLETED") -> None:
        """End jobs now."""
        for name in names:
            self.jobs[name].status = status
            self.jobs[name].modified = self.now()

    def requests(self) -> int:
        """Return how often it was asked anything."""
        return self.asked.total()

    async def start(self) -> web.AppRunner:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_post("/", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        operation = request.headers["X-Amz-Target"].removeprefix(TARGET)
        parameters = json.loads(await request.read())
        self.connections.add(request.transport)
        self.asked[operation] += 1
        fault = self._fault(operation, parameters)
        if fault is None:
            return self._serve(operation, parameters)
        await asyncio.sleep(fault.stall)
        answer = self._json({"__type": fault.code, "message": "by the test"}, fault.status)
        if fault.heard:
            self._serve(operation, parameters)
        if fault.reset:
            assert request.transport is not None
            request.transport.abort()
        return answer

    def _serve(self, operation: str, parameters: dict[str, Any]) -> web.Response:
        name = parameters.get("CompilationJobName")
        if operation == "ListCompilationJobs":
            return self._json(self._list(parameters))
        if name not in self.jobs:
            return self._json({"__type": "ResourceNotFound", "message": f"no {name}"}, 400)
        if operation == "StopCompilationJob":
            self.stopped[name] += 1
            self.jobs[name].status = "STOPPING"
            return self._json({})
        self.described[name] += 1
        return self._json(self._entry(name, self.jobs[name]))

    def _fault(self, operation: str, parameters: dict[str, Any]) -> Fault | None:
        if self.next_faults:
            return self.next_faults.popleft()
        if operation in self.faults:
            return self.faults[operation]
        return self.job_faults.get(parameters.get("CompilationJobName", ""))

    def _list(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Answer a page by offset: what moves between two pages is shown twice or not at all."""
        since = parameters.get("LastModifiedTimeAfter", float("-inf"))
        rows = [
            (name, self.stale.get(name, job))
            for name, job in self.jobs.items()
            if name not in self.hidden
        ]
        rows = [row for row in rows if row[1].modified > since]
        newest_first = parameters.get("SortOrder") == "Descending"
        rows.sort(key=lambda row: (row[1].created, row[0]), reverse=newest_first)
        offset = int(parameters.get("NextToken", 0))
        size = min(self.page, parameters.get("MaxResults", 10))
        answer: dict[str, Any] = {
            "CompilationJobSummaries": [self._entry(*row) for row in rows[offset : offset + size]]
        }
        if offset + size < len(rows):
            answer["NextToken"] = str(offset + size)
        if self.between_pages:
            self.between_pages()
        return answer

    def _entry(self, name: str, job: Job) -> dict[str, Any]:
        return {
            "CompilationJobName": name,
            "CompilationJobArn": f"arn:aws:sagemaker:us-east-1:000000000000:compilation-job/{name}",
            "CompilationJobStatus": job.status,
            "CreationTime": job.created,
            "LastModifiedTime": job.modified,
        }

    def _json(self, body: dict[str, Any], status: int = 200) -> web.Response:
        return web.Response(
            body=json.dumps(body).encode(),
            status=status,
            content_type="application/x-amz-json-1.1",
            headers={"Date": formatdate(self.now(), usegmt=True)},
        )

    def airflow_connection(self) -> dict[str, Any]:
        """Return the connection that leads here."""
        return {
            "conn_type": "aws",
            "login": "AKIAPOLLTEST00000001",
            "password": "the-secret-of-the-poll-tests",
            "extra": {
                "region_name": "us-east-1",
                "service_config": {"sagemaker": {"endpoint_url": self.url}},
            },
        }
