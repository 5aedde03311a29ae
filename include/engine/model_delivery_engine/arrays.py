"""Arrays by name in an ``.npz``: written the same way every time, read without trust."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model_delivery_engine.errors import one_line
from model_delivery_engine.tensors import Array


class ArraysError(ValueError):
    """A file that is no readable ``.npz`` without pickles; says what is wrong with it."""


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under any names; the same arrays give the same bytes."""
    # Strings come from the runtime as objects; as objects they would need a pickle.
    plain = {name: a.astype(str) if a.dtype == object else a for name, a in arrays.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, array in plain.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                # A scalar stays one, which it does not in `ascontiguousarray`.
                ordered = np.asarray(array, order="C")
                np.lib.format.write_array(member, ordered, allow_pickle=False)
    path.write_bytes(buffer.getvalue())


def read_arrays(path: Path, most_bytes: int | None = None) -> dict[str, Array]:
    """Read all arrays.

    :param most_bytes: of all of them, expanded (default: no limit)
    :raises ArraysError: a damaged file, one that needs a pickle, or one past the limit
    """
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if most_bytes is None or size <= most_bytes:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and numpy fail in many ways on what is not theirs
        raise ArraysError(one_line(error, 200) or type(error).__name__) from error
    raise ArraysError(f"it expands to {size} bytes, the limit is {most_bytes}")
