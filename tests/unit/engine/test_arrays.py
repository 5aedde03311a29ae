import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.arrays import ArraysError, read_arrays, write_arrays
from model_delivery_engine.errors import OptionsError
from model_delivery_engine.quantize.samples import load_samples
from model_delivery_engine.tensors import TensorSpec


def test_arrays_of_any_name_and_shape_come_back(tmp_path: Path) -> None:
    arrays = {
        "file": np.arange(6).reshape(2, 3),
        "allow_pickle": np.zeros((0, 2), np.float32),
        "a/b:0": np.array(16000),  # a scalar
        "across": np.arange(6).reshape(2, 3).T,
        "words": np.array(["one", "two"], object),
    }
    write_arrays(tmp_path / "one.npz", arrays)
    write_arrays(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found = read_arrays(tmp_path / "one.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    np.savez_compressed(tmp_path / "s.npz", x=x)
    return tmp_path / "s.npz"


def test_damage_of_any_kind_is_one_error(packed: Path) -> None:
    whole, rng = packed.read_bytes(), np.random.default_rng(0)
    causes = set()
    for _ in range(1500):
        data = bytearray(whole)
        at = int(rng.integers(0, len(data) - 8))
        data[at : at + 8] = rng.bytes(8)
        packed.write_bytes(data)
        try:
            read_arrays(packed)
        except ArraysError as error:
            causes.add(type(error.__cause__))
    assert {zipfile.BadZipFile, zlib.error} <= causes


def test_damaged_samples_are_the_users_fault(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[80:3000] = b"\xff" * 2920
    packed.write_bytes(data)
    with pytest.raises(OptionsError, match=r"s\.npz is no readable \.npz"):
        load_samples(packed, [TensorSpec("x", "FP32", (-1, 4))])


def test_what_expands_past_the_limit_is_not_read(packed: Path) -> None:
    with pytest.raises(ArraysError, match=r"expands to \d+ bytes, the limit is 1000"):
        read_arrays(packed, 1000)
