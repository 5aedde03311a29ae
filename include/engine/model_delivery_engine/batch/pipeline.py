"""One shard through a model: lines in, as many lines out, in the same order.

An answer is ``{"input": {fields}, "output": {tensor: value}, "error": null}``. A record that cannot
be answered is ``{"input": …, "output": null, "error": {"reason", "uri", "offset"}}``; it costs no
other record its answer.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_delivery_engine.batch.records import Record, RecordParser, not_finite, rows_as_json
from model_delivery_engine.errors import BatchError, InferenceError
from model_delivery_engine.runtime import Model
from model_delivery_engine.tensors import Array


@dataclass(frozen=True)
class ShardResult:
    """Counts of one shard, each taken on its own: records read, answers and errors written."""

    records: int
    ok: int
    errors: int


def run_shard(
    lines: Iterable[tuple[int, bytes]],
    model: Model,
    write: Callable[[bytes], None],
    *,
    uri: str,
    batch_size: int = 64,
    input_fields: Mapping[str, str] | None = None,
) -> ShardResult:
    """Run a shard's lines through a model.

    :param lines: byte offset and bytes of each line, as from `read_lines`; blank ones are skipped
    :param model: a loaded model; every input has the batch as its first dimension
    :param write: takes each line of output, with its line end
    :param uri: the object the lines come from, for error records
    :param batch_size: records in one run (default: 64); a model of fixed batch size uses its own,
        and the last batch is filled up
    :param input_fields: record field to input name (default: fields are named as the inputs)
    :raises BatchError: a batch size below 1, or a model without a batch dimension
    """
    _check_model(model, batch_size)
    try:
        parser = RecordParser(model.inputs, input_fields)
    except InferenceError as error:
        raise BatchError(f"model {model.name!r}: {error}") from error
    records = (parser.parse(offset, line) for offset, line in lines if line.strip())
    read = ok = errors = 0
    for batch in _batches(records, model.batch_size or batch_size):
        read += len(batch)
        _answer([record for record in batch if record.reason is None], model)
        for record in batch:
            write(_line(record, uri))
            ok += record.output is not None
            errors += record.output is None
    return ShardResult(read, ok, errors)


def _check_model(model: Model, batch_size: int) -> None:
    if batch_size < 1:
        raise BatchError(f"batch_size is {batch_size}; give at least 1")
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


def _batches(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    while batch := list(itertools.islice(records, size)):
        yield batch


def _answer(records: Sequence[Record], model: Model) -> None:
    """Give each record its output or its reason. A batch that fails is run record by record."""
    if not records:
        return
    try:
        rows = _run(records, model)
    except InferenceError as error:
        if len(records) == 1:
            records[0].reason = str(error)
            return
        for record in records:
            _answer([record], model)
        return
    for number, record in enumerate(records):
        output = {name: values[number] for name, values in rows.items()}
        if bad := [name for name, value in output.items() if not_finite(value)]:
            record.reason = f"output {bad[0]!r} is NaN or infinite"
        else:
            record.output = output


def _run(records: Sequence[Record], model: Model) -> dict[str, list[Any]]:
    size = model.batch_size or len(records)
    inputs = {s.name: _stack([r.tensors[s.name] for r in records], size) for s in model.inputs}
    rows = {name: rows_as_json(name, array) for name, array in model.run(inputs).items()}
    for name, values in rows.items():
        if len(values) != size:
            raise InferenceError(
                f"output {name!r} has {len(values)} rows for a batch of {size}; "
                "export the model with the batch as first dimension"
            )
    return rows


def _stack(samples: Sequence[Array], size: int) -> Array:
    """One array of ``size`` samples; what is missing repeats the last, which the model accepts."""
    if len({sample.shape for sample in samples}) > 1:
        raise InferenceError("records of one batch have different shapes")
    return np.stack([*samples, *[samples[-1]] * (size - len(samples))])


def _line(record: Record, uri: str) -> bytes:
    error = None
    if record.output is None:
        error = {"reason": record.reason, "uri": uri, "offset": record.offset}
    answer = {"input": record.fields, "output": record.output, "error": error}
    try:
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON has but UTF-8 has not
        text = json.dumps(answer, separators=(",", ":")).encode()
    return text + b"\n"
