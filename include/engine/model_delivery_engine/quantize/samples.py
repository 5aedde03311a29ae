"""Samples that a user gives: an ``.npz`` with an array for each input, samples first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_delivery_engine.arrays import ArraysError, read_arrays
from model_delivery_engine.errors import OptionsError, Reason
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

MOST_BYTES = 2**30  # expanded, of all arrays together
BATCH = 32  # samples in one run, where the model leaves its batch open
_CALIBRATION = 128  # more change the ranges of activations little
_LEAST = 8  # in a part
_SEED = 20_240_426


@dataclass(frozen=True)
class Samples:
    """Arrays by input name with samples along the first dimension, and their labels if given."""

    inputs: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def batches(self, batch_size: int | None) -> Iterator[dict[str, Array]]:
        """Yield the samples in runs of the model's batch size; a remainder too small is left out.

        :param batch_size: samples in a run, None where any number will do
        """
        size = batch_size or BATCH
        for start in range(0, len(self), size):
            part = {name: array[start : start + size] for name, array in self.inputs.items()}
            if batch_size is None or len(next(iter(part.values()))) == batch_size:
                yield part

    def some(self, count: int) -> "Samples":
        """Return as many at random, the same each time: files are often sorted by label."""
        places = np.random.default_rng(_SEED).permutation(len(self))[:count]
        return self.take(np.sort(places))

    def take(self, places: Array) -> "Samples":
        """Return the samples at these places."""
        labels = None if self.labels is None else self.labels[places]
        return Samples({name: array[places] for name, array in self.inputs.items()}, labels)


def load_samples(
    path: Path,
    inputs: Sequence[TensorSpec],
    labels: str | None = None,
    *,
    exact: bool = False,
    missing: bool = False,
) -> Samples:
    """Read samples and hold them against the model's inputs.

    :param path: the ``.npz``; nothing in it may need a pickle
    :param inputs: the model's inputs, in the compiled graph's shapes
    :param labels: name of the array of right answers, None if there need be none
    :param exact: keep floats as precise as they were given, for a framework that computes so
        (default: in the data type of the input)
    :param missing: NaN is a value that is missing (default: no sample has any)
    :raises OptionsError: not readable, an array missing, or of a shape that does not fit; names it
    """
    _refuse_other_batches(path.name, inputs)
    arrays = _read(path)
    given = {spec.name: _fitting(path.name, spec, arrays, exact, missing) for spec in inputs}
    counts = {name: len(array) for name, array in given.items()}
    answers = None
    if labels is not None:
        if labels not in arrays:
            raise _refusal(
                f"{path.name} has no array {labels!r} with the right answers; it has "
                f'{", ".join(arrays)}: name it with "labels"'
            )
        answers = arrays[labels]
        counts[labels] = len(answers) if answers.ndim else 0
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise _refusal(f"{path.name} has different numbers of samples, or none: {counts}")
    samples = Samples(given, answers)
    _check_batch(path.name, samples, inputs)
    return samples


def _read(path: Path) -> dict[str, Array]:
    try:
        return read_arrays(path, MOST_BYTES)
    except ArraysError as error:
        raise _refusal(
            f"{path.name} is no readable .npz without pickles ({error}); write it with "
            f"numpy.savez, at most {MOST_BYTES >> 20} MiB of it"
        ) from error


def _fitting(
    file: str, spec: TensorSpec, arrays: Mapping[str, Array], exact: bool, missing: bool
) -> Array:
    if spec.name not in arrays:
        raise _refusal(
            f"{file} has no array for input {spec.name!r}; it has {', '.join(arrays) or 'none'}"
        )
    array, dtype = arrays[spec.name], NUMPY_TYPES[spec.dtype]
    if array.ndim == 0 or array.ndim != len(spec.shape):
        raise _refusal(
            f"{file}: {spec.name!r} has shape {list(array.shape)}, the model takes "
            f"{list(spec.shape)} with samples along the first dimension"
        )
    if array.shape[1:] != tuple(spec.shape[1:]):
        raise _refusal(
            f"{file}: a sample of {spec.name!r} has shape {list(array.shape[1:])}, the model takes "
            f"{list(spec.shape[1:])}"
        )
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise _refusal(f"{file}: {spec.name!r} is {array.dtype}, the model takes {spec.dtype}")
    known = np.isfinite(array) if array.dtype.kind == "f" else np.True_
    if missing and array.dtype.kind == "f":
        known |= np.isnan(array)
    if not known.all():
        what = "infinite" if missing else "NaN or infinite"
        raise _refusal(f"{file}: {spec.name!r} has {what} values; remove those samples")
    if exact and array.dtype.kind == "f" and dtype.kind == "f":
        return array
    return array.astype(dtype, copy=False)


def _refuse_other_batches(file: str, inputs: Sequence[TensorSpec]) -> None:
    sizes = {spec.name: spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] != -1}
    if len(set(sizes.values())) > 1:
        raise _refusal(
            f"{file} cannot say which sample goes where: the first dimension of each input would "
            f'have to be the batch, and they are {sizes}; leave samples out (int8 "dynamic" '
            "needs none), or export the model with its batch first"
        )


def _check_batch(file: str, samples: Samples, inputs: Sequence[TensorSpec]) -> None:
    fixed = next((spec.shape[0] for spec in inputs if spec.shape[0] != -1), None)
    if fixed is not None and len(samples) < fixed:
        raise _refusal(f"{file} has {len(samples)} samples, one run of the model takes {fixed}")


def _refusal(text: str) -> OptionsError:
    return OptionsError(text, reason=Reason.SAMPLES_INVALID)


@dataclass(frozen=True)
class Parts:
    """Labelled samples, parted so that what a candidate is judged on took no part in making it.

    :param calibration: to calibrate on; None where the user gives other samples for that
    :param search: for the search that holds an accuracy bound
    :param held_out: where they lie in the samples, also to judge on and to report
    :param apart: False where the samples are too few to part: then all three are all of them
    """

    calibration: Samples | None
    search: Array
    held_out: Array
    apart: bool


def part(samples: Samples, batch_size: int | None, *, calibrated: bool) -> Parts:
    """Part labelled samples at random, the same each time: files are often sorted by label.

    :param batch_size: samples in a run of the model; a part is whole runs
    :param calibrated: there are other samples to calibrate on, so that none are spent on it
    """
    unit = batch_size or 1
    usable = len(samples) // unit * unit
    places = np.random.default_rng(_SEED).permutation(usable)
    spent = 0 if calibrated else min(max(_CALIBRATION, unit), usable // 4) // unit * unit
    half = (usable - spent) // 2 // unit * unit
    if half < max(unit, _LEAST) or not (calibrated or spent):
        everything = np.arange(usable)
        return Parts(None if calibrated else samples, everything, everything, False)
    calibration = None if calibrated else samples.take(places[:spent])
    return Parts(calibration, places[spent : spent + half], places[spent + half :], True)
