"""Channels of an output: one tensor may hold boxes in pixels and their scores.

A channel is a place of the last dimension, or of the second; the first is of samples.
"""

import math
from collections.abc import Sequence

Shapes = Sequence[tuple[int, ...]]  # of an output, run by run
_VALUES = 16  # that show what a channel's values are


def channel_axes(shapes: Shapes) -> tuple[int, ...]:
    """Return the dimensions whose places are channels of 16 values or more.

    :returns: none for an output of fewer values, which is one channel then
    """
    return tuple(axis for axis in even_axes(shapes) if are_enough(shapes, axis))


def even_axes(shapes: Shapes) -> tuple[int, ...]:
    """Return of the second and the last dimension those that every run has the same size of.

    None for an output of less than two dimensions.
    """
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1 or (rank := ranks.pop()) <= 1:
        return ()
    return tuple(a for a in sorted({1, rank - 1}) if len({shape[a] for shape in shapes}) == 1)


def are_enough(shapes: Shapes, axis: int | None, values: int = _VALUES) -> bool:
    """Tell whether the places of a dimension have as many values; for None an output's all.

    :param values: how many each has to have (default: 16)
    """
    channels = 1 if axis is None else shapes[0][axis]
    return sum(map(math.prod, shapes)) >= values * channels
