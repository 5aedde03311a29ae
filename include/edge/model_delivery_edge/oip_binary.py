"""The binary tensor extension of the Open Inference Protocol v2.

A body is JSON, as long as ``Inference-Header-Content-Length`` says, and the tensors behind it, one
after the other: little-endian, in row-major order, a BOOL in one byte, an element of BYTES as four
bytes of length and as many of UTF-8. NaN and infinity, which JSON has not, are values here.

Source: the protocol's binary tensor data extension.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

from model_delivery_edge.errors import RequestError

LENGTH_HEADER = "Inference-Header-Content-Length"
_LENGTH = struct.Struct("<I")
_LONGEST = 20  # digits of a length


@dataclass
class Tail:
    """What stands behind the JSON of a request, read from its beginning.

    :param content: all of it
    """

    content: memoryview
    _at: int = 0

    def take(self, size: int, spec: TensorSpec) -> memoryview:
        """Return the next bytes; RequestError where there are fewer."""
        found = self.content[self._at : self._at + size]
        if len(found) != size:
            raise RequestError(
                f"input {spec.name!r} has a binary_data_size of {size} bytes, and {len(found)} are "
                "left of the request"
            )
        self._at += size
        return found

    def end(self) -> None:
        """Refuse what no input has taken."""
        if left := len(self.content) - self._at:
            raise RequestError(
                f"the request has {left} bytes behind its last binary tensor; give each of its "
                "inputs a binary_data_size"
            )


def parted(body: bytes, length: str | None) -> tuple[bytes | memoryview, Tail | None]:
    """Return a body's JSON, and what stands behind it where the header tells of binary tensors.

    :param length: the header's value
    :raises RequestError: it is no length, or more than there is
    """
    if length is None:
        return body, None
    digits = length.isascii() and length.isdecimal() and len(length) <= _LONGEST
    if not digits or int(length) > len(body):
        raise RequestError(
            f"{LENGTH_HEADER} is {length[:40]!r}, and the request has {len(body)} bytes; give the "
            "length of its JSON"
        )
    view = memoryview(body)
    return view[: int(length)], Tail(view[int(length) :])


def read_binary(raw: memoryview, shape: tuple[int, ...], spec: TensorSpec) -> Array:
    """Turn a tensor's bytes into an array.

    :raises RequestError: too many or too few for the shape, or texts that are not UTF-8
    """
    if spec.dtype == "BYTES":
        texts = list(_texts(raw, spec))
        if len(texts) != prod(shape):
            raise RequestError(
                f"input {spec.name!r} has {len(texts)} texts in its bytes, its shape {list(shape)} "
                f"needs {prod(shape)}"
            )
        array = np.empty(len(texts), object)
        array[:] = texts
        return array.reshape(shape)
    dtype = NUMPY_TYPES[spec.dtype].newbyteorder("<")
    if len(raw) != dtype.itemsize * prod(shape):
        raise RequestError(
            f"input {spec.name!r} has {len(raw)} bytes, its shape {list(shape)} of {spec.dtype} "
            f"needs {dtype.itemsize * prod(shape)}"
        )
    if spec.dtype == "BOOL" and bytes(raw).strip(b"\0\1"):
        raise RequestError(f"input {spec.name!r} is BOOL and has bytes other than 0 and 1")
    return np.frombuffer(raw, dtype).reshape(shape).astype(NUMPY_TYPES[spec.dtype], copy=False)


def raw_shape(size: int, spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of a model's only input that is a whole body, without JSON.

    What the model leaves open is 1, but for one dimension that the size tells: the first open one.

    :param size: of the body, in bytes; a text is one element
    :raises RequestError: the size is none of that data type and shape
    """
    open_ones = [at for at, each in enumerate(spec.shape) if each < 0]
    shape = [max(each, 1) if each < 0 else each for each in spec.shape]
    if spec.dtype == "BYTES":
        elements = 1
    else:
        elements, rest = divmod(size, NUMPY_TYPES[spec.dtype].itemsize)
        each = prod(shape)
        if open_ones and each and not rest and not elements % each:
            shape[open_ones[0]] = elements // each
    if prod(shape) != elements or (spec.dtype != "BYTES" and rest):
        raise RequestError(
            f"a body of {size} bytes without JSON is no {spec.dtype} of shape {list(spec.shape)}, "
            f"which input {spec.name!r} takes; send its shape in a JSON header"
        )
    return tuple(shape)


def as_text_element(raw: memoryview) -> memoryview:
    """Return a body that is one text as an element of BYTES."""
    return memoryview(_LENGTH.pack(len(raw)) + bytes(raw))


def write_binary(array: Array, spec: TensorSpec) -> bytes:
    """Return an output's bytes."""
    if spec.dtype == "BYTES":
        texts = (str(each).encode() for each in array.ravel())
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    return array.astype(NUMPY_TYPES[spec.dtype].newbyteorder("<"), copy=False).tobytes()


def _texts(raw: memoryview, spec: TensorSpec) -> Iterator[str]:
    at = 0
    while at < len(raw):
        head = raw[at : at + _LENGTH.size]
        size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else len(raw)
        text = raw[at + _LENGTH.size : at + _LENGTH.size + size]
        if len(text) != size:
            raise RequestError(
                f"input {spec.name!r} has a text that ends behind its bytes; write the length of "
                "each before it, four bytes, the lowest first"
            )
        try:
            yield str(text, "utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"input {spec.name!r} has a text that is not UTF-8") from error
        at += _LENGTH.size + size
