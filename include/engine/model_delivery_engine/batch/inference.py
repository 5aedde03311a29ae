"""A batch through the model. A record that fails costs no other its answer.

Too little memory is this machine's, unless a record has too little where another of its batch has
enough: then it is that record's.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from model_delivery_engine.batch.batch import Answers, Batch
from model_delivery_engine.errors import (
    BatchError,
    InferenceError,
    MemoryShortError,
    ShortageError,
)
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

Rows = dict[str, Array]
_SHORT = (MemoryShortError, MemoryError)
_SHORT_S = 1.0  # for memory that somebody else has for a moment


class Runnable(Protocol):
    """What answers a batch: a model, or a recommender over one."""

    name: str

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102

    @property
    def outputs(self) -> Sequence[TensorSpec]: ...  # noqa: D102

    @property
    def batch_size(self) -> int | None: ...  # noqa: D102

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...  # noqa: D102


def check_model(model: Runnable) -> None:
    """Refuse a model that cannot be run in batches, with a BatchError."""
    for spec in model.inputs:
        if not spec.shape:
            raise BatchError(
                f"model {model.name!r}: input {spec.name!r} has no batch dimension; "
                "export the model with one"
            )
    sizes = {spec.shape[0] for spec in model.inputs}
    if len(sizes) > 1:
        raise BatchError(
            f"model {model.name!r}: its inputs differ in their first dimension {sorted(sizes)}; "
            "compile it with one batch size for all"
        )
    _check_outputs(model)


def zeros(model: Runnable, size: int) -> Rows | None:
    """Return a batch of zeros; None where open dimensions or texts leave open what one is."""
    if any(-1 in spec.shape[1:] or spec.dtype == "BYTES" for spec in model.inputs):
        return None
    return {
        spec.name: np.zeros((size, *spec.shape[1:]), NUMPY_TYPES[spec.dtype])
        for spec in model.inputs
    }


def _check_outputs(model: Runnable) -> None:
    """Refuse a model with an output that has no batch: no record could mend that.

    An output is of rank 0 also where its rank is not known, and exporters err in what they declare.
    So where that looks wrong, zeros are run: an output must have a row for each, or, of a model
    that takes any batch, rows at all, since its records are run one by one then.
    """
    size = model.batch_size
    if all(s.shape and (size is None or s.shape[0] in (-1, size)) for s in model.outputs):
        return
    given = zeros(model, size or 2)
    if given is None:
        return
    try:
        outputs = model.run(given)
    except (InferenceError, MemoryError):
        return  # they may not be what it takes
    for name, array in outputs.items():
        if not array.ndim or (size is not None and len(array) != size):
            raise BatchError(
                f"model {model.name!r}: output {name!r} has shape {list(array.shape)} for a batch "
                f"of {size or 2}; export the model with the batch as first dimension"
            )


def answer(batch: Batch, model: Runnable) -> Answers:
    """Run a batch, those of one shape together; where it fails, run its records one by one.

    :raises ShortageError: too little memory for any of them
    """
    places = batch.places()
    rows, reasons = _rows(batch, model)
    reasons.update(
        (n, reason) for n, reason in enumerate(_not_finite(rows)) if reason and n not in reasons
    )
    if not reasons:
        return Answers(batch.count, batch.echoes, rows, batch.faults)
    kept = [n for n in range(len(places)) if n not in reasons]
    faults = {
        **batch.faults,
        **{places[n]: batch.fault_of(places[n], r) for n, r in reasons.items()},
    }
    outputs = {name: array[kept] for name, array in rows.items()}
    return Answers(batch.count, [batch.echoes[n] for n in kept], outputs, faults)


def _rows(batch: Batch, model: Runnable) -> tuple[Rows, dict[int, str]]:
    """One row for each good record; the reasons of those that failed, whose rows mean nothing."""
    samples = batch.tensors
    if not samples:
        return {}, {}
    try:
        if isinstance(samples, dict):
            return _run_when_there_is_memory(samples, model), {}
        return _run_by_shape(samples, model), {}
    except (InferenceError, MemoryError):
        if isinstance(samples, dict):
            count = len(next(iter(samples.values())))
            samples = [{name: array[n] for name, array in samples.items()} for n in range(count)]
    alone = [{name: array[None] for name, array in sample.items()} for sample in samples]
    try:
        return _one_by_one(alone, model)
    except _SHORT as error:
        first = batch.fault_of(batch.places()[0], "")
        raise ShortageError(
            f"{first.uri}: too little memory for any of the {len(alone)} records from "
            f"{first.offset} on, also one at a time ({error}); another try goes on there"
        ) from error


def _run_when_there_is_memory(inputs: Mapping[str, Array], model: Runnable) -> Rows:
    """Try twice: one by one, records may come out with another last digit."""
    try:
        return _run(inputs, model)
    except _SHORT:
        time.sleep(_SHORT_S)
        return _run(inputs, model)


def _run_by_shape(samples: Sequence[Mapping[str, Array]], model: Runnable) -> Rows:
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for n, sample in enumerate(samples):
        groups.setdefault(tuple(sample[name].shape for name in samples[0]), []).append(n)
    runs = [
        {name: np.stack([samples[n][name] for n in places]) for name in samples[0]}
        for places in groups.values()
    ]
    rows = _joined([_run_when_there_is_memory(each, model) for each in runs])
    order = np.argsort(np.concatenate(list(groups.values())))
    return {name: array[order] for name, array in rows.items()}


def _one_by_one(
    samples: Sequence[Mapping[str, Array]], model: Runnable
) -> tuple[Rows, dict[int, str]]:
    done: list[Rows | None] = [None] * len(samples)
    reasons: dict[int, str] = {}
    short: dict[int, Exception] = {}
    for n, sample in enumerate(samples):
        try:
            done[n] = _run(sample, model)
        except _SHORT as error:
            short[n] = error
        except InferenceError as error:
            reasons[n] = str(error)
    first = next((n for n, rows in enumerate(done) if rows is not None), None)
    for n, why in short.items():
        if first is None:
            raise why
        found = _again(samples[n], samples[first], model)
        if isinstance(found, str):
            reasons[n] = found
        else:
            done[n] = found
    if first is None:
        return {}, reasons
    spare = done[first] or {}
    return _joined([rows or spare for rows in done]), reasons


def _again(sample: Mapping[str, Array], other: Mapping[str, Array], model: Runnable) -> Rows | str:
    """Run a record again; why it failed, where there is memory enough for another one.

    :raises MemoryShortError: there is not
    """
    try:
        return _run(sample, model)
    except _SHORT as error:
        _run(other, model)
        return str(error) or "the model needs more memory than there is for this record"


def _joined(pieces: Sequence[Rows]) -> Rows:
    """Put the rows of several runs together."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: _concatenated([rows[name] for rows in pieces]) for name in pieces[0]}


