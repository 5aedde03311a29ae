"""Whether a stage has gone well enough for the next one to begin.

Devices that cannot be reached are a count of their own: they say nothing of the model. Until the
stage's deadline they hold nothing up but its end; at the deadline they are late like any other.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from model_delivery_engine.errors import RolloutError


class Progress(StrEnum):
    """How far a device of a stage is."""

    WAITING = "WAITING"  # nothing was sent to it yet
    UNDER_WAY = "UNDER_WAY"
    OFFLINE = "OFFLINE"  # it was sent, and is not heard of
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # or rolled back by itself, rejected, timed out
    LATE = "LATE"  # not done at the deadline


_DONE_WELL = frozenset({Progress.SUCCEEDED})
_DONE_BADLY = frozenset({Progress.FAILED, Progress.LATE})


@dataclass(frozen=True)
class Limits:
    """What a stage is held to.

    :param success: share of a stage's devices that have to have succeeded at its end, 0 to 1
    :param error: share of those that are done that may have failed, 0 to 1
    :param least: as many have to be done before the share of failed ones says anything
    """

    success: float = 1.0
    error: float = 0.0
    least: int = 1

    def __post_init__(self) -> None:
        for name, value in (("success", self.success), ("error", self.error)):
            if not 0 <= value <= 1:
                raise RolloutError(f"the {name} threshold is {value:g}; give a share from 0 to 1")
        if self.least < 1:
            raise RolloutError(f"the minimum sample is {self.least}; give 1 or more")


class Verdict(StrEnum):
    """What follows of what was seen of a stage."""

    GOES_ON = "GOES_ON"
    PASSED = "PASSED"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason, in words for people."""

    verdict: Verdict
    reason: str


def judge(progress: Iterable[Progress], limits: Limits) -> Judgement:
    """Judge a stage by its devices.

    It is broken as soon as too many have failed of those that are done, or so many that the rest
    cannot make up for it, and passed once all are done, or, of those that are not, none matters:
    not before, since the next stage would have no better word on the model than this one.

    :param progress: of every device of the stage
    """
    counts = Counter(progress)
    total = counts.total()
    if not total:
        return Judgement(Verdict.PASSED, "it has no device")
    well = sum(counts[each] for each in _DONE_WELL)
    badly = sum(counts[each] for each in _DONE_BADLY)
    done = well + badly
    seen = f"{well} of {total} succeeded, {badly} failed" + _late(counts)
    if done >= limits.least and badly > limits.error * done:
        return Judgement(
            Verdict.BROKEN,
            f"{seen}: {badly / done:.0%} of those done, more than {limits.error:.0%}",
        )
    if total - badly < limits.success * total:
        return Judgement(
            Verdict.BROKEN,
            f"{seen}: fewer than {limits.success:.0%} can succeed, whatever the others do",
        )
    if done < total:
        return Judgement(Verdict.GOES_ON, f"{seen}, {_others(counts)}")
    return Judgement(Verdict.PASSED, seen)


def _late(counts: Counter[Progress]) -> str:
    late = counts[Progress.LATE]
    return f" ({late} by being late)" if late else ""


def _others(counts: Counter[Progress]) -> str:
    words = {
        Progress.UNDER_WAY: "under way",
        Progress.OFFLINE: "not heard of",
        Progress.WAITING: "not begun",
    }
    return ", ".join(f"{counts[each]} {word}" for each, word in words.items() if counts[each])
