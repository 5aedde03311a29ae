"""Compare a device's answers, over its own API, with results that batch inference wrote."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from model_delivery_engine.batch.lines import read_lines
from model_delivery_engine.batch.records import Record, RecordParser
from model_delivery_engine.tensors import TensorSpec

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
    records = agreed = 0
    for line, expected in itertools.islice(pairs, limit):
        record = parser.parse(0, line)
        output = json.loads(expected)["output"]
        if record.reason or output is None:
            continue
        records += 1
        answer = hook.infer(model, _request(record, specs))
        agreed += _agrees(answer, output, tolerance)
    if not records:
        raise EdgeError(f"{results_uri} holds no answered record to compare the device with")
    return records, agreed


def _lines(storage: StorageHook, uri: str) -> Iterator[bytes]:
    return (line for _offset, line in read_lines(storage.read(uri)) if line.strip())


def _inputs(metadata: Mapping[str, Any]) -> list[TensorSpec]:
    return [
        TensorSpec(each["name"], each["datatype"], tuple(each["shape"]))
        for each in metadata["inputs"]
    ]


def _request(record: Record, specs: list[TensorSpec]) -> dict[str, Any]:
    tensors = [(spec, np.expand_dims(record.tensors[spec.name], 0)) for spec in specs]
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


def _agrees(answer: Mapping[str, Any], output: Mapping[str, Any], tolerance: float) -> bool:
    given = {each["name"]: np.asarray(each["data"]) for each in answer["outputs"]}
    return given.keys() == output.keys() and all(
        np.allclose(given[name], np.ravel(value), rtol=0.0, atol=tolerance)
        for name, value in output.items()
    )