def _concatenated(arrays: Sequence[Array]) -> Array:
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    each = [row for array in arrays for row in array]
    rows = np.empty(len(each), object)  # outputs of different shapes: an array each
    for n, row in enumerate(each):
        rows[n] = np.ascontiguousarray(row)
    return rows


def _run(inputs: Mapping[str, Array], model: Runnable) -> Rows:
    count = len(next(iter(inputs.values())))
    size = model.batch_size or count
    pieces: list[Rows] = []
    for at in range(0, count, size):
        piece = {name: _filled(array[at : at + size], size) for name, array in inputs.items()}
        outputs = model.run(piece)
        for name, array in outputs.items():
            if not array.ndim or len(array) != (size if model.batch_size else count):
                raise InferenceError(
                    f"output {name!r} has shape {list(array.shape)} for a batch of {size}; "
                    "export the model with the batch as first dimension"
                )
        pieces.append({name: array[: count - at] for name, array in outputs.items()})
    return _joined(pieces)


def _filled(array: Array, size: int) -> Array:
    """Repeat the last sample, which the model accepts, up to a model's fixed batch size."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _not_finite(rows: Rows) -> list[str | None]:
    """Why a row cannot be written: JSON spells no NaN and no infinity."""
    reasons: list[str | None] = []
    for name, array in rows.items():
        if array.dtype.kind == "f":
            if np.isfinite(array).all():
                continue
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        elif array.dtype == object and array.ndim == 1:
            finite = np.array([_is_finite(row) for row in array])
        else:
            continue
        reasons = reasons or [None] * len(array)
        for n in np.flatnonzero(~finite):
            reasons[n] = reasons[n] or f"output {name!r} is NaN or infinite"
    return reasons


def _is_finite(row: object) -> bool:
    """Whether one of `_concatenated`'s rows is; a text is."""
    ragged = isinstance(row, np.ndarray) and row.dtype.kind == "f"
    return not ragged or bool(np.isfinite(row).all())  # type: ignore[call-overload]
