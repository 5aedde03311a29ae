"""Which candidate is delivered, and why each other one is not."""

import dataclasses
from collections.abc import Sequence

from model_delivery_engine.compile.contest import TOLERANCE
from model_delivery_engine.measurements import Candidate

SOURCE = "source"


def mark_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Mark each candidate ``kept`` or ``dominated``; a rejected one stays as it is.

    One dominates another if it is no worse in size, speed, throughput and accuracy, and better in
    one of them.
    The source dominates none that is as fast as it: a graph optimised ahead of time loads faster.
    """
    return [_mark(each, candidates) if each.status == "kept" else each for each in candidates]


def _mark(candidate: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    for other in candidates:
        if other.status == "kept" and other is not candidate and _dominates(other, candidate):
            return dataclasses.replace(
                candidate,
                status="dominated",
                reason=f"{other.name} is no larger, no slower and as accurate",
            )
    return candidate


def _dominates(one: Candidate, other: Candidate) -> bool:
    if one.name == SOURCE and not _is_slower(other):
        return False
    mine, theirs = _merits(one), _merits(other)
    return all(m >= t for m, t in zip(mine, theirs, strict=True)) and mine != theirs


def _merits(candidate: Candidate) -> tuple[float, float, float, float]:
    """Return size, speed, throughput and accuracy, each so that more is better."""
    if candidate.metric is not None:
        accuracy = candidate.metric
    elif candidate.precision == "fp32" or candidate.snr_db is None:
        accuracy = float("inf")  # of the same precision: it was held to parity
    else:
        accuracy = candidate.snr_db
    size = -float(candidate.size_bytes or 0)
    return size, candidate.speedup or 0.0, candidate.throughput or 0.0, accuracy


def by_preference(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Return those that may be delivered, the best first.

    For latency the fastest in one thread, for throughput the fastest on every core, for size the
    smallest; between those that are within 2 % of each other the more accurate, then one that was
    optimised, then the smaller. One that is slower than plain ONNX Runtime by more than 2 %, in
    latency or in throughput, comes after all that are not.

    :param objective: ``latency``, ``throughput`` or ``size``
    """
    usable = [each for each in candidates if each.status == "kept"]
    fast = [each for each in usable if not _is_slower(each)]
    return [*_ordered(fast, objective), *_ordered([e for e in usable if _is_slower(e)], objective)]


def fallback(candidates: Sequence[Candidate]) -> Candidate:
    """Return what is delivered where every other choice turned out slower than doing nothing.

    The source as it came; without one fp32, which was held to the same answers; without that the
    most accurate of those that were measured.
    """
    measured = [each for each in candidates if each.speedup is not None]
    for name in (SOURCE, "fp32"):
        for each in measured:
            if each.name == name:
                return each
    return max(measured, key=lambda each: _merits(each)[-1])


def _is_slower(candidate: Candidate) -> bool:
    slowest = min(candidate.speedup or 0.0, candidate.throughput or 0.0)
    return slowest < 1 / (1 + TOLERANCE)


def _ordered(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Take the best again and again, each time the most accurate of those as good as the best."""
    left, ordered = list(candidates), []
    while left:
        best = max(_goal(each, objective) for each in left)
        near = [each for each in left if _goal(each, objective) >= best / (1 + TOLERANCE)]
        taken = max(near, key=_tie_break)
        ordered.append(taken)
        left.remove(taken)
    return ordered


def _tie_break(candidate: Candidate) -> tuple[float, bool, float]:
    size, _, _, accuracy = _merits(candidate)
    return accuracy, candidate.name != SOURCE, size


def _goal(candidate: Candidate, objective: str) -> float:
    if objective == "size":
        return 1 / float(candidate.size_bytes or 1)
    return (candidate.throughput if objective == "throughput" else candidate.speedup) or 0.0
