"""How far two sets of outputs are apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model_delivery_engine.tensors import Array


@dataclass(frozen=True)
class Difference:
    """The differences of one output.

    :param max_abs: largest absolute difference (floating point), or share of unequal elements
    :param max_rel: the same relative to the expected value, where that is not zero
    :param within: whether every element is within the tolerance; other than floats must be equal
    :param detail: the worst element in words
    """

    output: str
    max_abs: float
    max_rel: float
    within: bool
    detail: str


def compare_outputs(
    actual: Mapping[str, Array], expected: Mapping[str, Array], *, atol: float, rtol: float
) -> list[Difference]:
    """Compare outputs by name: ``|actual - expected| <= atol + rtol * |expected|``.

    A NaN where none is expected, a missing output and another shape are never within.
    """
    return [_compare(name, actual.get(name), want, atol, rtol) for name, want in expected.items()]


def _compare(name: str, got: Array | None, want: Array, atol: float, rtol: float) -> Difference:
    if got is None or got.shape != want.shape:
        shape = "nothing" if got is None else f"shape {list(got.shape)}"
        detail = f"output {name!r} is {shape}, expected shape {list(want.shape)}"
        return Difference(name, float("inf"), float("inf"), False, detail)
    if want.dtype.kind != "f":
        return _compare_exact(name, got, want)
    return _compare_floats(name, got.astype(np.float64), want.astype(np.float64), atol, rtol)


def _compare_exact(name: str, got: Array, want: Array) -> Difference:
    unequal = got.astype(want.dtype) != want
    share = float(np.mean(unequal)) if unequal.size else 0.0
    detail = f"output {name!r}: {int(np.sum(unequal))} of {unequal.size} values differ"
    return Difference(name, share, share, share == 0.0, detail)


def _compare_floats(name: str, got: Array, want: Array, atol: float, rtol: float) -> Difference:
    if not want.size:
        return Difference(name, 0.0, 0.0, True, f"output {name!r} is empty")
    # Equal infinities and NaNs are equal; any other pair with one of them is infinitely apart.
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, np.nan_to_num(np.abs(got - want), nan=np.inf, posinf=np.inf))
        allowed = atol + rtol * np.abs(np.nan_to_num(want, nan=0.0, posinf=0.0, neginf=0.0))
    relative = np.divide(apart, np.abs(want), out=np.zeros_like(apart), where=np.abs(want) > 0)
    worst = int(np.argmax(apart - allowed))
    detail = (
        f"output {name!r}: {got.flat[worst]:.6g} where {want.flat[worst]:.6g} is expected, "
        f"a difference of {apart.flat[worst]:.3g} (allowed {allowed.flat[worst]:.3g})"
    )
    finite_relative = np.nan_to_num(relative, nan=0.0, posinf=np.inf)
    within = bool(np.all(apart <= allowed))
    return Difference(name, float(apart.max()), float(finite_relative.max()), within, detail)
