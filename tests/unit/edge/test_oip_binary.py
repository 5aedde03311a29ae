"""Tensors in bytes: what goes in comes out, and what does not fit is refused."""

import random
import struct
from typing import Any

import numpy as np
import pytest
from model_delivery_edge.errors import RequestError
from model_delivery_edge.oip_binary import as_text_element, raw_shape, read_binary, write_binary
from model_delivery_engine.tensors import NUMPY_TYPES, TensorSpec


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", sorted(NUMPY_TYPES))
def test_what_is_written_is_read(name: str, seed: int) -> None:
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    shape = tuple(draw.randint(0, 4) for _ in range(draw.randint(1, 4)))
    size, dtype = int(np.prod(shape)), NUMPY_TYPES[name]
    if name == "BYTES":
        array = np.empty(size, object)
        array[:] = ["".join(draw.choices("aß€𝄞\0\n ", k=draw.randint(0, 9))) for _ in range(size)]
    elif name == "BOOL":
        array = numbers.random(size) < 0.5
    else:
        array = np.frombuffer(numbers.bytes(size * dtype.itemsize), dtype)
    spec = TensorSpec("x", name, (-1,) * len(shape))
    array = array.reshape(shape)
    found = read_binary(memoryview(write_binary(array, spec)), shape, spec)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\1", "ends behind its bytes"),
        (struct.pack("<I", 5) + b"abc", "ends behind its bytes"),
        (struct.pack("<I", 2**32 - 1) + b"abc", "ends behind its bytes"),
        (struct.pack("<I", 1) + b"\xff", "not UTF-8"),
        (b"", "has 0 texts in its bytes"),
        ((struct.pack("<I", 1) + b"a") * 3, "has 3 texts in its bytes"),
    ],
)
def test_texts_that_do_not_fit_are_refused(raw: bytes, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        read_binary(memoryview(raw), (2,), TensorSpec("x", "BYTES", (2,)))


def test_a_truth_value_is_0_or_1() -> None:
    with pytest.raises(RequestError, match="other than 0 and 1"):
        read_binary(memoryview(b"\0\2"), (2,), TensorSpec("x", "BOOL", (2,)))


@pytest.mark.parametrize(
    ("size", "dtype", "shape", "want"),
    [
        (16, "FP32", (-1, 4), (1, 4)),
        (48, "FP32", (-1, 4), (3, 4)),
        (12, "UINT8", (-1, 3, -1), (4, 3, 1)),
        (8, "FP64", (1,), (1,)),
        (99, "BYTES", (-1, 1), (1, 1)),
        (0, "FP32", (-1, 4), (0, 4)),
        (15, "FP32", (-1, 4), None),
        (20, "FP32", (-1, 4), None),
        (16, "FP32", (2, 4), None),
        (99, "BYTES", (2,), None),
    ],
)
def test_the_shape_of_a_body_without_json(
    size: int, dtype: str, shape: tuple[int, ...], want: Any
) -> None:
    spec = TensorSpec("x", dtype, shape)
    if want is None:
        with pytest.raises(RequestError, match="send its shape in a JSON header"):
            raw_shape(size, spec)
    else:
        assert raw_shape(size, spec) == want


def test_a_body_that_is_a_text_is_one_element() -> None:
    spec = TensorSpec("x", "BYTES", (1,))
    raw = as_text_element(memoryview("größer".encode()))
    assert read_binary(raw, (1,), spec).tolist() == ["größer"]
