"""Probes: inputs beyond the golden ones, on which two forms of a model must answer alike.

A converter that truncates where the framework floors is right on every input in [0, 1). Each
distribution here draws what the others leave out: signs, magnitudes, exact whole numbers, halfway
points, edges. A model need not have answers to all of them: one on which it raises or answers NaN
is left out, by name and with the reason.

With each answer comes its noise: how far the same model's answers move where its inputs move by
their last bits. What rounding alone can do to a model is no fault of a conversion.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_delivery_engine.errors import EngineError, TimeShortError, one_line
from model_delivery_engine.golden import SEED, draw_inputs, refuse_strings
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

Answer = Callable[[dict[str, Array]], dict[str, Array]]
Categories = Mapping[int, Sequence[float]]

UNIT = "unit"
# Name, then what floats and what wide integers are drawn from.
_LARGEST = 4.5  # a power of ten; half precision holds up to 4.8
_TINY = 1e-30  # smaller ones are flushed to zero by some frameworks, and are no fault of theirs
_EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 1e-6, -1e-6, _TINY, -_TINY)
_WHOLE_EDGES = (0, 1, -1, 2, 127, 128, -128, 255, 256)
_Floats = Callable[[np.random.Generator, tuple[int, ...]], Array]
_FLOATS: dict[str, _Floats] = {
    "signed": lambda rng, shape: rng.normal(size=shape),
    "wide": lambda rng, shape: rng.normal(size=shape) * 10,
    "large": lambda rng, shape: (
        rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(1.5, _LARGEST, shape)
    ),
    "whole": lambda rng, shape: rng.integers(-16, 17, shape).astype(np.float64),
    "halves": lambda rng, shape: rng.integers(-8, 8, shape) + 0.5,
    "edges": lambda rng, shape: rng.choice(_EDGES, shape),
    # Where a framework takes NaN for a value that is missing.
    "missing": lambda rng, shape: np.where(rng.random(shape) < 0.2, np.nan, rng.normal(size=shape)),
}
_WHOLE: dict[str, tuple[int, int]] = {
    "signed": (-8, 9), "wide": (0, 1000), "large": (-1000, 1001), "whole": (0, 17),
    "halves": (0, 100), "missing": (0, 2),
}  # fmt: skip
DISTRIBUTIONS = (UNIT, *(name for name in _FLOATS if name != "missing"))
MISSING = "missing"

# All up, all down, then each value at random: a step in one value is met from both sides.
_DIRECTIONS: tuple[tuple[float, ...], ...] = ((1.0,), (-1.0,), (-1.0, 1.0), (-1.0, 1.0))
_BITS = 2.0**-20  # of a value: eight of single precision's last steps, as sums in a model lose them
_BITS_OF_HALF = 2.0**-9
_ROWS, _VALUES = 64, 4096  # in a run of an open batch: that many rows, unless they are large
_RUNS, _LEAST_VALUES = 8, 64  # of a closed batch: more runs where one has few values
_NARROW = " (whole numbers 0 and 1)"
_WORDS = 100  # of a reason, letters
SECONDS = 120.0  # for all that is drawn beyond the golden inputs
NO_TIME = "there was no time for it"
LABELLED = "samples"  # the user's, of which every answer is scored
_COMPARED = 512  # of the user's samples, with their noise
_COMPARED_BYTES = 2**29  # of answers to them: a segmentation of one image has tens of megabytes


@dataclass(frozen=True)
class Run:
    """One run of a model.

    :param noise: by output, how far each value moves with the last bits of the inputs; for other
        than floats 1 where it changed
    """

    inputs: dict[str, Array]
    expected: dict[str, Array]
    noise: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A distribution and what the model to match answers to it."""

    distribution: str
    runs: tuple[Run, ...]


def answer_probe(
    name: str,
    specs: Sequence[TensorSpec],
    answer: Answer,
    until: float = float("inf"),
    categories: Categories | None = None,
) -> Probe | str:
    """Draw a distribution and have the model to match answer it.

    Where the model refuses what was drawn and takes whole numbers beside floats, it is asked again
    with 0 and 1 for those: an index out of its table says nothing of the floats.

    :param name: one of `DISTRIBUTIONS`, or ``missing``
    :param answer: runs the model
    :param until: the `time.monotonic` past which no more is asked
    :param categories: as `draw` takes them
    :returns: the probe, or why there is none
    """
    if time.monotonic() > until:
        return NO_TIME
    kinds = {NUMPY_TYPES[spec.dtype].kind for spec in specs}
    narrowed = [False, True] if "f" in kinds and kinds & set("iu") else [False]
    why = ""
    for narrow in narrowed:
        runs = draw(name, specs, narrow=narrow, categories=categories)
        found = answer_runs(runs, answer)
        if not isinstance(found, str):
            label = f"{name}{_NARROW}" if narrow and name != UNIT else name
            return Probe(label, found)
        why = why or found
    return why


def plain(label: str) -> tuple[str, bool]:
    """Return a probe's distribution, and whether its whole numbers were narrowed to 0 and 1."""
    return label.removesuffix(_NARROW), label.endswith(_NARROW)


