"""The batch size is measured quickly, whatever a model takes for a record."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.batch import batch_size
from model_delivery_engine.batch.batch_size import SIZES, UNMEASURED, fastest_batch_size
from model_delivery_engine.errors import InferenceError
from model_delivery_engine.tensors import TensorSpec


class Timed:
    """Stands for a model whose run of a batch takes so long."""

    name = "timed"
    batch_size = None
    outputs = (TensorSpec("y", "FP32", (-1, 1)),)

    def __init__(self, seconds: Callable[[int], float], dtype: str = "FP32") -> None:
        self.inputs = (TensorSpec("x", dtype, (-1, 4)),)
        self.largest = 0
        self._seconds = seconds

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        size = len(inputs["x"])
        self.largest = max(self.largest, size)
        time.sleep(self._seconds(size))
        return {"y": np.zeros((size, 1), np.float32)}


@pytest.mark.parametrize("each", [0.05, 0.4])
def test_a_heavy_model_begins_soon(each: float) -> None:
    model = Timed(lambda size: each * size)
    started = time.perf_counter()
    assert fastest_batch_size(model) == SIZES[0]
    assert time.perf_counter() - started < 3
    assert model.largest <= 16


def test_a_model_that_is_no_faster_in_larger_batches_gets_small_ones() -> None:
    model = Timed(lambda size: 0.001 * size)
    assert fastest_batch_size(model) <= 16
    assert model.largest <= 64


def test_a_model_whose_calls_cost_gets_the_largest() -> None:
    assert fastest_batch_size(Timed(lambda _size: 0.005)) == SIZES[-1]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Timed(lambda _size: 0.005)
    monkeypatch.setattr(batch_size, "_peak_bytes", lambda: model.largest * 10 * 2**20)
    assert fastest_batch_size(model) == 32  # of 320 MiB; the next would need 640


def test_texts_are_not_measured() -> None:
    assert fastest_batch_size(Timed(lambda _size: 0.0, "BYTES")) == UNMEASURED


def test_a_model_that_refuses_zeros_gets_small_batches() -> None:
    def refuse(_size: int) -> float:
        raise InferenceError("zeros mean nothing to it")

    assert fastest_batch_size(Timed(refuse)) == SIZES[0]
