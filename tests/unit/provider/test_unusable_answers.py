"""Answers that are none: cut off in the head or the body, or a proxy's page under status 200."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from model_delivery.hooks.compilation import CompilationJobHook, CompilationJobs
from model_delivery.jobs import rate
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.registry import registry
from model_delivery.jobs.submission import Submission
from model_delivery.jobs.waits import Bounds

from tests.unit.provider.test_job_submission import COMPILATION

HTML = b"<html>maintenance</html>"
SETTINGS = {"aws_conn_id": "cut", "region_name": None, "verify": None, "botocore_config": None}
REQUEST = {
    **COMPILATION, "InputConfig": {**COMPILATION["InputConfig"], "DataInputConfig": "{}"},
}  # fmt: skip


class CuttingService:
    """Compilation jobs; one operation's answers are damaged, so many times."""

    def __init__(self, how: str, operation: str, times: int) -> None:
        self.how, self.operation, self.left = how, operation, times
        self.jobs: dict[str, dict[str, Any]] = {}
        self.looks = self.stops = 0

    def answer(self, operation: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if operation == "ListCompilationJobs":
            return 200, {"CompilationJobSummaries": []}
        name = given["CompilationJobName"]
        if operation == "CreateCompilationJob":
            if name in self.jobs:
                return 400, {"__type": "ResourceInUse", "message": name}
            arn = f"arn:aws:sagemaker:us-east-1:000000000000:compilation-job/{name}"
            self.jobs[name] = {**given, "CompilationJobArn": arn}
        if operation == "StopCompilationJob":
            self.stops += 1
        self.looks += operation == "DescribeCompilationJob"
        status = "COMPLETED" if self.looks > 4 else "INPROGRESS"
        return 200, {**self.jobs[name], "CompilationJobStatus": status}

    def handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["content-length"])))
                operation = self.headers["X-Amz-Target"].split(".")[1]
                code, answer = service.answer(operation, given)
                body = json.dumps(answer).encode()
                if operation == service.operation and service.left:
                    service.left -= 1
                    if service.how != "html":
                        self.close_connection = True
                        self.wfile.write(cut(service.how, body))
                        return
                    body = HTML
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def cut(how: str, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\n"
    whole = head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    return head[:-20] if how == "head" else whole[: -len(body) // 2]


@pytest.fixture
def served(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CuttingService]:
    service = CuttingService(*request.param)
    server = ThreadingHTTPServer(("127.0.0.1", 0), service.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = {
        "conn_type": "aws", "login": "AKIACUTCUTCUTCUTCUT0", "password": "s" * 40,
        "extra": {
            "region_name": "us-east-1",
            "endpoint_url": f"http://127.0.0.1:{server.server_address[1]}",
        },
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_CUT", json.dumps(connection))
    monkeypatch.setattr(rate, "FIRST_BACKOFF_SECONDS", 0.01)
    yield service
    server.shutdown()
    server.server_close()


async def closed() -> None:
    """Return when the last wait's client is closed."""
    while registry().open_clients:
        await asyncio.sleep(0.01)


HOW = ["html", "head", "body"]


def attempt(state_store: Any, task_instance: Any) -> Attempt:
    client = JobClient(CompilationJobs(), lambda: CompilationJobHook(aws_conn_id="cut"))
    submission = Submission(client, state_store, task_instance(try_number=3))
    return Attempt(client, submission, logging.getLogger(), lambda _error: True)


@pytest.mark.parametrize("served", [(how, "CreateCompilationJob", 1) for how in HOW], indirect=True)
def test_a_job_whose_making_was_not_answered_is_ours(
    served: CuttingService, state_store: Any, task_instance: Any
) -> None:
    trying = attempt(state_store, task_instance)
    with trying.running():
        assert trying.submit(REQUEST).handle["name"] in served.jobs
    assert (len(served.jobs), served.stops) == (1, 0)


@pytest.mark.parametrize(
    "served", [(how, "DescribeCompilationJob", 3) for how in HOW], indirect=True
)
def test_a_worker_asks_again(served: CuttingService, state_store: Any, task_instance: Any) -> None:
    trying = attempt(state_store, task_instance)
    with trying.running():
        description = trying.wait(trying.submit(REQUEST), 0.01, None)
    assert (description.status, served.stops, served.left) == ("COMPLETED", 0, 0)


@pytest.mark.parametrize(
    "served",
    [(how, "DescribeCompilationJob", 3) for how in HOW] + [("html", "ListCompilationJobs", 30)],
    indirect=True,
)
async def test_a_triggerer_asks_again(served: CuttingService) -> None:
    names = [f"job-{number}" for number in range(12 if "List" in served.operation else 1)]
    for name in names:
        served.answer("CreateCompilationJob", {"CompilationJobName": name})
    path, bounds = "model_delivery.hooks.compilation.CompilationJobs", Bounds(0.05, 0.05, 60)
    waits = (registry().wait(path, SETTINGS, {"name": name}, bounds) for name in names)
    async with asyncio.timeout(20):
        assert set(await asyncio.gather(*waits)) == {"COMPLETED"}
        await closed()


@pytest.mark.parametrize("served", [("html", "DescribeCompilationJob", 10_000)], indirect=True)
async def test_a_page_for_minutes_is_an_outage(served: CuttingService) -> None:
    served.answer("CreateCompilationJob", {"CompilationJobName": "job"})
    path, bounds = "model_delivery.hooks.compilation.CompilationJobs", Bounds(0.05, 0.05, 0.5)
    with pytest.raises(Exception, match="no usable answer for"):
        async with asyncio.timeout(20):
            await registry().wait(path, SETTINGS, {"name": "job"}, bounds)
    await closed()
