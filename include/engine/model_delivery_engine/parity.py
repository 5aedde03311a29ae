"""Parity: what compilation changed in a model's answers, measured on the golden inputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.difference import Difference, compare_outputs
from model_delivery_engine.errors import CompilationError, ParityError, Reason
from model_delivery_engine.measurements import Parity
from model_delivery_engine.tensors import Array, largest


@dataclass(frozen=True)
class Tolerance:
    """``|actual - expected| <= atol + rtol * |expected|``."""

    atol: float
    rtol: float


# Single precision leaves about seven digits; sums in another order, and on another processor,
# cost three of them.
SINGLE = Tolerance(1e-4, 1e-3)
# What sums lose of single precision at 1, about which golden inputs lie: eight of its last steps.
# Beneath it a value may be what is left of larger ones that cancel.
_LEAST = 2.0**-20
_SHARE = 1e-2  # of an output: the most that this may be of it, so that zeros never pass
# Of an output's largest value: what the last bits of lower precision may cost where another
# processor rounds its sums another way.
_LOWER = {"fp16": Tolerance(1e-2, 1e-2), "int8": Tolerance(5e-2, 2e-2)}


def absolute_for(size: float) -> float:
    """Return the absolute tolerance in single precision of an output, by its largest magnitude.

    1e-4; of an output smaller than 1 a ten-thousandth of its size, though no less than sums lose.
    One of zeros alone has no size, and 1e-4.
    """
    if not size:
        return SINGLE.atol
    return max(SINGLE.atol * min(size, 1.0), min(_LEAST, _SHARE * size))


def tolerance_for(precision: str, outputs: Mapping[str, Array]) -> Tolerance:
    """Return how closely a device must reproduce a model's golden outputs.

    :param precision: fp32, fp16 or int8
    :param outputs: the golden outputs, whose size lower precision's tolerance goes by
    """
    lower = _LOWER.get(precision)
    if lower is None:
        return SINGLE
    scale = max((largest(array) for array in outputs.values()), default=0.0)
    return Tolerance(max(absolute_for(scale), lower.atol * scale), lower.rtol)


def measure_parity(
    compiled: Mapping[str, Array], source: Mapping[str, Array], *, tolerance: Tolerance = SINGLE
) -> Parity:
    """Measure a compiled model's outputs against the source model's on the same inputs.

    :param tolerance: how far off they may be (default: 1e-4 absolute, 1e-3 relative)
    :raises CompilationError: the source model itself answers NaN
    :raises ParityError: an output is further off than the tolerance; says the worst value
    """
    refuse_nan(source)
    differences = compare_outputs(compiled, source, atol=tolerance.atol, rtol=tolerance.rtol)
    if failed := [each for each in differences if not each.within]:
        worst = max(failed, key=lambda each: each.max_abs)
        raise ParityError(
            f"the compiled model misses the source model: {worst.detail}; "
            "report this model, and deliver it uncompiled meanwhile"
        )
    return _parity(compiled, source, differences, tolerance)


def difference(compiled: Mapping[str, Array], source: Mapping[str, Array]) -> Parity:
    """Record how far outputs are apart, for a model of lower precision, held to other bounds."""
    differences = compare_outputs(compiled, source, atol=SINGLE.atol, rtol=SINGLE.rtol)
    return _parity(compiled, source, differences, SINGLE)


def refuse_nan(outputs: Mapping[str, Array]) -> None:
    """Raise CompilationError for a source model that answers NaN, or nothing finite."""
    for name, array in outputs.items():
        if array.dtype.kind != "f" or not array.size:
            continue
        if not np.isfinite(array).any() and not np.isnan(array).any():
            raise CompilationError(
                f"output {name!r} of the source model is infinite on all golden inputs in [0, 1), "
                "so that nothing can be proved of it; look for an infinite factor, a division by "
                "zero or an overflow in it",
                reason=Reason.OUTPUT_NAN,
            )
        if np.isnan(array).any():
            raise CompilationError(
                f"output {name!r} of the source model is NaN on golden inputs in [0, 1), and its "
                "weights are finite; look for a division by zero, a root or a logarithm in it",
                reason=Reason.OUTPUT_NAN,
            )


def _parity(
    compiled: Mapping[str, Array],
    source: Mapping[str, Array],
    differences: list[Difference],
    tolerance: Tolerance,
) -> Parity:
    floats = [each for each in differences if source[each.output].dtype.kind == "f"]
    # What JSON cannot hold: an infinite difference is a division by a value near zero.
    most = float(np.finfo(np.float64).max)
    return Parity(
        max_abs=min(max((each.max_abs for each in floats), default=0.0), most),
        max_rel=min(max((each.max_rel for each in floats), default=0.0), most),
        argmax_agreement=_argmax_agreement(compiled, source),
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        samples=max((len(array) for array in source.values() if array.ndim), default=1),
    )


def _argmax_agreement(compiled: Mapping[str, Array], source: Mapping[str, Array]) -> float | None:
    """Agreement over the outputs that score classes: floating point with two or more a row."""
    scores = [
        n
        for n, a in source.items()
        if a.dtype.kind == "f" and a.ndim > 1 and a.shape[-1] > 1 and compiled[n].shape == a.shape
    ]
    if not scores:
        return None
    agreed = [compiled[n].argmax(axis=-1) == source[n].argmax(axis=-1) for n in scores]
    if not any(each.size for each in agreed):
        return None
    return float(np.mean(np.concatenate([each.ravel() for each in agreed])))
