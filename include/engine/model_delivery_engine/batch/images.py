"""Images into batches. The input is JSON lines that name an object each: a folder's listing."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from model_delivery_engine.batch.batch import Batch, Fault, even_cuts, record_text
from model_delivery_engine.batch.json_lines import (
    open_envelope,
    records_of,
    split_lines,
    stack_samples,
)
from model_delivery_engine.batch.parts import (
    FIRST_PART_BYTES,
    LARGEST_PART_BYTES,
    LineSource,
    Part,
    PartData,
)
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.batch.storage import ObjectInfo, Storage, read_bytes
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

_READERS = 8
_SAMPLE = 64 * 1024
_CHANNELS = {1: "grey", 3: "colour"}


def list_objects(objects: Iterable[ObjectInfo]) -> Iterator[bytes]:
    """Return the lines of an image batch's input: ``{"uri", "size", "etag"}`` for each object."""
    for each in objects:
        yield orjson.dumps({"uri": each.uri, "size": each.size, "etag": each.etag}) + b"\n"


def listing_part_bytes(storage: Storage, shard: Shard) -> int:
    """Return how much of a listing makes a part whose objects are about 8 MiB together."""
    end = min(shard["start"] + _SAMPLE, shard["end"])
    lines = split_lines(read_bytes(storage, shard["uri"], shard["start"], end))
    sizes = [size for line in lines if (size := _size(line)) is not None]
    if not sizes:
        return FIRST_PART_BYTES
    mean_line = sum(map(len, lines)) / len(lines) + 1
    mean_size = max(sum(sizes) / len(sizes), 1)
    return max(int(LARGEST_PART_BYTES / mean_size * mean_line), 1)


def _size(line: bytes) -> int | None:
    try:
        data = orjson.loads(line)
    except ValueError:
        return None
    size = data.get("size") if isinstance(data, dict) else None
    return size if isinstance(size, int) else None


@dataclass(frozen=True)
class Layout:
    """Where an image tensor has its channels, and its size; -1 keeps the image's own."""

    channels: int
    height: int
    width: int
    channels_first: bool

    @classmethod
    def of(cls, spec: TensorSpec) -> "Layout":
        """Read it from a model's input; BatchError for an input that takes no image."""
        shape = spec.shape[1:]
        if len(shape) == 3 and shape[0] in _CHANNELS:
            return cls(shape[0], shape[1], shape[2], channels_first=True)
        if len(shape) == 3 and shape[2] in _CHANNELS:
            return cls(shape[2], shape[0], shape[1], channels_first=False)
        raise BatchError(
            f"input {spec.name!r} of shape {list(spec.shape)} takes no image; it needs "
            "[batch, channels, height, width] or [batch, height, width, channels], channels 1 or 3"
        )


class ImageSource(LineSource):
    """Parts of a listing; fetching one brings its objects too, into one file after the lines."""

    def __init__(self, storage: Storage, *source: Any) -> None:
        super().__init__(storage, *source)
        self._objects = storage

    def fetch(self, part: Part) -> PartData:
        """Spool the lines and the objects: `pack` of (line, bytes or why there are none)."""
        data = super().fetch(part)
        with data.path.open("rb") as file:
            file.seek(data.offset)
            lines = split_lines(file.read(data.length))
        with ThreadPoolExecutor(_READERS) as readers:
            packed = pack(zip(lines, readers.map(self._object, lines), strict=True))
            path = self._spool / f"images-{part.index}"
            with path.open("wb") as file:
                file.writelines(packed)
        if data.spooled:
            data.path.unlink()
        return PartData(part, path, 0, path.stat().st_size, spooled=True)

    def _object(self, line: bytes) -> bytes | str:
        """Return a file's path where the objects are files, its bytes elsewhere."""
        uri = uri_of(line)
        if uri is None:
            return ""
        try:
            if local := self._objects.local_path(uri):
                return f"file {local}"
            return read_bytes(self._objects, uri)
        except Exception as error:  # a missing object is its record's fault, not the job's
            return f"error {error}"


