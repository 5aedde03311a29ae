"""The nameless service in a thread, and a task of ours over it, without Airflow's processes."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.submission import Submission

from tests.nameless.provider import NamelessHook, NamelessJobOperator, NamelessJobs
from tests.nameless.server import Handler, Jobs, Server
from tests.unit.provider.conftest import StateStore, make_task_instance

REQUEST = {"model": "m", "sources": ["a", "b"], "seconds": 600.0, "outcome": "SUCCEEDED"}


@dataclass
class Nameless:
    """The service's own jobs, and new tries of one task over it."""

    jobs: Jobs
    store: StateStore

    def client(self, outage: float = 2.0) -> JobClient:
        def hook() -> NamelessHook:
            return NamelessHook("nameless", None, None, None)

        return JobClient(NamelessJobs(), hook, outage)

    def submission(self, **ti: Any) -> Submission:
        return Submission(self.client(), self.store, make_task_instance(**ti))

    def attempt(self, *, last: bool = False, **ti: Any) -> Attempt:
        operator = self.operator()
        client = self.client()
        submission = Submission(client, self.store, make_task_instance(**ti))
        return Attempt(client, submission, operator.log, lambda _error: last)

    def operator(self, **changes: Any) -> NamelessJobOperator:
        given = {"deferrable": False, **REQUEST, **changes}
        return NamelessJobOperator(task_id="t", aws_conn_id="nameless", poll_interval=0.1, **given)

    def context(self, **ti: Any) -> Any:
        return {"ti": make_task_instance(**ti), "task_state_store": self.store}

    @property
    def all(self) -> list[dict[str, Any]]:
        return list(self.jobs.listed(0, 0)["jobs"])


@contextmanager
def nameless_service(folder: Path, patch: pytest.MonkeyPatch, skew: float) -> Iterator[Nameless]:
    """Serve on a free port, as Airflow's connection `nameless`."""
    jobs = Jobs(folder / "jobs.db", skew)
    server = Server(("127.0.0.1", 0), type("Served", (Handler,), {"jobs": jobs}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    host, port = server.server_address[:2]
    connection = {"conn_type": "generic", "host": str(host), "port": port}
    patch.setenv("AIRFLOW_CONN_NAMELESS", json.dumps(connection))
    patch.setattr(NamelessJobs, "settle_seconds", 0.0)
    opened: list[Any] = []
    connect = NamelessHook.connect

    def connected(hook: NamelessHook) -> Any:
        opened.append(connect(hook))
        return opened[-1]

    patch.setattr(NamelessHook, "connect", connected)
    try:
        yield Nameless(jobs, StateStore())
    finally:
        for http in opened:
            http.close()
        server.shutdown()
        server.server_close()
        thread.join()
