"""The waits of one flow definition: what one loop does ends no other's."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from model_delivery.exceptions import JobError
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.polls import FlowPoll
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.service import Call
from model_delivery.jobs.waits import Bounds

FLOW = "arn:aws:sagemaker:us-east-1:000000000000:flow-definition/flow"
BOUNDS = Bounds(0.02, 0.05, 900.0)


class Loops:
    """A service that knows what it is told."""

    def __init__(self, **statuses: str) -> None:
        self.statuses = statuses

    async def ask(self, call: Call) -> Mapping[str, Any]:
        name = call.parameters["HumanLoopName"]
        return {"HumanLoopName": name, "HumanLoopStatus": self.statuses[name], "CreationTime": None}

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[PacedClient]:
        yield cast("PacedClient", self)


def batch(name: str) -> LoopBatch:
    return LoopBatch(FLOW, count=1, names=(name,))


async def test_a_loop_of_an_unknown_status_ends_its_own_wait_alone() -> None:
    service = Loops(good="InProgress", strange="Paused")
    poll = FlowPoll(FLOW, service.lease, frozenset())
    good = asyncio.create_task(poll.wait(batch("good"), BOUNDS))
    with pytest.raises(JobError, match=r"'Paused' for human loop strange"):
        await poll.wait(batch("strange"), BOUNDS)
    await asyncio.sleep(0.3)
    assert not good.done()
    service.statuses["good"] = "Completed"
    assert await good == {"Completed": 1}
    poll.close()
