"""How far the answers of a model of lower precision are from the source's, output by output.

An output of floats has a ratio of signal to noise in each of its channels, and the signal is what
varies (`variation`). Of any other (labels, counts, places) a value is equal or wrong, and the share
of wrong ones is the noise: one wrong answer in ten is 10 dB. Each output and each channel is held
by itself, since a sum over all lets large ones (boxes in pixels) hide what happens to small ones
(their scores).

Equal answers show something only where the source's own differ from each other. An output that is
the same whatever is asked would be equal for a model that no longer looks at its inputs.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.channels import are_enough, as_row, dimensions_of
from model_delivery_engine.compile.variation import (
    Mean,
    Variation,
    by_channel,
    show_channels,
    variations_of,
)
from model_delivery_engine.errors import InferenceError, ParityError
from model_delivery_engine.golden import SEED
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import Model
from model_delivery_engine.tensors import Array

SAMPLES = 64
_ANSWERS = 32  # of an output that is no floats, or whose values have not differed yet
_LOST = 3.0  # decibels: what has as much noise as signal, and a little less
_LEAST = 1e-300  # a signal of nothing, which has no logarithm
_DRAWS = 32
_SECONDS = 60.0  # for these
# What any range of activations that is found while the model runs holds.
_DRAWN = (probes.UNIT, "signed")


@dataclass(frozen=True)
class Asked:
    """A run, and what the source answers to it."""

    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Noise:
    """The output that is furthest from the source's.

    :param db: its ratio of signal to noise, decibels; None where every answer is equal
    :param output: its name
    :param channel: the one that is furthest, in words; empty where the output is one channel
    :param equal: the share of its answers that are equal, None for floats
    """

    db: float | None
    output: str = ""
    channel: str = ""
    equal: float | None = None


def ask(source: Model, golden: Mapping[str, Array], samples: Samples | None) -> list[Asked]:
    """Have the source answer what candidates are held to.

    The user's samples to calibrate on, where there are any, since a static candidate knows no other
    range. Else the golden inputs, and as many more as show what an output does, 32 at most.
    """
    if samples is not None:
        kept = samples.some(max(SAMPLES, source.batch_size or 0)).batches(source.batch_size)
        return _until_enough(kept, source)
    asked = [Asked(dict(golden), _run(source, golden))]
    varying: set[str] = set()
    until = time.monotonic() + _SECONDS
    for number in range(_DRAWS):
        left = until - time.monotonic()
        if left <= 0 or _told(asked, varying):
            break
        inputs = probes.draw(_DRAWN[number % 2], source.inputs, seed=SEED + 1 + number)[0]
        try:
            asked.append(Asked(inputs, _run(source, inputs, seconds=left)))
        except InferenceError:  # beyond the model's domain
            continue
    return asked


def _run(
    model: Model, inputs: Mapping[str, Array], *, seconds: float | None = None
) -> dict[str, Array]:
    """Run a model; a vector that is the answer to one sample becomes a row, as others' are."""
    found = model.run(inputs, seconds=seconds)
    return {name: as_row(array, inputs) for name, array in found.items()}


def _until_enough(batches: Iterable[dict[str, Array]], source: Model) -> list[Asked]:
    asked: list[Asked] = []
    compared = probes.Compared()
    for batch in batches:
        asked.append(Asked(batch, _run(source, batch)))
        compared.add(batch, asked[-1].expected)
        if compared.enough:
            break
    return asked


def _told(asked: Sequence[Asked], varying: set[str]) -> bool:
    """Tell whether the answers show of each output, and of its channels, what it does.

    :param varying: outputs that were seen to vary, which is looked at once; it is added to
    """
    for name, first in asked[0].expected.items():
        answers = [each.expected[name] for each in asked]
        shapes = [each.shape for each in answers]
        if first.dtype.kind == "f":
            enough = all(are_enough(shapes, axis) for axis in dimensions_of(shapes) or (None,))
        else:
            enough = sum(each.size for each in answers) >= _ANSWERS
        if not enough or not (name in varying or _varies(answers)):
            return False
        varying.add(name)
    return True


def _varies(answers: Sequence[Array]) -> bool:
    """Tell whether an output, or a channel of it, ever answers two values."""
    if answers[0].dtype.kind == "f":
        return any(each.varies for each in variations_of(answers))
    values = [each.reshape(-1) for each in answers if each.size]
    return bool(values) and any((each != values[0][0]).any() for each in values)


