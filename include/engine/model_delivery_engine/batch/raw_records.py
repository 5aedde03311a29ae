"""Raw bytes into batches: records of one size, each the little-endian bytes of one tensor."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import orjson

from model_delivery_engine.batch.batch import (
    Batch,
    Fault,
    PartReader,
    even_cuts,
    json_record,
    spelled,
)
from model_delivery_engine.batch.records import Missing, typed_array
from model_delivery_engine.errors import BatchError, InferenceError
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec


def record_bytes(inputs: Sequence[TensorSpec], name: str) -> int:
    """Return the size of a record in bytes.

    :param name: the model's, for messages
    :raises BatchError: a model with several inputs, of text, or of a shape that is not fixed
    """
    spec = inputs[0]
    if len(inputs) != 1 or spec.dtype == "BYTES" or -1 in spec.shape[1:]:
        raise BatchError(
            f"model {name!r}: raw records need one numeric input with fixed dimensions after the "
            f"batch; it takes {', '.join(f'{s.name} {s.dtype} {list(s.shape)}' for s in inputs)}"
        )
    return NUMPY_TYPES[spec.dtype].itemsize * math.prod(spec.shape[1:])


class RawRecords(PartReader):
    """Reads batches of fixed-size records. A last one that is cut short is a fault."""

    def __init__(self, spec: TensorSpec, uri: str, missing: Missing = Missing.ERROR) -> None:
        self._spec = spec
        self._missing = missing
        self._uri = uri
        self._dtype = NUMPY_TYPES[spec.dtype].newbyteorder("<")
        self._size = record_bytes([spec], spec.name)

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches; nothing is ever skipped."""
        for first, end in even_cuts(-(-len(data) // self._size), size):
            at = first * self._size
            yield self._read(data[at : end * self._size], start + at), 0

    def _read(self, data: bytes, offset: int) -> Batch:
        whole, rest = divmod(len(data), self._size)
        array = np.frombuffer(data, self._dtype, whole * self._size // self._dtype.itemsize)
        rows = array.reshape(whole, *self._spec.shape[1:]).astype(NUMPY_TYPES[self._spec.dtype])
        echoes = [b'{"offset":%d}' % (offset + n * self._size) for n in range(whole)]
        faults = {}
        if rest:
            reason = f"the last record has {rest} bytes of {self._size}"
            text = orjson.dumps({"offset": offset + whole * self._size, "bytes": rest})
            faults[whole] = Fault(reason, self._uri, offset + whole * self._size, text)

        def fault_of(place: int, reason: str) -> Fault:
            values = rows[place] if np.isfinite(rows[place]).all() else rows[place].tolist()
            text = json_record({self._spec.name: spelled(values)})
            return Fault(reason, self._uri, offset + place * self._size, text)

        count, good = whole + len(faults), rows
        if reasons := self._reasons(rows):
            faults |= {place: fault_of(place, reason) for place, reason in reasons.items()}
            kept = [place for place in range(whole) if place not in reasons]
            echoes, good = [echoes[place] for place in kept], rows[kept]
        tensors: dict[str, Array] | list[dict[str, Array]]
        tensors = {self._spec.name: good} if len(good) else []
        return Batch(count, echoes, tensors, fault_of, faults)

    def _reasons(self, rows: Array) -> dict[int, str]:
        """Return what is wrong with rows of floats, by their places: as of any other record."""
        reasons: dict[int, str] = {}
        if self._dtype.kind == "f" and not np.isfinite(rows).all():
            sound = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
            for place in np.flatnonzero(~sound).tolist():
                try:
                    typed_array(rows[place], self._spec.name, self._spec, self._missing)
                except InferenceError as error:
                    reasons[place] = str(error)
        return reasons
