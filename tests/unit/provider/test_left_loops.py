"""Human loops that an earlier try started, and a try that ends before it comes to them."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowTaskTimeout, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from botocore.exceptions import ClientError
from model_delivery import a2i
from model_delivery.exceptions import (
    DeliveryRefusedError,
    InvalidRequestError,
    JobRefusedError,
    StorageError,
)
from model_delivery.human_loops import worker as loop_worker
from model_delivery.human_loops import workflow
from model_delivery.human_loops.worker import HumanLoopWorker
from model_delivery.jobs.eviction import Claim
from model_delivery.jobs.kill import Kill
from model_delivery.links import human_review as links
from model_delivery.operators import human_loops
from model_delivery.operators.human_loops import StartHumanLoopsOperator

from tests.unit.provider.conftest import KilledError, StateStore, make_task_instance, refusal

Read = Callable[[str], Iterator[bytes]]
LINES = b"".join(
    json.dumps({"item": str(number), "content": {"number": number}}).encode() + b"\n"
    for number in range(5)
)


class Runtime:
    """Augmented AI's runtime, as far as loops are started and stopped."""

    def __init__(self) -> None:
        self.loops: dict[str, str] = {}
        self.denied: set[str] = set()
        self.kill_at: int | None = None

    def start_human_loop(self, HumanLoopName: str, **_request: Any) -> None:
        self.loops[HumanLoopName] = "InProgress"
        if len(self.loops) == self.kill_at:
            raise KilledError

    def stop_human_loop(self, HumanLoopName: str) -> None:
        if HumanLoopName in self.denied:
            raise refusal("AccessDeniedException", "StopHumanLoop")
        if HumanLoopName not in self.loops:
            raise refusal("ResourceNotFoundException", "StopHumanLoop")
        self.loops[HumanLoopName] = "Stopping"

    def describe_human_loop(self, HumanLoopName: str) -> dict[str, Any]:
        status = self.loops[HumanLoopName]
        return {"HumanLoopStatus": status, "CreationTime": datetime.now(UTC)}


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    made = Runtime()
    monkeypatch.setattr(loop_worker, "service_client", lambda _hook: made)
    hook = SimpleNamespace(aws_conn_id="aws")
    monkeypatch.setattr(StartHumanLoopsOperator, "open_hook", lambda _self: hook)
    monkeypatch.setattr(human_loops, "open_hook", lambda *_settings: None)
    monkeypatch.setattr(workflow, "describe_workflow", lambda *_flow: {})
    monkeypatch.setattr(workflow, "workteam_of", lambda _flow: None)
    monkeypatch.setattr(a2i, "data_attributes", lambda *_given: {})
    monkeypatch.setattr(links, "queue_url", lambda *_flow: "")
    return made


def operator(read: Read) -> StartHumanLoopsOperator:
    made = StartHumanLoopsOperator(
        task_id="t", flow_definition_arn="arn:f", inputs_uri="s3://b/i", manifest_uri="s3://b/m"
    )
    storage = SimpleNamespace(read=read, write_stream=lambda _uri, lines: list(lines))
    vars(made)["_storage"] = lambda: storage
    return made


def context(store: StateStore, **ti: Any) -> Any:
    made = make_task_instance(**ti)
    made.xcom_push = lambda **_pushed: None
    return {"ti": made, "task_state_store": store}


def good(_uri: str) -> Iterator[bytes]:
    yield LINES


def bad_line(_uri: str) -> Iterator[bytes]:
    yield b'{"nothing": 1}\n'


def gone(uri: str) -> Iterator[bytes]:
    raise StorageError(f"{uri} is not there")


@pytest.fixture
def started(runtime: Runtime, state_store: StateStore) -> Runtime:
    """Five loops of a try that was killed as it started the last."""
    runtime.kill_at = len(LINES.splitlines())
    with pytest.raises(KilledError):
        operator(good).execute(context(state_store))
    runtime.kill_at = None
    assert list(runtime.loops.values()) == ["InProgress"] * 5
    return runtime


@pytest.mark.parametrize("read", [gone, bad_line], ids=["inputs gone", "bad line"])
def test_a_try_that_fails_for_good_before_its_first_loop_stops_those_of_the_tries_before(
    started: Runtime, state_store: StateStore, read: Read
) -> None:
    with pytest.raises((StorageError, DeliveryRefusedError)):
        operator(read).execute(context(state_store, try_number=3))
    assert set(started.loops.values()) == {"Stopping"}


@pytest.mark.parametrize("next_try", [{"try_number": 2}, {"try_number": 2, "max_tries": 3}],
                         ids=["retry", "clear"])  # fmt: skip