def measure_noise(model: Model, asked: Sequence[Asked], *, held: bool = False) -> Noise:
    """Measure a model's answers against the source's.

    :param held: it was held to the source's answers elsewhere, value by value
    :raises ParityError: an answer of another shape, NaN or infinite where the source's is not; or
        the source's own answers never differ, or are too few to show what a channel of an output
        does, so that nothing can be told of the model
    """
    names = list(asked[0].expected)
    if not held and not any(_varies([each.expected[name] for each in asked]) for name in names):
        raise ParityError(
            f"the source answers all {len(asked)} runs alike, so that equal answers show nothing "
            'of it; give samples that it tells apart: "calibration" or "samples", the URI of an '
            ".npz"
        )
    if not held:
        _refuse_few(asked)
    measures = {
        name: _Floats(name, variations_of([each.expected[name] for each in asked]))
        if asked[0].expected[name].dtype.kind == "f"
        else _Others(name)
        for name in names
    }
    for each in asked:
        got = _run(model, each.inputs)
        for name, want in each.expected.items():
            if got[name].shape != want.shape:
                raise ParityError(
                    f"output {name!r} has shape {list(got[name].shape)} where the source's has "
                    f"{list(want.shape)}"
                )
            measures[name].add(got[name], want)
    return noisier(*(each.noise() for each in measures.values()))


def _refuse_few(asked: Sequence[Asked]) -> None:
    for name, first in asked[0].expected.items():
        shapes = [each.expected[name].shape for each in asked]
        if first.dtype.kind == "f" and not show_channels(shapes):
            raise ParityError(
                f"output {name!r} has the shapes {sorted(set(shapes))} in {len(asked)} runs, too "
                "few values to tell whether each of its channels is kept; give more samples to "
                "calibrate on, 16 or better 64"
            )


def noisier(*found: Noise) -> Noise:
    """Return the one of several that is furthest from the source's."""
    return min(found, key=lambda noise: np.inf if noise.db is None else noise.db)


class _Floats:
    """An output of floats: noise by channel, against what the source's answers vary by."""

    def __init__(self, name: str, variations: Sequence[Variation]) -> None:
        self._name = name
        self._means = [(variation, Mean()) for variation in variations]

    def add(self, got: Array, want: Array) -> None:
        """Compare a run; ParityError for NaN or infinity where the source has a number."""
        known = np.isfinite(want)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        if not (known | same).all() or not np.isfinite(got[known]).all():
            raise ParityError(
                f"output {self._name!r} is NaN or infinite where the source's is not, or the other "
                "way round"
            )
        got, want = np.where(known, got, 0.0), np.where(known, want, np.nan)
        for variation, mean in self._means:
            axis = variation.axis
            mean.add((by_channel(got, axis) - by_channel(want, axis)) ** 2)

    def noise(self) -> Noise:
        """Return that of the channel that has most."""
        return noisier(*(self._along(variation, mean.value) for variation, mean in self._means))

    def _along(self, variation: Variation, noise: Array) -> Noise:
        noisy = noise > 0
        if not noisy.any():
            return Noise(None)
        ratios = np.full(noisy.shape, np.inf)
        signal = np.maximum(variation.signal[noisy], _LEAST)
        ratios[noisy] = 10 * np.log10(signal / noise[noisy])
        channel = int(ratios.argmin())
        if not variation.held and ratios[channel] > _LOST:
            return Noise(None)
        return Noise(float(ratios[channel]), self._name, variation.words(channel))


class _Others:
    """An output that is no floats: the share of wrong answers."""

    def __init__(self, name: str) -> None:
        self._name, self._asked, self._wrong = name, 0, 0

    def add(self, got: Array, want: Array) -> None:
        """Count a run."""
        texts = want.dtype.kind in "OUS"
        unequal = got.astype(str) != want.astype(str) if texts else got != want
        self._asked, self._wrong = (
            self._asked + want.size,
            self._wrong + int(np.count_nonzero(unequal)),
        )

    def noise(self) -> Noise:
        """Return the ratio of all answers to wrong ones."""
        if not self._wrong:
            return Noise(None)
        decibels = float(10 * np.log10(self._asked / self._wrong))
        return Noise(decibels, self._name, equal=1 - self._wrong / self._asked)
