"""What else a source may answer, before a difference from it is called a fault.

Where it chooses between scores that are as good as equal, either choice is right (`ties`). And
where the runtime's own optimiser changes what it answers, plain ONNX Runtime is the source too:
either of its two answers is right.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model_delivery_engine import probes
from model_delivery_engine.agreement import Closeness, Settle
from model_delivery_engine.compile.contest import load_model
from model_delivery_engine.errors import EngineError, InferenceError
from model_delivery_engine.latency import THREADS
from model_delivery_engine.probes import Run
from model_delivery_engine.runtime import Model, session_options
from model_delivery_engine.tensors import Array, largest
from model_delivery_engine.ties import Ties

log = logging.getLogger(__name__)

_ALIKE = 1e-6


class Settler:
    """Asks the source again.

    :param source: the ONNX file, as `weights.save` lays it
    :param seconds: for one run
    """

    def __init__(self, source: Path, seconds: float | None = None) -> None:
        self._source, self._seconds = source, seconds

    def of_source(self, closeness: Closeness, *, again: bool = True) -> Settle:
        """Return what has the source, where a candidate differs, answer as that has chosen.

        :param again: plain ONNX Runtime's answer is right too
        """
        # Sessions live as long as what is returned: they hold the weights once more.
        ties = Ties(self._source, self._seconds)
        plain = functools.cache(self._plain)

        def settle(_: str, run: Run, got: Mapping[str, Array]) -> tuple[Run, Mapping[str, Array]]:
            expected = run.expected
            if _alike(got, expected):
                return run, got
            if again and (model := plain()):
                expected = _either(got, expected, model, run.inputs)
            if not _alike(got, expected):
                found = ties.chosen_as(run.inputs, run.expected, got, closeness.scale)
                expected = found.answers if found else expected
            noise = {n: each for n, each in run.noise.items() if each.shape == expected[n].shape}
            return Run(run.inputs, expected, noise), got

        return settle

    def of_conversion(self, closeness: Closeness) -> Settle | None:
        """Return what has the source, where its framework differs, answer as that has chosen.

        Scores that no output shows may be alike because they are converted wrongly. They excuse
        nothing on golden inputs, where no model's all are, and elsewhere they explain.
        """
        ties = Ties(self._source, self._seconds)
        if not ties:
            return None

        def settle(
            distribution: str, run: Run, got: Mapping[str, Array]
        ) -> tuple[Run, Mapping[str, Array]]:
            if _alike(got, run.expected):
                return run, got
            found = ties.chosen_as(run.inputs, got, run.expected, closeness.scale)
            if found is None or (not found.shown and distribution == probes.UNIT):
                return run, got
            if found.shown:
                return run, found.answers
            return Run(run.inputs, run.expected, _noisier(run, got, found.answers)), got

        return settle

    def _plain(self) -> Model | None:
        try:
            return load_model(self._source, session_options(THREADS), self._seconds)
        except EngineError as error:
            log.info("the source does not answer again: %s", error)
            return None


def _alike(got: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    """Tell whether nothing is to be settled, which is closer than any bound on what is compared."""
    for name, want in expected.items():
        mine = got.get(name)
        if mine is None or mine.shape != want.shape:
            return False
        if want.dtype.kind != "f":
            if not np.array_equal(mine, want):
                return False
        elif not np.allclose(mine, want, rtol=_ALIKE, atol=_ALIKE * largest(want), equal_nan=True):
            return False
    return True


def _either(
    got: Mapping[str, Array], expected: Mapping[str, Array], model: Model, inputs: dict[str, Array]
) -> dict[str, Array]:
    """Return of the source's two answers the nearer."""
    try:
        second = model.run(inputs)
    except InferenceError:
        return dict(expected)
    return {name: _nearer(got[name], want, second[name]) for name, want in expected.items()}


def _nearer(got: Array, one: Array, other: Array) -> Array:
    """Return of two right answers the nearer, value by value where their shapes are the same."""
    if one.shape != other.shape or got.shape != one.shape:
        return other if got.shape == other.shape else one
    if got.dtype.kind != "f":
        return np.where(got == other, other, one)
    with np.errstate(invalid="ignore", over="ignore"):
        nearer = np.abs(got.astype(np.float64) - other) < np.abs(got.astype(np.float64) - one)
    same = (got == other) | (np.isnan(got) & np.isnan(other))
    return np.where(nearer | same, other, one)


def _noisier(run: Run, got: Mapping[str, Array], settled: Mapping[str, Array]) -> dict[str, Array]:
    noise = dict(run.noise)
    for name, want in run.expected.items():
        mine, theirs = got.get(name), settled.get(name)
        if mine is None or theirs is None or not mine.shape == theirs.shape == want.shape:
            continue
        moved = (mine != theirs).astype(np.float64)
        if want.dtype.kind == "f":
            moved = np.abs(np.nan_to_num(mine.astype(np.float64) - theirs))
        noise[name] = np.maximum(noise.get(name, np.zeros(want.shape)), moved)
    return noise