def test_a_workflow_that_is_refused_stops_them_too(
    started: Runtime, state_store: StateStore, monkeypatch: pytest.MonkeyPatch, next_try: Any
) -> None:
    def deny(*_flow: Any) -> Any:
        raise JobRefusedError("no right to describe it")

    monkeypatch.setattr(workflow, "describe_workflow", deny)
    with pytest.raises(JobRefusedError):
        operator(good).execute(context(state_store, **next_try))
    assert set(started.loops.values()) == {"Stopping"}


def test_a_user_who_ends_the_task_while_its_inputs_are_read_ends_them(
    started: Runtime, state_store: StateStore
) -> None:
    def killing(_uri: str) -> Iterator[bytes]:
        second.on_kill()
        raise StorageError("cut off")

    second = operator(killing)
    with pytest.raises(StorageError):
        second.execute(context(state_store, try_number=2))
    assert set(started.loops.values()) == {"Stopping"}


def test_a_retry_that_will_come_keeps_them(started: Runtime, state_store: StateStore) -> None:
    with pytest.raises(StorageError):
        operator(gone).execute(context(state_store, try_number=2))
    assert set(started.loops.values()) == {"InProgress"}


def test_one_that_cannot_be_stopped_keeps_no_other_open(runtime: Runtime) -> None:
    runtime.loops = {f"loop-{number}": "InProgress" for number in range(200)}
    runtime.denied = {"loop-0"}
    worker = HumanLoopWorker(lambda: None)
    with pytest.raises(ClientError, match="AccessDenied"):
        worker.stop(list(runtime.loops))
    open_still = [name for name, status in runtime.loops.items() if status == "InProgress"]
    assert open_still == ["loop-0"]


@pytest.mark.parametrize(("read", "error"), [(good, None), (bad_line, InvalidRequestError)])
def test_one_of_before_a_clear_that_cannot_be_stopped_fails_no_try(
    started: Runtime, state_store: StateStore, caplog: pytest.LogCaptureFixture,
    read: Read, error: type[Exception] | None,
) -> None:  # fmt: skip
    before = sorted(started.loops)
    started.denied = {before[0]}
    cleared = operator(read)
    with nullcontext() if error is None else pytest.raises(error):
        cleared.execute(context(state_store, try_number=2, max_tries=3))
    assert [started.loops[name] for name in before] == ["InProgress"] + ["Stopping"] * 4
    started.denied = set()
    operator(good).execute(context(state_store, try_number=3, max_tries=4))
    assert {started.loops[name] for name in before} == {"Stopping"}


def test_an_input_that_is_refused_before_any_loop_stops_nothing(
    runtime: Runtime, state_store: StateStore
) -> None:
    with pytest.raises(InvalidRequestError):
        operator(bad_line).execute(context(state_store))
    assert runtime.loops == {}


def test_loops_of_before_a_clear_are_asked_again_once_the_new_ones_are_started(
    started: Runtime, state_store: StateStore
) -> None:
    before = set(started.loops)
    started.denied = {min(before)}
    again = operator(good)

    def write(_uri: str, lines: Any) -> None:
        list(lines)
        started.denied.clear()  # somebody gives the right

    vars(again)["_storage"] = lambda: SimpleNamespace(read=good, write_stream=write)
    again.execute(context(state_store, try_number=2, max_tries=3))
    assert {started.loops[name] for name in before} == {"Stopping"}


def test_a_try_of_a_deleted_run_stops_its_loops() -> None:
    stopped: list[bool] = []

    def stop(reopen: bool) -> int:
        stopped.append(reopen)
        return 1

    state: Any = SimpleNamespace(claim=lambda: Claim.NOBODYS)
    log: Any = logging.getLogger("task")
    kill = Kill("human loops", state, lambda _error: False, stop, log)
    gone = ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={})
    with pytest.raises(AirflowRuntimeError), kill.running():
        raise AirflowRuntimeError(gone)
    assert stopped == [True]


def test_a_retry_after_a_time_out_starts_loops_of_its_own(
    runtime: Runtime, state_store: StateStore
) -> None:
    def over(_uri: str, lines: Any) -> None:
        list(lines)
        raise AirflowTaskTimeout("over")

    first = operator(good)
    vars(first)["_storage"] = lambda: SimpleNamespace(read=good, write_stream=over)
    with pytest.raises(AirflowTaskTimeout):
        first.execute(context(state_store))
    first.on_kill()
    assert set(runtime.loops.values()) == {"Stopping"}
    stopped = set(runtime.loops)
    operator(good).execute(context(state_store, try_number=2))
    assert {runtime.loops[name] for name in runtime.loops.keys() - stopped} == {"InProgress"}
    assert len(runtime.loops) == 2 * len(stopped)
