"""Weights off the graph: a model while it is compiled is a small ONNX file and its data beside it.

The checker, shape inference, operator set conversion and the graph's rewriting then run on the
small file, and ONNX Runtime maps the weights and drops each once it is rearranged for the
processor. With the weights inside, each of these holds one to two copies of them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, set_external_data

from model_delivery_engine.digest import digest_bytes, digest_file
from model_delivery_engine.errors import CompilationError, Reason
from model_delivery_engine.nodes import all_tensors, inner_tensors

MOST_BYTES = 2**31 - 1  # protobuf's own limit for one message
SUFFIX = ".data"
# A smaller tensor may say a shape or an axis, which whatever reads the graph has to know.
THRESHOLD = 1024
_ALIGNMENT = 64  # of a processor's cache, whose lines its widest loads like to start at


def save(model: Any, path: Path) -> None:
    """Write an ``onnx.ModelProto`` with its larger weights beside it, in ``<name>.data``.

    The message loses them. A tensor whose data is in a file of that folder already stays there.
    """
    data = path.with_name(path.name + SUFFIX)
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.HasField("raw_data") and len(tensor.raw_data) >= THRESHOLD:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                offset, length = file.tell(), file.write(tensor.raw_data)
                set_external_data(tensor, data.name, offset, length)
                tensor.ClearField("raw_data")
        empty = not file.tell()
    if empty:
        data.unlink()
    onnx.save(model, path)


def skeleton(path: Path) -> Any:
    """Return a model without what lies beside it: an ``onnx.ModelProto`` of names and sizes."""
    return onnx.load(path, load_external_data=False)


def digest(path: Path) -> str:
    """Return a digest of a model with what lies beside it."""
    return digest_bytes("\n".join(map(digest_file, [path, *files_of(path)])).encode())


def embed(path: Path, into: Path) -> None:
    """Write a model as one file, its weights inside; a file of another format is copied.

    :raises CompilationError: over the 2 GiB that one file of the format holds
    """
    if not list(files_of(path)):
        shutil.copyfile(path, into)
        return
    if size_of(path) > MOST_BYTES:
        raise CompilationError(
            f"{path.name} is over 2 GiB once it is optimised; quantise it",
            reason=Reason.MODEL_TOO_LARGE,
        )
    model = skeleton(path)
    for tensor in inner_tensors(model.graph):
        if tensor.external_data:  # few, and no copy of the outer weights: they need no streaming
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    heads, places = [], []
    inside = []
    for tensor in model.graph.initializer:
        if tensor.external_data:
            places.append(_place(tensor))
            heads.append(_head(tensor, places[-1].length))
        else:
            inside.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
    del model.graph.initializer[:]
    model.graph.initializer.extend(inside)
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    lengths = [len(head) + place.length for head, place in zip(heads, places, strict=True)]
    frames = [_field(_INITIALIZER, length) for length in lengths]
    size = len(graph) + sum(map(len, frames)) + sum(lengths)
    with into.open("wb") as file:
        file.write(model.SerializeToString() + _field(_GRAPH, size) + graph)
        for frame, head, place in zip(frames, heads, places, strict=True):
            file.write(frame + head)
            _copy(path.parent, place, file)


# The format's own encoding, written piece by piece: a message that is built whole and serialised
# takes twice the weights in memory. Numbers of fields are onnx.proto's.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_CHUNK = 2**20


def _field(number: int, length: int) -> bytes:
    """Return what stands before a field of that many bytes."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


class _Place(NamedTuple):
    location: str
    offset: int
    length: int


def _place(tensor: Any) -> _Place:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return _Place(entries["location"], int(entries.get("offset", 0)), int(entries["length"]))


def _head(tensor: Any, length: int) -> bytes:
    """Return a tensor up to its data, as if that were inside."""
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField("external_data")
    bare.ClearField("data_location")
    return bytes(bare.SerializeToString() + _field(_RAW_DATA, length))


def _copy(folder: Path, place: _Place, into: BinaryIO) -> None:
    with (folder / place.location).open("rb") as file:
        file.seek(place.offset)
        for start in range(0, place.length, _CHUNK):
            into.write(file.read(min(_CHUNK, place.length - start)))


def size_of(path: Path) -> int:
    """Return the bytes of a model: its file and those that it names."""
    return sum(each.stat().st_size for each in (path, *files_of(path)))


def files_of(path: Path) -> Iterator[Path]:
    """Yield the files beside a model that its weights are in; none for another format."""
    if path.suffix != ".onnx":
        return
    names = {
        entry.value
        for tensor in all_tensors(skeleton(path).graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    yield from (path.with_name(name) for name in sorted(names))
