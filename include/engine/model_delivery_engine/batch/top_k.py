"""The best of many scores a row: numpy's vectorised passes where a heap looks at one at a time."""

import numpy as np

from model_delivery_engine.tensors import Array

_GROUPS = 4  # times k: fewer would let more than the best through, more would cost their sort
_NEVER = np.iinfo(np.int64).max
# Elements. With more, numpy copies rows that do not follow each other into buffers first, which
# takes as long as what is done with them.
_BUFFER = 1024


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Return the places and the scores of each row's k best, best first.

    The k-th best of the maxima of disjoint groups is a bound that k scores reach, so what is below
    it is out; few others are left to sort. Of equal scores the one at the lower place is better.

    :param scores: [rows, places], FP32; NaN counts as infinite, so that it is seen
    :param k: 1 to the number of places
    :returns: places (INT64) and scores (FP32), both [rows, k]
    """
    with np.errstate():  # which puts the size of buffers back, too
        np.setbufsize(_BUFFER)
        return _top_k(scores, k)


def _top_k(scores: Array, k: int) -> tuple[Array, Array]:
    maxima = np.sort(_group_maxima(scores, k), axis=1)
    if np.isnan(maxima[:, -1]).any():  # NaN sorts last
        return _top_k(np.where(np.isnan(scores), np.float32(np.inf), scores), k)
    reached = scores >= maxima[:, -k, None]
    found = np.flatnonzero(reached)
    rows, width = scores.shape
    ends = np.searchsorted(found, np.arange(1, rows + 1) * width)
    counts = np.diff(ends, prepend=0)
    starts = np.repeat(np.arange(rows) * width, counts)
    keys = _keys(scores.ravel()[found], found - starts)
    table = np.full((rows, counts.max()), _NEVER)
    table[np.arange(table.shape[1]) < counts[:, None]] = keys
    table.sort(axis=1)
    return _places_and_scores(table[:, :k])


def _group_maxima(scores: Array, k: int) -> Array:
    """Halve the rows, keeping the larger of two scores, while enough groups are left."""
    while (half := scores.shape[1] // 2) >= _GROUPS * k:
        scores = np.maximum(scores[:, :half], scores[:, half : 2 * half])
    return scores


def _keys(scores: Array, places: Array) -> Array:
    """Return integers whose order is: higher scores first, then lower places."""
    bits = (scores + np.float32(0)).view(np.int32)  # minus zero becomes zero, its equal
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # the order of integers is now that of the floats
    keys = np.invert(bits).astype(np.int64)
    keys <<= 32
    keys |= places
    return keys


def _places_and_scores(keys: Array) -> tuple[Array, Array]:
    bits = np.invert((keys >> 32).astype(np.int32))
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return keys & 0xFFFFFFFF, bits.view(np.float32)
