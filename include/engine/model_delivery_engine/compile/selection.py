"""Which candidate is delivered, and why each other one is not.

Times decide where they were taken on the target's architecture. Elsewhere (``timed`` is False) they
are those of other kernels, for layouts that these kernels do not like: size and accuracy decide.
"""

import dataclasses
from collections.abc import Sequence

from model_delivery_engine.compile.contest import TOLERANCE
from model_delivery_engine.measurements import Candidate

SOURCE = "source"
UNTIMED = "chosen by size and accuracy: its times are another architecture's"


def mark_dominated(candidates: Sequence[Candidate], *, timed: bool = True) -> list[Candidate]:
    """Mark each candidate ``kept`` or ``dominated``; a rejected one stays as it is.

    One dominates another if it is no worse in size, speed, throughput and accuracy, and better in
    one of them.
    The source dominates none that is as fast as it: a graph optimised ahead of time loads faster.
    """
    return [
        _mark(each, candidates, timed) if each.status == "kept" else each for each in candidates
    ]


def _mark(candidate: Candidate, candidates: Sequence[Candidate], timed: bool) -> Candidate:
    for other in candidates:
        if other.status == "kept" and _dominates(other, candidate, timed):
            better = "no larger, no slower" if timed else "no larger"
            reason = f"{other.name} is {better} and as accurate"
            return dataclasses.replace(candidate, status="dominated", reason=reason)
    return candidate


def _dominates(one: Candidate, other: Candidate, timed: bool) -> bool:
    if one.name == SOURCE and not (timed and _is_slower(other)):
        return False
    if not timed and one.precision != other.precision:
        return False  # how fast each is nobody knows
    mine, theirs = _merits(one, timed), _merits(other, timed)
    return all(m >= t for m, t in zip(mine, theirs, strict=True)) and mine != theirs


def _merits(candidate: Candidate, timed: bool) -> tuple[float, ...]:
    """Return size, accuracy and, where they count, speed and throughput: more is better."""
    merits = (-float(candidate.size_bytes or 0), _accuracy(candidate))
    if not timed:
        return merits
    return *merits, candidate.speedup or 0.0, candidate.throughput or 0.0


def _accuracy(candidate: Candidate) -> float:
    if candidate.metric is not None:
        return candidate.metric
    if candidate.precision == "fp32" or candidate.snr_db is None:
        return float("inf")  # of the same precision: it was held to parity
    return candidate.snr_db


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


def by_size(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Return those that may be delivered to another architecture than this one, the best first.

    The smallest, whose weights take the least of the memory's bandwidth; between those within 2 %
    of each other the more accurate, then one that was optimised. Unless size is the objective the
    source comes after what was optimised, and after it fp16, which a processor without arithmetic
    on halves widens in each run.
    """
    usable = [each for each in candidates if each.status == "kept"]
    if objective == "size":
        return _ordered(usable, "size")
    optimised = [each for each in usable if each.name != SOURCE and each.precision != "fp16"]
    return [
        *_ordered(optimised, "size"),
        *(each for each in usable if each.name == SOURCE),
        *(each for each in usable if each.precision == "fp16"),
    ]


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
    return max(measured, key=_accuracy)


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
    size = -float(candidate.size_bytes or 0)
    return _accuracy(candidate), candidate.name != SOURCE, size


def _goal(candidate: Candidate, objective: str) -> float:
    if objective == "size":
        return 1 / float(candidate.size_bytes or 1)
    return (candidate.throughput if objective == "throughput" else candidate.speedup) or 0.0
