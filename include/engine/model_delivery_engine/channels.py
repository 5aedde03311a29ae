"""Channels of an output: one tensor may hold boxes in pixels and their scores.

A channel is a place of the last dimension, or of the second; the first is of samples.
"""

import math
from collections.abc import Sequence

VALUES = 16  # that show what a channel's values are


def channel_axes(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the dimensions whose places are channels of 16 values or more.

    :param shapes: an output's, run by run
    :returns: of the second and the last those that every run has the same size of; none for an
        output of fewer values or less than two dimensions, which is one channel then
    """
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1 or (rank := ranks.pop()) <= 1:
        return ()
    values = sum(map(math.prod, shapes))
    found = []
    for axis in sorted({1, rank - 1}):
        sizes = {shape[axis] for shape in shapes}
        if len(sizes) == 1 and values >= VALUES * max(sizes):
            found.append(axis)
    return tuple(found)
