"""Watches the loops of one flow definition: which calls to make, and what their answers mean.

It makes no call itself: `round` yields each and takes its answer, so a worker and a triggerer run
the same definition.

ListHumanLoops knows no status and lists ended loops too. A round therefore begins at the oldest
loop that is still open, goes over at most one page for each hundred open loops, and the next round
goes on where it ended. Loops that a whole pass did not show, and a handful that are left over, are
described one by one.
"""

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from model_delivery.exceptions import UnknownStatusError
from model_delivery.jobs.faults import reading
from model_delivery.jobs.service import Call
from model_delivery.jobs.status import JobState, StatusTable

PAGE = 100
# So few are described in turn: that costs no more than a list does, and needs no history.
FEW = 3
_DESCRIBED_A_ROUND = 8
MISSING = "Missing"
OPEN = "Open"
_OVERLAP = timedelta(seconds=2)

STATUSES = StatusTable(
    service="Augmented AI",
    running=("InProgress", "Stopping"),
    succeeded=("Completed",),
    failed=("Failed", MISSING),
    stopped=("Stopped",),
    stopping=("Stopping",),
)

Round = Generator[Call, "Mapping[str, Any] | None", None]


@dataclass(frozen=True)
class EndedLoop:
    """How a loop ended.

    :param reason: the service's, for a failed one.
    """

    name: str
    status: str
    state: JobState
    reason: str
    created: datetime | None


def left_open(name: str) -> EndedLoop:
    """Return what stands for the end of a loop that was asked to stop and does not end."""
    return EndedLoop(name, OPEN, JobState.RUNNING, "asked to stop, it goes on", None)


class LoopWatch:
    """The open loops of a flow definition.

    :param ended: is told of each loop that ended, once.
    :param strange: is told of each loop whose status is unknown; it is watched no longer.
    """

    def __init__(
        self,
        flow_definition_arn: str,
        ended: Callable[[EndedLoop], None],
        strange: Callable[[str, UnknownStatusError], None],
    ) -> None:
        self._flow = flow_definition_arn
        self._ended = ended
        self._strange = strange
        # By name: when it was created, as far as that was seen.
        self._open: dict[str, datetime | None] = {}
        self._since: datetime | None = None
        self._token: str | None = None
        self._unseen: set[str] = set()

    def __len__(self) -> int:
        """Return how many loops are open."""
        return len(self._open)

    @property
    def under_way(self) -> bool:
        """Whether a pass over the list has begun and goes on with the next round."""
        return self._token is not None

    def add(self, names: Iterable[str], created_after: datetime | None) -> None:
        """Watch more loops, from the beginning of their time."""
        if not self._open:
            self._since = created_after
        elif self._since is not None:
            self._since = min(self._since, created_after) if created_after else None
        self._open.update(dict.fromkeys(names))
        self._token = None
        self._unseen = set(self._open)

    def remove(self, names: Iterable[str]) -> None:
        """Watch loops no longer."""
        for name in names:
            self._open.pop(name, None)
            self._unseen.discard(name)

    def round(self) -> Round:
        """Yield each call of one look; send its answer, or None where the loop is not there."""
        if len(self._open) <= FEW:
            yield from self._describe(list(self._open))
            return
        for _ in range(math.ceil(len(self._open) / PAGE)):
            answer = yield self._list()
            if answer is None:
                yield from self._describe(list(self._open)[:_DESCRIBED_A_ROUND])
                return
            with reading("list_human_loops"):
                for summary in answer["HumanLoopSummaries"]:
                    self._hear(summary)
                self._token = answer.get("NextToken")
            if self._token is None:
                yield from self._pass_is_over()
                return

    def _list(self) -> Call:
        wanted: dict[str, Any] = {"FlowDefinitionArn": self._flow, "MaxResults": PAGE}
        if self._since is not None:
            wanted["CreationTimeAfter"] = self._since
        if self._token is not None:
            wanted["NextToken"] = self._token
        return Call("list_human_loops", {**wanted, "SortOrder": "Ascending"})

    def _pass_is_over(self) -> Round:
        missed = [name for name in self._unseen if name in self._open]
        yield from self._describe(missed[:_DESCRIBED_A_ROUND])
        times = [created for created in self._open.values() if created is not None]
        if len(times) == len(self._open) and times:
            self._since = min(times) - _OVERLAP
        self._unseen = set(self._open)

    def _describe(self, names: list[str]) -> Round:
        for name in names:
            answer = yield Call("describe_human_loop", {"HumanLoopName": name})
            if answer is None:
                answer = {"HumanLoopName": name, "HumanLoopStatus": MISSING}
            with reading("describe_human_loop"):
                self._hear(answer)

    def _hear(self, summary: Mapping[str, Any]) -> None:
        name = summary["HumanLoopName"]
        if name not in self._open:
            return
        self._unseen.discard(name)
        created = summary.get("CreationTime")
        status = summary["HumanLoopStatus"]
        try:
            state = STATUSES.state(status, f"human loop {name}")
        except UnknownStatusError as error:  # of this loop alone
            del self._open[name]
            self._strange(name, error)
            return
        if not state.terminal:
            self._open[name] = created
            return
        del self._open[name]
        reason = summary.get("FailureReason") or (
            "the service does not know it: somebody deleted it" if status == MISSING else ""
        )
        self._ended(EndedLoop(name, status, state, reason, created))
