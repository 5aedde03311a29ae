"""Clients of one region each, whose calls may go wrong, and tries whose connection leads there."""

import logging
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import (
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
)
from model_delivery.hooks.compilation import CompilationJobs
from model_delivery.jobs.attempt import Attempt
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.service import JobService
from model_delivery.jobs.submission import Submission

from tests.unit.provider.conftest import SageMaker, StateStore, make_task_instance, refusal

REQUEST = {"RoleArn": "arn:x", "OutputConfig": {"S3OutputLocation": "s3://b/o"}}
DEPLOYMENT = {"targetArn": "arn:aws:iot:us-east-1:000000000000:thing/edge-1", "components": {}}
Fault = Callable[[Callable[..., Any], dict[str, Any]], Any]


def lost(call: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Do what is asked, and lose the answer."""
    call(**given)
    raise ReadTimeoutError(endpoint_url="http://a")


def cut_by_proxy(call: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Do what is asked, as a proxy that hands a call on and goes away."""
    call(**given)
    raise ProxyConnectionError(proxy_url="http://p")


def stalled(_call: Callable[..., Any], _given: dict[str, Any]) -> Any:
    raise ReadTimeoutError(endpoint_url="http://a")


def closed(_call: Callable[..., Any], _given: dict[str, Any]) -> Any:
    raise EndpointConnectionError(endpoint_url="http://a")


def unknown(_call: Callable[..., Any], _given: dict[str, Any]) -> Any:
    raise refusal("ResourceNotFound", "DescribeCompilationJob")


class Region:
    """A client of one region; the first calls of an operation may go wrong."""

    def __init__(self, service: Any, region: str, **faults: Iterable[Fault]) -> None:
        self.meta = SimpleNamespace(endpoint_url=f"http://{region}", region_name=region)
        self._service = service
        self._faults = {operation: iter(each) for operation, each in faults.items()}

    def __getattr__(self, operation: str) -> Any:
        call = getattr(self._service, operation)

        def run(**given: Any) -> Any:
            fault = next(self._faults.get(operation, iter(())), None)
            return call(**given) if fault is None else fault(call, given)

        return run


def attempt(
    store: StateStore,
    regions: Iterable[Any],
    service: JobService | None = None,
    *,
    outage: float = 60.0,
    last: bool = False,
    **ti: Any,
) -> Attempt:
    """Return a try whose connection leads to one region after the other, as it is looked up."""
    opened = iter(regions)
    client = JobClient(
        service or CompilationJobs(),
        lambda: SimpleNamespace(conn=next(opened), aws_conn_id="aws"),
        outage,
    )
    log: Any = logging.getLogger("task")
    return Attempt(client, Submission(client, store, make_task_instance(**ti)), log, lambda _: last)


def submit(made: Attempt, request: Any = REQUEST) -> None:
    with made.running():
        made.submit(request)


def forever(service: Any, region: str, **faults: Fault) -> Iterator[Region]:
    """Yield clients of a region of which these operations never work."""

    def again(fault: Fault) -> Iterator[Fault]:
        return iter(lambda: fault, None)

    while True:
        yield Region(service, region, **{name: again(each) for name, each in faults.items()})


def statuses(service: SageMaker) -> list[str]:
    return [job["CompilationJobStatus"] for job in service.jobs.values()]
