"""How fast a deployment reaches a fleet, and when its failures end it: arithmetic alone.

Follows "Job rollout and abort configuration" of the IoT developer guide. What that leaves open:
devices are reached one by one rather than a minute's worth at once, so that few have a bad model
when the first of them says so; and the executed things are those whose execution is over, which
ends a bad deployment earlier than counting all that were notified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MINUTE_MS = 60_000
# What was missed for longer than this, as by a restart, is not made up for.
CATCH_UP_MS = 2_000
FINISHED = ("SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT")
_BAD = ("FAILED", "REJECTED", "TIMED_OUT")


def rate(config: Mapping[str, Any], notified: int, succeeded: int) -> float | None:
    """Return how many devices a minute may be reached now, None for any number.

    :param config: a `jobExecutionsRolloutConfig`, may be empty
    :param notified: how many were reached so far
    :param succeeded: how many of those have succeeded
    """
    maximum: int | None = config.get("maximumPerMinute")
    exponential = config.get("exponentialRate")
    if exponential is None:
        return maximum
    criteria = exponential["rateIncreaseCriteria"]
    if "numberOfNotifiedThings" in criteria:
        steps = notified // criteria["numberOfNotifiedThings"]
    else:
        steps = succeeded // criteria["numberOfSucceededThings"]
    most = maximum or 1000
    grown = float(exponential["baseRatePerMinute"])
    for _ in range(steps):
        if grown >= most or exponential["incrementFactor"] <= 1:
            break
        grown *= exponential["incrementFactor"]
    return min(grown, most)


@dataclass(frozen=True)
class Allowance:
    """How many devices may be reached now, how far the rate is used up then, and when to ask again.

    Times are milliseconds since 1970.
    """

    number: int
    paced_at: int
    again_at: int


def allowance(
    per_minute: float, paced_at: int | None, now: int, last_minute: int, most: int
) -> Allowance:
    """Return what a rate allows now.

    Never more than the rate in any minute, and one at the least where that is below one.

    :param paced_at: as the last allowance told, None at the beginning
    :param last_minute: how many were reached within the minute before `now`
    :param most: how many there are to be reached
    """
    gap = MINUTE_MS / per_minute
    used_until = now - gap if paced_at is None else max(paced_at, now - max(gap, CATCH_UP_MS))
    room = max(1, int(per_minute)) - last_minute
    number = max(0, min(int((now - used_until) / gap + 1e-9), room, most))
    used_until += number * gap
    again_at = max(now + 1, round(used_until + gap)) if room > number else now + 250
    return Allowance(number, int(used_until), again_at)


def to_abort(config: Mapping[str, Any], counts: Mapping[str, int]) -> str | None:
    """Return why a deployment is to be cancelled, in words, or None.

    :param config: an `abortConfig`, may be empty
    :param counts: executions by status
    """
    finished = sum(counts.get(status, 0) for status in FINISHED)
    for criterion in config.get("criteriaList", []):
        kind = criterion["failureType"]
        failed = sum(counts.get(each, 0) for each in (_BAD if kind == "ALL" else (kind,)))
        if not failed or finished < criterion["minNumberOfExecutedThings"]:
            continue
        share = 100 * failed / finished
        if share >= criterion["thresholdPercentage"]:
            word = "failed" if kind == "ALL" else kind
            return (
                f"aborted: {failed} of {finished} devices {word}, {share:.0f} %; the threshold is "
                f"{criterion['thresholdPercentage']:g} %"
            )
    return None
