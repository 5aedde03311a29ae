"""Which candidate is delivered, and why each other one is not."""

import dataclasses
from collections.abc import Sequence

from model_delivery_engine.measurements import Candidate

TOLERANCE = 0.02  # two medians this close are taken for equal


def mark_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Mark each candidate ``kept`` or ``dominated``; a rejected one stays as it is.

    One dominates another if it is no worse in size, speed and accuracy, and better in one of them.
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
    mine, theirs = _merits(one), _merits(other)
    return all(m >= t for m, t in zip(mine, theirs, strict=True)) and mine != theirs


def _merits(candidate: Candidate) -> tuple[float, float, float]:
    """Return size, speed and accuracy, each so that more is better."""
    if candidate.metric is not None:
        accuracy = candidate.metric
    else:
        accuracy = float("inf") if candidate.snr_db is None else candidate.snr_db
    return -float(candidate.size_bytes or 0), candidate.speedup or 0.0, accuracy


def by_preference(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Return those that may be delivered, the best first.

    For latency the fastest, for size the smallest; the other of the two decides between equals. One
    that is slower than plain ONNX Runtime by more than 2 % comes after all that are not.

    :param objective: ``latency`` or ``size``
    """

    def key(each: Candidate) -> tuple[bool, float, float]:
        speed, size = each.speedup or 0.0, float(each.size_bytes or 0)
        slower = speed < 1 / (1 + TOLERANCE)
        return (slower, size, -speed) if objective == "size" else (slower, -speed, size)

    return sorted((each for each in candidates if each.status == "kept"), key=key)