@dataclass
class Compared:
    """How many of the user's samples were answered, and the bytes of the answers."""

    samples: int = 0
    size: int = 0

    def add(self, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
        """Count a run."""
        self.samples += len(next(iter(inputs.values())))
        self.size += sum(array.nbytes for array in expected.values())

    @property
    def enough(self) -> bool:
        """Whether they are as many as are compared."""
        return self.samples >= _COMPARED or self.size >= _COMPARED_BYTES


def answer_samples(runs: Iterable[dict[str, Array]], answer: Answer) -> tuple[Run, ...] | str:
    """Have a model answer the user's samples, with their noise, until it is enough of them."""
    compared = Compared()
    found: list[Run] = []
    for inputs in runs:
        answered = answer_runs([inputs], answer)
        if isinstance(answered, str):
            return answered
        found += answered
        compared.add(inputs, answered[0].expected)
        if compared.enough:
            break
    return tuple(found)


def answer_runs(runs: Sequence[dict[str, Array]], answer: Answer) -> tuple[Run, ...] | str:
    """Have a model answer runs, with their noise; or why it cannot."""
    answered = []
    for inputs in runs:
        try:
            expected = answer(inputs)
        except TimeShortError as error:
            return f"{NO_TIME}: {one_line(error, _WORDS)}"
        except EngineError as error:
            return one_line(error, _WORDS)
        except Exception as error:  # a framework refuses inputs in ways of its own
            return f"{type(error).__name__}: {one_line(error, _WORDS)}"
        if why := _no_answer(expected):
            return why
        answered.append(Run(inputs, expected, noise_of(inputs, expected, answer)))
    return tuple(answered)


def _no_answer(outputs: Mapping[str, Array]) -> str | None:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and array.size and not np.isfinite(array).any():
            return f"output {name!r} is not finite"
    return None


def noise_of(
    inputs: Mapping[str, Array], expected: Mapping[str, Array], answer: Answer
) -> dict[str, Array]:
    """Return how far answers move where the inputs move by their last bits.

    A perturbed run that fails counts as no noise: the bound then stays where it is.
    """
    rng = np.random.default_rng(SEED)
    # Of single precision's answers single will do: noise is what takes most of the memory.
    noise = {
        name: np.zeros(array.shape, np.float64 if array.dtype == np.float64 else np.float32)
        for name, array in expected.items()
    }
    if not any(array.dtype.kind == "f" for array in inputs.values()):
        return noise
    for directions in _DIRECTIONS:
        moved = {name: _perturbed(rng, array, directions) for name, array in inputs.items()}
        try:
            answers = answer(moved)
        except Exception:
            continue
        for name, want in expected.items():
            if answers[name].shape == want.shape:
                found = np.maximum(noise[name], _apart(answers[name], want))
                with np.errstate(over="ignore"):
                    noise[name] = found.astype(noise[name].dtype)
    return noise


def _perturbed(rng: np.random.Generator, array: Array, directions: tuple[float, ...]) -> Array:
    if array.dtype.kind != "f":
        return array
    bits = _BITS_OF_HALF if array.dtype.itemsize == 2 else _BITS
    factors = 1 + bits * rng.choice(directions, array.shape)
    return np.asarray(array.astype(np.float64) * factors, array.dtype)


def _apart(got: Array, want: Array) -> Array:
    if want.dtype.kind != "f":
        return np.asarray(got != want, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(got.astype(np.float64) - want)
    return np.where(got == want, 0.0, np.nan_to_num(difference, nan=0.0, posinf=np.inf))


def draw(
    name: str,
    specs: Sequence[TensorSpec],
    *,
    narrow: bool = False,
    seed: int = SEED,
    categories: Categories | None = None,
) -> list[dict[str, Array]]:
    """Draw the runs of a distribution; the same seed draws the same.

    :param narrow: 0 and 1 for whole numbers, whatever the distribution
    :param categories: by column of the one input, what is drawn there instead (default: none)
    """
    rng = np.random.default_rng([seed, *name.encode()])
    if name == UNIT:
        drawn = [draw_inputs(specs, seed=seed)]
    else:
        rows, runs = _sizes(specs)
        drawn = [
            {spec.name: _drawn(rng, name, spec, rows, narrow) for spec in specs}
            for _ in range(runs)
        ]
    for place, values in (categories or {}).items():
        for table in (run[specs[0].name] for run in drawn):
            table[:, place] = rng.choice(values, len(table))
    return drawn


def _sizes(specs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Return the rows of an open batch in a run, and the number of runs."""
    values = sum(int(np.prod([abs(size) for size in spec.shape])) for spec in specs)
    if any(-1 in spec.shape for spec in specs):
        return int(np.clip(_VALUES // max(values, 1), 4, _ROWS)), 1
    return 1, int(np.clip(_LEAST_VALUES // max(values, 1), 1, _RUNS))


def _drawn(rng: np.random.Generator, name: str, spec: TensorSpec, rows: int, narrow: bool) -> Array:
    refuse_strings(spec)
    dtype = NUMPY_TYPES[spec.dtype]
    shape = tuple(rows if size == -1 else size for size in spec.shape)
    if dtype.kind == "f":
        return np.asarray(_FLOATS[name](rng, shape), dtype)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), dtype)
    limits = np.iinfo(dtype)
    if dtype.itemsize == 1:
        return np.asarray(rng.integers(limits.min, limits.max + 1, shape), dtype)
    if narrow:
        return np.asarray(rng.integers(0, 2, shape), dtype)
    if name == "edges":
        fitting = [value for value in _WHOLE_EDGES if value >= limits.min]
        return np.asarray(rng.choice(fitting, shape), dtype)
    low, high = _WHOLE[name]
    return np.asarray(rng.integers(max(low, int(limits.min)), high, shape), dtype)
