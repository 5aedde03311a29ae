"""How many records a model is run with at a time, measured before a shard's first part."""

import resource
import time

from model_delivery_engine.batch.inference import Runnable, zeros
from model_delivery_engine.errors import InferenceError

SIZES = (8, 16, 32, 64, 128, 256, 512)
UNMEASURED = 64  # of texts and open dimensions: zeros say nothing of them
_TRIAL_S = 0.05
_LONG_RUN_S = 0.5  # no larger size is tried: where a run takes so long, its calls cost nothing
_WORTH = 1.03  # a larger batch must be this much faster: it costs memory, and cache
_FLAT = 2  # sizes in a row that are not faster end the search
_MOST_BYTES = 512 * 2**20  # that the next size may need, by twice what this one did


def fastest_batch_size(model: Runnable) -> int:
    """Return the smallest batch size that is about as fast as any, measured on zeros.

    A heavy model is as fast in small batches, and is not run for minutes to see that.
    """
    if zeros(model, 1) is None:
        return UNMEASURED
    before = _peak_bytes()
    best, best_rate, flat = SIZES[0], 0.0, 0
    one = _timed(model, 1)
    if one is None or one * SIZES[0] > _LONG_RUN_S:
        return best
    for size in SIZES:
        seconds = _timed(model, size)
        if seconds is None:
            break
        rate = size / seconds
        if rate > best_rate * _WORTH:
            best, best_rate, flat = size, rate, 0
        else:
            flat += 1
        needs = 2 * (_peak_bytes() - before)
        if flat == _FLAT or seconds > _LONG_RUN_S or needs > _MOST_BYTES:
            break
    return best


def _timed(model: Runnable, size: int) -> float | None:
    """Return the seconds of a run; None where the model does not take zeros, or so many."""
    inputs = zeros(model, size)
    assert inputs is not None
    try:
        started = time.perf_counter()
        model.run(inputs)
        first = time.perf_counter() - started
        if first > _LONG_RUN_S:
            return first
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < _TRIAL_S:
            model.run(inputs)
            count += 1
    except (InferenceError, MemoryError):
        return None
    return (time.perf_counter() - started) / count


def _peak_bytes() -> int:
    """Return the most memory that this process had at a time."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
