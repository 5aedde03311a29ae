"""Compare a device's answers, over its own API, with results that batch inference wrote."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from model_delivery_engine.batch.lines import read_lines
from model_delivery_engine.batch.records import Record, RecordParser
from model_delivery_engine.tensors import Array, TensorSpec

from model_delivery.exceptions import EdgeError
from model_delivery.hooks.edge import EdgeInferenceHook
from model_delivery.hooks.storage import StorageHook


def compare_with_device(
    hook: EdgeInferenceHook,
    model: str,
    input_uri: str,
    results_uri: str,
    limit: int,
    tolerance: float,
) -> tuple[int, int]:
    """Return how many records were sent and how many answers agreed.

    :param input_uri: JSON lines that the results came from.
    :param results_uri: JSON lines of batch inference, in the same order.
    :param limit: records to send.
    :param tolerance: largest absolute difference of a number.
    """
    specs = _inputs(hook.metadata(model))
    parser = RecordParser(specs, None)
    storage = StorageHook()
    pairs = zip(_lines(storage, input_uri), _lines(storage, results_uri), strict=False)
    answered = []
    for line, expected in itertools.islice(pairs, limit):
        record = parser.parse(0, line)
        output = json.loads(expected)["output"]
        if not record.reason and output is not None:
            answered.append((record, output))
    if not answered:
        raise EdgeError(f"{results_uri} holds no answered record to compare the device with")
    agreed = 0
    size = _batch_size(specs)
    for start in range(0, len(answered), size):
        batch = answered[start : start + size]
        answer = hook.infer(model, _request([record for record, _ in batch], specs, size))
        agreed += sum(
            _agrees(answer, row, size, output, tolerance) for row, (_, output) in enumerate(batch)
        )
    return len(answered), agreed


def _batch_size(specs: list[TensorSpec]) -> int:
    """Return the records that a request must hold: one, unless the model was compiled for more."""
    return max([1, *(spec.shape[0] for spec in specs if spec.shape)])


def _lines(storage: StorageHook, uri: str) -> Iterator[bytes]:
    return (line for _offset, line in read_lines(storage.read(uri)) if line.strip())


def _inputs(metadata: Mapping[str, Any]) -> list[TensorSpec]:
    return [
        TensorSpec(each["name"], each["datatype"], tuple(each["shape"]))
        for each in metadata["inputs"]
    ]


def _request(records: list[Record], specs: list[TensorSpec], size: int) -> dict[str, Any]:
    """Return a request of `size` records, the last one repeated where there are fewer."""
    filled = records + [records[-1]] * (size - len(records))
    tensors = [(spec, np.stack([each.tensors[spec.name] for each in filled])) for spec in specs]
    return {
        "inputs": [
            {
                "name": spec.name,
                "datatype": spec.dtype,
                "shape": list(tensor.shape),
                "data": tensor.ravel().tolist(),
            }
            for spec, tensor in tensors
        ]
    }


def _agrees(
    answer: Mapping[str, Any], row: int, size: int, output: Mapping[str, Any], tolerance: float
) -> bool:
    given = {
        each["name"]: np.asarray(each["data"]).reshape(size, -1)[row] for each in answer["outputs"]
    }
    return given.keys() == output.keys() and all(
        _equal(given[name], np.ravel(value), tolerance) for name, value in output.items()
    )


def _equal(given: Array, expected: Array, tolerance: float) -> bool:
    if given.shape != expected.shape:
        return False
    if given.dtype.kind in "biuf" and expected.dtype.kind in "biuf":
        return bool(np.allclose(given, expected, rtol=0.0, atol=tolerance))
    return bool(np.array_equal(given, expected))
