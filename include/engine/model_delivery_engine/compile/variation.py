"""How an output of floats varies with what is asked: the signal that noise is measured against.

Only what varies is signal. A regressor around 1000 that answers 1000 whatever is asked is 50 dB
from its source by energy, and has lost all of it. So each channel's mean over all runs is taken
away, and each channel is held by itself, since boxes in pixels hide their scores. Where any of
several dimensions may be of channels, the places of all are held: a shape does not say which it is.

Noise that is nothing beside the other channels is no fault: a class that nobody asked for hardly
varies, and would refuse every model in 8 bits. So a channel counts as varying by a tenth of the
strongest of its unit at least. Of one unit are

- channels whose values are all in [0, 1]: probabilities, of which one class is as much as another;
- others, sorted by mean square, that are within 30 dB of the strongest. Those 30 dB are the 20 of
  that tenth and the 10 of the usual bound: a channel that is lost is within them of the strongest
  and seen, or beyond and of a unit that does not hide it.

A channel that is constant but for single precision's rounding is held to its own magnitude.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model_delivery_engine.channels import Shapes, are_enough, dimensions_of, places_of
from model_delivery_engine.tensors import Array

_FLOOR = 1e-2  # of the strongest's mean square: a tenth of what it varies by
_UNIT = 1e-3  # of the strongest's mean square: what is of its unit
# Of a channel, for its mean square to say anything. A channel that is lost shows from two on; with
# fewer than these, one that is not may look alike.
_FEW = 4
# The correlation with its neighbour that all but a quarter of an image's rows have: rapidocr's
# detection 0.70 of its rows, 0.99 of its columns.
_FOLLOWS, _MOST_FOLLOW = 0.5, 0.25
_ROUNDING = 1e-6  # of a channel's magnitude: single precision's last bits


@dataclass(frozen=True)
class Variation:
    """What the channels of an output vary by.

    :param axis: their dimension; None where the output is one channel
    :param held: to the bound; else they may be rows or columns, and none may be lost
    :param signal: for each channel the mean square that its noise is held to
    :param varies: whether any of them varies
    """

    axis: int | None
    held: bool
    signal: Array
    varies: bool

    def words(self, channel: int) -> str:
        """Return a channel in words; empty where there is but one."""
        return f" (place {channel} of dimension {self.axis})" if len(self.signal) > 1 else ""


@dataclass
class Mean:
    """The mean of each channel's finite values, taken run by run; 0 where there is none."""

    total: Array | float = 0.0
    count: Array | float = 0.0

    def add(self, rows: Array) -> None:
        """Add a run's values, as rows with a column for each channel."""
        known = np.isfinite(rows)
        self.total = self.total + np.where(known, rows, 0.0).sum(axis=0)
        self.count = self.count + known.sum(axis=0)

    @property
    def value(self) -> Array:
        """Return the mean so far, float64, one for each channel."""
        return np.asarray(self.total / np.maximum(self.count, 1.0))


def by_channel(array: Array, axis: int | None) -> Array:
    """Return values in double precision, as rows with a column for each channel."""
    values = array.astype(np.float64)
    if axis is None:
        return values.reshape(-1, 1)
    return np.moveaxis(values, axis, -1).reshape(-1, array.shape[axis])


def variations_of(answers: Sequence[Array]) -> tuple[Variation, ...]:
    """Return what an output of floats varies by, along each dimension that may be of channels.

    :param answers: the source's, run by run; what is NaN or infinite is left out
    :returns: one; more where a shape does not say which dimension it is. Where the answers are too
        few to show anything of a channel (`show_channels`), that of all values together.
    """
    shapes = [each.shape for each in answers]
    held = [_variation(answers, axis) for axis in _told(shapes) or (None,)]
    told = (axis for axis in places_of(shapes) if are_enough(shapes, axis, _FEW))
    others = (axis for axis in told if not _is_space(answers, axis))
    return (*held, *(replace(_variation(answers, axis), held=False) for axis in others))


def show_channels(shapes: Shapes) -> bool:
    """Tell whether answers of these shapes show what the channels of an output do, if any."""
    return not dimensions_of(shapes) or bool(_told(shapes))


def _told(shapes: Shapes) -> tuple[int, ...]:
    return tuple(axis for axis in dimensions_of(shapes) if are_enough(shapes, axis, _FEW))


def _variation(answers: Sequence[Array], axis: int | None) -> Variation:
    mean, square, variance = Mean(), Mean(), Mean()
    for rows in (by_channel(each, axis) for each in answers):
        mean.add(rows)
        square.add(rows**2)
    probable = np.ones_like(mean.value, bool)
    for rows in (by_channel(each, axis) for each in answers):
        variance.add((rows - mean.value) ** 2)
        probable &= ~((rows < 0) | (rows > 1)).any(axis=0)
    signal = variance.value
    varying = signal > _ROUNDING**2 * square.value
    probable &= varying
    floors = np.zeros_like(signal)
    for unit in (probable, *_units(signal, varying & ~probable)):
        floors[unit] = _FLOOR * signal[unit].max(initial=0.0)
    if varying.any():  # a constant of zero has no magnitude: the weakest channel is its measure
        floors[~varying] = floors[varying].min()
    own = np.where(varying, signal, square.value)
    return Variation(axis, True, np.maximum(own, floors), bool(varying.any()))


def _is_space(answers: Sequence[Array], axis: int) -> bool:
    """Tell whether places follow their neighbours, as rows and columns of an image do.

    A row that is blank but for a letter's edge is as good as lost to any other rounding, and
    nobody's loss. The numbers of a box do not follow one another, or some do not.
    """
    mean = Mean()
    for rows in (by_channel(each, axis) for each in answers):
        mean.add(rows)
    square, product = Mean(), Mean()
    for rows in (by_channel(each, axis) - mean.value for each in answers):
        square.add(rows**2)
        product.add(rows[:, :-1] * rows[:, 1:])
    varying = square.value > _FLOOR * square.value.max(initial=0.0)  # a blank row follows nothing
    both = varying[:-1] & varying[1:]
    if not both.any():
        return False
    sizes = np.sqrt(square.value[:-1] * square.value[1:])
    return bool(np.quantile(product.value[both] / sizes[both], _MOST_FOLLOW) >= _FOLLOWS)


def _units(signal: Array, chosen: Array) -> list[Array]:
    """Return the places of channels, parted where one is too far below its unit's strongest."""
    places = np.flatnonzero(chosen)
    places = places[np.argsort(-signal[places])]
    units = []
    while places.size:
        near = signal[places] >= _UNIT * signal[places[0]]
        units.append(places[near])
        places = places[~near]
    return units
