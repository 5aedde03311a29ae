"""Parity: what compilation changed in a model's answers, measured on the golden inputs."""

from collections.abc import Mapping

import numpy as np

from model_delivery_engine.compare import compare_outputs
from model_delivery_engine.errors import CompilationError, ParityError
from model_delivery_engine.manifest import Parity
from model_delivery_engine.tensors import Array

# Single precision leaves about seven digits; sums in another order, and on another processor,
# cost three of them.
ATOL = 1e-4
RTOL = 1e-3


def measure_parity(
    compiled: Mapping[str, Array],
    source: Mapping[str, Array],
    *,
    atol: float = ATOL,
    rtol: float = RTOL,
) -> Parity:
    """Measure a compiled model's outputs against the source model's on the same inputs.

    :param atol: absolute tolerance (default: 1e-4)
    :param rtol: tolerance relative to the source's values (default: 1e-3)
    :raises CompilationError: the source model itself answers NaN
    :raises ParityError: an output is further off than the tolerance; says the worst value
    """
    for name, array in source.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise CompilationError(
                f"output {name!r} of the source model is NaN on golden inputs in [0, 1); "
                "look for NaN weights, and train or export it again"
            )
    differences = compare_outputs(compiled, source, atol=atol, rtol=rtol)
    if failed := [each for each in differences if not each.within]:
        worst = max(failed, key=lambda each: each.max_abs)
        raise ParityError(
            f"the compiled model misses the source model: {worst.detail}; "
            "report this model, and deliver it uncompiled meanwhile"
        )
    floats = [each for each in differences if source[each.output].dtype.kind == "f"]
    return Parity(
        max_abs=max((each.max_abs for each in floats), default=0.0),
        max_rel=max((each.max_rel for each in floats), default=0.0),
        argmax_agreement=_argmax_agreement(compiled, source),
        atol=atol,
        rtol=rtol,
        samples=max((len(array) for array in source.values() if array.ndim), default=1),
    )


def _argmax_agreement(compiled: Mapping[str, Array], source: Mapping[str, Array]) -> float | None:
    """Agreement over the outputs that score classes: floating point with two or more a row."""
    scores = [
        n for n, a in source.items() if a.dtype.kind == "f" and a.ndim > 1 and a.shape[-1] > 1
    ]
    if not scores:
        return None
    agreed = [compiled[n].argmax(axis=-1) == source[n].argmax(axis=-1) for n in scores]
    return float(np.mean(np.concatenate([each.ravel() for each in agreed])))
