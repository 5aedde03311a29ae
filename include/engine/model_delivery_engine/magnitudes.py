"""The largest magnitude around each value of an answer: that of its channel.

A run that has many values of a channel shows its magnitude. One of few values, as a vector of four
edges and a score, does not, and all of them together would be held to the edges'. So the other runs
of the probe are looked at too, and where they are few as well, those of every other probe: what the
channel has at most of the largest value beside it, since distributions are of any magnitude.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from model_delivery_engine.channels import VALUES, are_enough, as_row, dimensions_of
from model_delivery_engine.probes import Probe, Run
from model_delivery_engine.tensors import Array

# Of a channel, over all probes; that it has little of the largest value in each by chance is rare.
_FEW = 4
_LARGEST = float(np.finfo(np.float32).max)  # beyond, an answer in single precision is infinite


class Magnitudes:
    """The magnitudes of what was asked.

    :param asked: probes, with the original's answers
    """

    def __init__(self, asked: Sequence[Probe]) -> None:
        self._asked = asked
        self._known: dict[tuple[str, str | None], Mapping[int, Array]] = {}

    def around(self, name: str, run: Run, distribution: str) -> Array:
        """Return the largest magnitude around each value of an output, which broadcasts to it.

        Of a channel in each of several dimensions the smallest magnitude counts.
        """
        want = run.expected[name]
        row = as_row(want, run.inputs)
        whole = float(_sizes(row).max(initial=0.0))
        found: Array = np.full((1,) * row.ndim, whole)
        shares = self._shares([row], VALUES)
        for axis in dimensions_of([row.shape]):
            for look in (distribution, None):
                if axis not in shares:
                    more = self._over(name, look)
                    shares |= {axis: more[axis]} if axis in more else {}
            if axis in shares and shares[axis].shape[axis] == row.shape[axis]:
                found = np.minimum(found, whole * shares[axis])
        return found if row.ndim == want.ndim else found[0]

    def _over(self, name: str, distribution: str | None) -> Mapping[int, Array]:
        """Return a channel's most in a distribution, or in all, by dimension."""
        if (name, distribution) not in self._known:
            runs = [
                run
                for probe in self._asked
                if distribution in (None, probe.distribution)
                for run in probe.runs
            ]
            rows = [as_row(run.expected[name], run.inputs) for run in runs if name in run.expected]
            least = _FEW if distribution is None else VALUES
            self._known[name, distribution] = self._shares(rows, least)
        return self._known[name, distribution]

    @staticmethod
    def _shares(answers: Sequence[Array], values: int) -> dict[int, Array]:
        """Return what each channel has at most of the largest value, by dimension."""
        shapes = [each.shape for each in answers]
        found: dict[int, Array] = {}
        for axis in dimensions_of(shapes) if shapes else ():
            if not are_enough(shapes, axis, values):
                continue
            others = tuple(each for each in range(len(shapes[0])) if each != axis)
            for sizes in map(_sizes, answers):
                if whole := sizes.max(initial=0.0):
                    share = sizes.max(axis=others, keepdims=True, initial=0.0) / whole
                    found[axis] = np.maximum(found.get(axis, 0.0), share)
        return found


def _sizes(array: Array) -> Array:
    sizes = np.abs(array.astype(np.float64))
    return np.where(sizes <= _LARGEST, sizes, 0.0)  # NaN is none either
