"""The best of many scores a row: numpy's vectorised passes where a heap looks at one at a time."""

from collections.abc import Iterable

import numpy as np

from model_delivery_engine.tensors import Array

_TIES = 4  # times k: of more that reach a row's bound, the most are equal
_GROUPS = 4  # times k: fewer would let more than the best through, more would cost their sort
_NEVER = np.iinfo(np.int64).max
_MAGNITUDE = np.int32(0x7FFFFFFF)
# Elements. With more, numpy copies rows that do not follow each other into buffers first, which
# takes as long as what is done with them.
_BUFFER = 1024


def top_k(blocks: Iterable[Array], k: int) -> tuple[Array, Array]:
    """Return the places and the scores of each row's k best, best first.

    The k-th best of the maxima of disjoint groups is a bound that k scores reach, so what is below
    it is out; few others are left to sort. Of equal scores the one at the lower place is better.

    :param blocks: rows of scores, [rows, places] each, FP32; several, so that each can be small
        enough for the processor's cache while its bounds are found
    :param k: 1 to the number of places
    :returns: places (INT64) and scores (FP32), both [rows of all blocks, k]; the scores of a row
        that has a NaN are infinite, so that it is seen
    """
    with np.errstate():  # which puts the size of buffers back, too
        np.setbufsize(_BUFFER)
        found, scores, highest, width = _reaching(blocks, k)
        rows = np.arange(len(highest) + 1) * width
        found, scores, bounds = _thinned(found, scores, rows, k)
        counts = bounds[1:] - bounds[:-1]
        found -= np.repeat(rows[:-1], counts)
        table = np.full((len(counts), max(counts.max(), k)), _NEVER)
        table[np.arange(table.shape[1]) < counts[:, None]] = _keys(scores, found)
        table.sort(axis=1)
        places, best = _places_and_scores(table[:, :k])
    if (lost := np.isnan(highest)).any():
        places[lost], best[lost] = np.arange(k), np.inf
    return places, best


def _reaching(blocks: Iterable[Array], k: int) -> tuple[Array, Array, Array, int]:
    """Return the scores that reach their row's bound, and where; and each row's highest."""
    found, scores, highest, width, rows = [], [], [], 0, 0
    for block in blocks:
        maxima = np.sort(_group_maxima(block, k), axis=1)
        here = np.flatnonzero(block >= maxima[:, -k, None])
        reaching = block.ravel().take(here)
        width = block.shape[1]
        if len(here) > _TIES * k * len(block):
            here, reaching, _ = _thinned(here, reaching, np.arange(len(block) + 1) * width, k)
        scores.append(reaching)
        here += rows * width
        found.append(here)
        highest.append(maxima[:, -1])  # NaN sorts last
        rows += len(block)
    return np.concatenate(found), np.concatenate(scores), np.concatenate(highest), width


def _thinned(found: Array, scores: Array, rows: Array, k: int) -> tuple[Array, Array, Array]:
    """Leave a row that far too many scores reach its k best: many equal ones, as of all zeros.

    Else one such row would widen the table of all rows to its own width.

    :param rows: where each row begins, and where the last one ends
    :returns: found, scores, and the bounds of each row in them
    """
    bounds = np.searchsorted(found, rows)
    crowded = np.flatnonzero(bounds[1:] - bounds[:-1] > _TIES * k)
    if not len(crowded):
        return found, scores, bounds
    keep = np.ones(len(found), bool)
    for row in crowded:
        part = slice(bounds[row], bounds[row + 1])
        values = scores[part]
        last = np.partition(values, -k)[-k]
        better = values > last
        better[np.flatnonzero(values == last)[: k - np.count_nonzero(better)]] = True
        keep[part] = better
    found = found[keep]
    return found, scores[keep], np.searchsorted(found, rows)


def _group_maxima(scores: Array, k: int) -> Array:
    """Halve the rows, keeping the larger of two scores, while enough groups are left."""
    while (half := scores.shape[1] // 2) >= _GROUPS * k:
        halved = np.maximum(scores[:, :half], scores[:, half : 2 * half])
        if scores.shape[1] % 2:
            np.maximum(halved[:, 0], scores[:, -1], out=halved[:, 0])
        scores = halved
    return scores


def _keys(scores: Array, places: Array) -> Array:
    """Return integers whose order is: higher scores first, then lower places."""
    scores += np.float32(0)  # minus zero becomes zero, its equal
    bits = scores.view(np.int32)
    bits ^= (bits >> 31) & _MAGNITUDE  # the order of integers is now that of the floats
    keys = np.invert(bits).astype(np.int64)
    keys <<= 32
    keys |= places
    return keys


def _places_and_scores(keys: Array) -> tuple[Array, Array]:
    bits = np.invert((keys >> 32).astype(np.int32))
    bits ^= (bits >> 31) & _MAGNITUDE
    return keys & 0xFFFFFFFF, bits.view(np.float32)
