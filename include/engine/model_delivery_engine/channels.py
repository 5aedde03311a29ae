"""Channels of an output: one tensor may hold boxes in pixels and their scores.

A channel is a place of a dimension other than the first, which is of samples.
"""

import math
from collections.abc import Mapping, Sequence

from model_delivery_engine.tensors import Array

Shapes = Sequence[tuple[int, ...]]  # of an output, run by run
VALUES = 16  # that show what a channel's values are
_IMAGE = 3  # dimensions of an image: channels, rows, columns
_LEAST_SIDE = 16  # of a map; boxes of fewer numbers each may be [1, 1, boxes, numbers]


def dimensions_of(shapes: Shapes) -> tuple[int, ...]:
    """Return the dimensions of an output whose places may be channels: all but the first.

    Those of one place aside, and of three or more the last but one: a map's rows. A map of one
    channel is held whole, by its dimension of one: a column of pixels at an image's edge, held by
    itself, would refuse models that find every word.

    Whether there are enough values to tell its channels apart is `are_enough`'s to say.
    """
    sizes = _sizes(shapes)
    single = [axis for axis, found in sizes.items() if found == {1}]
    wide = [axis for axis in sizes if axis not in single]
    if not wide or _is_map(sizes, single, wide):
        return tuple(single[:1])
    if len(wide) > 2:
        del wide[-2]
    return _fixed(wide, sizes)


def places_of(shapes: Shapes) -> tuple[int, ...]:
    """Return the other dimensions of more than one place: rows and columns, by their shapes.

    A shape does not say so: [1, 1, 64, 20] may be a map, or 64 boxes of 20 numbers each.
    """
    sizes = _sizes(shapes)
    wide = [axis for axis, found in sizes.items() if found != {1}]
    channels = dimensions_of(shapes)
    return tuple(axis for axis in _fixed(wide, sizes) if axis not in channels)


def _sizes(shapes: Shapes) -> dict[int, set[int]]:
    """Return the sizes that each dimension but the first has; none where the ranks differ."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1:
        return {}
    return {axis: {shape[axis] for shape in shapes} for axis in range(1, ranks.pop())}


def _fixed(wide: Sequence[int], sizes: Mapping[int, set[int]]) -> tuple[int, ...]:
    return tuple(axis for axis in wide if len(sizes[axis]) == 1 and 0 not in sizes[axis])


def _is_map(sizes: Mapping[int, set[int]], single: Sequence[int], wide: Sequence[int]) -> bool:
    """Tell whether these dimensions are rows and columns, and the channels' the one of one."""
    sides = min(min(sizes[axis]) for axis in wide)
    images = len(sizes) == _IMAGE and len(wide) == 2 and {1, _IMAGE} & set(single)
    return bool(images) and sides >= _LEAST_SIDE


def are_enough(shapes: Shapes, axis: int | None, values: int = VALUES) -> bool:
    """Tell whether the places of a dimension have as many values; for None an output's all.

    :param values: how many each has to have (default: 16)
    """
    channels = 1 if axis is None else shapes[0][axis]
    return sum(map(math.prod, shapes)) >= values * channels


def as_row(array: Array, inputs: Mapping[str, Array]) -> Array:
    """Return a vector that is the answer to one sample as a row, as others' are.

    :param inputs: of the run
    """
    batch = next((len(each) for each in inputs.values() if each.ndim), 1)
    return array[None] if array.ndim == 1 and batch == 1 else array
