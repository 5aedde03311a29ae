"""How many calls a look at human loops makes, over a service that is only a list."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from model_delivery.exceptions import InvalidRequestError, UnknownStatusError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.watch import MISSING, PAGE, EndedLoop, LoopWatch
from model_delivery.jobs.service import Call

FLOW = "arn:aws:sagemaker:us-east-1:000000000000:flow-definition/flow"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Service:
    """Loops of one flow definition in the order in which they were created, a second each."""

    def __init__(self, count: int) -> None:
        self.loops = {f"loop-{n:06}": "InProgress" for n in range(count)}
        self.created = {name: START + timedelta(seconds=n) for n, name in enumerate(self.loops)}
        self.calls: list[str] = []

    def answer(self, call: Call) -> Mapping[str, Any] | None:
        self.calls.append(call.operation)
        if call.operation == "describe_human_loop":
            name = call.parameters["HumanLoopName"]
            return self._summary(name) if name in self.loops else None
        since = call.parameters.get("CreationTimeAfter", START - timedelta(days=1))
        names = [name for name in self.loops if self.created[name] > since]
        at = int(call.parameters.get("NextToken", 0))
        token = {"NextToken": str(at + PAGE)} if at + PAGE < len(names) else {}
        return {"HumanLoopSummaries": list(map(self._summary, names[at : at + PAGE])), **token}

    def _summary(self, name: str) -> dict[str, Any]:
        return {"HumanLoopName": name, "HumanLoopStatus": self.loops[name],
                "CreationTime": self.created[name]}  # fmt: skip


def look(watch: LoopWatch, service: Service) -> int:
    """Run one round; return how many pages of the list it read."""
    service.calls.clear()
    calls = watch.round()
    call = next(calls, None)
    while call is not None:
        try:
            call = calls.send(service.answer(call))
        except StopIteration:
            break
    return service.calls.count("list_human_loops")


def refuse(_name: str, error: UnknownStatusError) -> None:
    raise error


def watched(service: Service, names: Any = None) -> tuple[LoopWatch, list[EndedLoop]]:
    ended: list[EndedLoop] = []
    watch = LoopWatch(FLOW, ended.append, refuse)
    watch.add(service.loops if names is None else names, START - timedelta(seconds=5))
    return watch, ended


def test_a_look_reads_no_more_pages_than_open_loops_fill() -> None:
    service = Service(1050)
    watch, ended = watched(service)
    names = list(service.loops)
    for done in range(0, 1050, 70):
        for name in names[done : done + 70]:
            service.loops[name] = "Completed"
        allowed = math.ceil(len(watch) / PAGE)
        assert look(watch, service) <= allowed
    for _ in range(12):
        look(watch, service)
    assert [loop.name for loop in ended] == sorted(names)
    assert len(watch) == 0


def test_ended_loops_before_the_oldest_open_one_are_not_read_again() -> None:
    service = Service(3000)
    for name in list(service.loops)[:2900]:
        service.loops[name] = "Completed"
    watch, ended = watched(service)
    while len(ended) < 2900:
        look(watch, service)
    # A hundred are open: each look is one page, whatever has ended before.
    for _ in range(30):
        assert look(watch, service) == 1
    service.loops["loop-002999"] = "Failed"
    while len(ended) < 2901:
        assert look(watch, service) <= 1


def test_a_few_that_are_left_are_described() -> None:
    service = Service(3)
    watch, _ended = watched(service)
    assert look(watch, service) == 0
    assert service.calls == ["describe_human_loop"] * 3


def test_a_loop_that_was_deleted_is_told_as_missing() -> None:
    service = Service(10)
    watch, ended = watched(service)
    del service.loops["loop-000004"]
    for _ in range(3):
        look(watch, service)
    assert [(loop.name, loop.status) for loop in ended] == [("loop-000004", MISSING)]


def test_loops_of_others_are_not_told() -> None:
    service = Service(300)
    mine = [name for name in service.loops if name.endswith("7")]
    watch, ended = watched(service, mine)
    for name in service.loops:
        service.loops[name] = "Completed"
    for _ in range(40):
        look(watch, service)
    assert sorted(loop.name for loop in ended) == mine


def test_an_unknown_status_fails_with_its_name() -> None:
    service = Service(5)
    service.loops["loop-000002"] = "Paused"
    watch, _ended = watched(service)
    with pytest.raises(UnknownStatusError, match="'Paused' for human loop loop-000002"):
        look(watch, service)


def test_a_batch_survives_xcom_and_names_its_loops() -> None:
    batch = LoopBatch(FLOW, "dag-task-0123456789", 3, (), START.isoformat())
    again = LoopBatch.read(batch.written())
    assert again == batch
    assert list(again) == [f"dag-task-0123456789-{n:08}" for n in range(3)]
    assert all(len(name) <= 63 for name in again)
    with pytest.raises(InvalidRequestError, match="is no batch of human loops"):
        LoopBatch.read({"loops": 3})