def uri_of(line: bytes) -> str | None:
    """Return the object that a line names, also one inside an error line."""
    origin = open_envelope(line)
    try:
        data = orjson.loads(origin[0] if origin else line)
    except ValueError:
        return None
    uri = data.get("uri") if isinstance(data, dict) else None
    return uri if isinstance(uri, str) else None


def pack(pairs: Iterable[tuple[bytes, bytes | str]]) -> Iterator[bytes]:
    """Write lines and objects into one file: sizes and kind, then both."""
    for line, content in pairs:
        data = content.encode() if isinstance(content, str) else content
        yield np.array([len(line), len(data), isinstance(content, str)], "<i8").tobytes()
        yield line
        yield data


def unpack(data: bytes) -> Iterator[tuple[bytes, memoryview | str]]:
    """Read what `pack` wrote."""
    view, at = memoryview(data), 0
    while at < len(data):
        line, size, text = np.frombuffer(view[at : at + 24], "<i8").tolist()
        at += 24
        content = view[at + line : at + line + size]
        yield bytes(view[at : at + line]), (bytes(content).decode() if text else content)
        at += line + size


class Images:
    """Reads batches of images for one model.

    Pixels are RGB, 0 to 255, scaled to the model's height and width; a model that wants them
    otherwise normalises them itself, which is what its own graph is for.
    """

    def __init__(self, spec: TensorSpec, uri: str) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._cv2: Any = cv2
        self._spec, self._uri = spec, uri
        self._layout = Layout.of(spec)

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches, each with how many lines of the listing were blank."""
        entries = list(unpack(data))
        for first, end in even_cuts(len(entries), size):
            batch = entries[first:end]
            yield self._read(batch, start)
            start += sum(len(line) + 1 for line, _ in batch)

    def _read(
        self, entries: Sequence[tuple[bytes, memoryview | str]], start: int
    ) -> tuple[Batch, int]:
        samples: list[dict[str, Array]] = []
        echoes: list[bytes] = []
        faults: dict[int, Fault] = {}
        count, offset = 0, start
        for line, content in entries:
            if line.strip():
                found = self._image(content)
                if isinstance(found, str):
                    faults[count] = self._fault(line, offset, found)
                else:
                    samples.append({self._spec.name: found})
                    echoes.append(orjson.dumps({"uri": uri_of(line)}))
                count += 1
            offset += len(line) + 1

        def fault_of(place: int, reason: str) -> Fault:
            at, line = records_of([line for line, _ in entries], start)[place]
            return self._fault(line, at, reason)

        tensors = stack_samples(samples)
        return Batch(count, echoes, tensors, fault_of, faults), len(entries) - count

    def _fault(self, line: bytes, offset: int, reason: str) -> Fault:
        origin = open_envelope(line)
        uri = uri_of(line)
        text, encoded = record_text(origin[0] if origin else line)
        if uri is not None:
            return Fault(reason, uri, 0, text, encoded)
        return Fault(reason, self._uri, offset, text, encoded)

    def _image(self, content: memoryview | str) -> Array | str:
        """Return the tensor, or why there is none."""
        if isinstance(content, str):
            kind, _, rest = content.partition(" ")
            if kind != "file":
                return rest or "not a JSON object with a 'uri'"
            try:
                content = memoryview(Path(rest).read_bytes())
            except OSError as error:
                return f"{rest} cannot be read: {error.strerror}"
        return self._decode(content) if content.nbytes else "the object is empty"

    def _decode(self, data: memoryview) -> Array | str:
        cv2, layout = self._cv2, self._layout
        flags = cv2.IMREAD_COLOR_RGB if layout.channels == 3 else cv2.IMREAD_GRAYSCALE
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            return f"not an image: {error.err}"
        if image is None:
            return "not an image that can be decoded"
        height = image.shape[0] if layout.height < 0 else layout.height
        width = image.shape[1] if layout.width < 0 else layout.width
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        if image.ndim == 2:
            image = image[:, :, None]
        if layout.channels_first:
            image = image.transpose(2, 0, 1)
        typed: Array = image.astype(NUMPY_TYPES[self._spec.dtype], copy=False)
        return typed
