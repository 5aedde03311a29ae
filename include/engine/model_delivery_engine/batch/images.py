"""Images into batches. The input is JSON lines that name an object each: a folder's listing."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from model_delivery_engine.batch.batch import Batch, Fault, PartReader, even_cuts, record_text
from model_delivery_engine.batch.exact_json import read_json, write_json
from model_delivery_engine.batch.json_lines import (
    open_envelope,
    records_of,
    split_lines,
    stack_samples,
)
from model_delivery_engine.batch.lines import read_lines
from model_delivery_engine.batch.parts import (
    LineSource,
    Part,
    PartData,
    part_bytes,
    target_bytes,
)
from model_delivery_engine.batch.shards import MAX_RECORD_BYTES, Shard
from model_delivery_engine.batch.storage import (
    FileState,
    ObjectInfo,
    Storage,
    check_state,
    file_state,
    read_bytes,
    read_steadily,
)
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

_READERS = 8
_BLOCK = 64 * 1024  # of the listing, read at a time
_UNSTATED = 1024 * 1024  # bytes that an object counts whose line states no size
# An object counts at least as much: to decode it and to run the model costs more than its bytes.
_LEAST_BYTES = 8 * 1024
_LEAST_PART_BYTES = 1024 * 1024  # that parts grow to: some pictures are read at a time
_MOST_PIXELS = 2**27  # 400 MB once decoded; a small file can hold more
_CHANNELS = {1: "grey", 3: "colour"}


def list_objects(objects: Iterable[ObjectInfo]) -> Iterator[bytes]:
    """Return the lines of an image batch's input: ``{"uri", "size", "etag"}`` for each object.

    What consoles leave for a folder, an object without bytes whose name ends in a slash, is none.
    """
    for each in objects:
        if each.uri.endswith("/") and not each.size:
            continue
        yield orjson.dumps({"uri": each.uri, "size": each.size, "etag": each.etag}) + b"\n"


@dataclass(frozen=True)
class Named:
    """What a line names.

    :param etag: the version that was listed; None where the line does not say, as in an error line,
        whose object was perhaps put right since
    :param size: in bytes, likewise
    """

    uri: str
    etag: str | None = None
    size: int | None = None

    @classmethod
    def of(cls, line: bytes) -> "Named | None":
        """Read a line; None for one that names nothing."""
        try:
            data = orjson.loads(line)
            # Few lines are error lines: the others are parsed once.
            origin = open_envelope(line) if isinstance(data, dict) and "error" in data else None
            data = orjson.loads(origin[0]) if origin else data
        except ValueError:
            return None
        uri = data.get("uri") if isinstance(data, dict) else None
        if not isinstance(uri, str):
            return None
        if origin:
            return cls(uri)
        etag, size = data.get("etag"), data.get("size")
        return cls(
            uri,
            etag if isinstance(etag, str) else None,
            size if type(size) is int and size >= 0 else None,
        )

    def too_large(self, size: int) -> str | None:
        """Say what is wrong with an object of so many bytes, if anything is."""
        if size > MAX_RECORD_BYTES:
            return f"the object is over {MAX_RECORD_BYTES} bytes"
        if self.size is not None and size > self.size:
            return f"the object is larger than the {self.size} bytes that the listing states"
        return None


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
        if spec.dtype in ("INT8", "BOOL", "BYTES"):  # pixels are 0 to 255
            raise BatchError(
                f"input {spec.name!r} is {spec.dtype}, which cannot hold the pixels of an image; "
                "export the model with a UINT8 or a float input"
            )
        if len(shape) == 3 and shape[0] in _CHANNELS:
            return cls(shape[0], shape[1], shape[2], channels_first=True)
        if len(shape) == 3 and shape[2] in _CHANNELS:
            return cls(shape[2], shape[0], shape[1], channels_first=False)
        raise BatchError(
            f"input {spec.name!r} of shape {list(spec.shape)} takes no image; it needs "
            "[batch, channels, height, width] or [batch, height, width, channels], channels 1 or 3"
        )


class ImageSource(LineSource):
    """Parts of a listing; fetching one brings its objects too, into one file after the lines.

    A part ends where its objects are together as large as is wanted of it, by the sizes that the
    listing states; a small object counts some KiB.
    """

    def next(self, index: int, start: int) -> Part | None:
        """Cut after as many lines as weigh enough, at least one."""
        end = self._shard["end"]
        if start >= end:
            return None
        weight, wanted = 0, target_bytes(index, self.largest)
        for offset, line in read_lines(self._blocks(start, end), start):
            if weight >= wanted:
                return Part(index, start, offset)
            weight += _weight(line)
        return Part(index, start, end)

    def _blocks(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, _BLOCK):
            yield self._read_range(at, min(at + _BLOCK, end))

    def fetch(self, part: Part) -> PartData:
        """Spool the lines and the objects: `pack` of (line, bytes or why there are none)."""
        data = super().fetch(part)
        with data.path.open("rb") as file:
            check_state(file.fileno(), data.state, self._shard["uri"])
            file.seek(data.offset)
            lines = split_lines(file.read(data.length))
            check_state(file.fileno(), data.state, self._shard["uri"])
        path = self._spool / f"images-{part.index}"
        with ThreadPoolExecutor(_READERS) as readers, path.open("wb") as file:
            begun = [self._begin(line, readers) for line in lines]
            contents = (each.result() if isinstance(each, Future) else each for each in begun)
            file.writelines(pack(zip(lines, contents, strict=True)))
        if data.spooled:
            data.path.unlink()
        return PartData(part, path, 0, path.stat().st_size, spooled=True)

    def weight(self, part: Part) -> int:
        """Return the bytes of its lines and their objects."""
        lines = read_lines(self._blocks(part.start, part.end), part.start)
        return sum(_weight(line) for _, line in lines)

    def _begin(
        self, line: bytes, readers: ThreadPoolExecutor
    ) -> "Future[bytes | str] | bytes | str":
        """Look at what a line names; what is no file here is brought by a thread, for it waits."""
        named = Named.of(line)
        if named is None:
            return ""
        try:
            is_file = self._storage.local_path(named.uri) is not None
        except Exception:  # a URI that names nothing: why, is said below
            is_file = False
        return self._object(named) if is_file else readers.submit(self._object, named)

    def _object(self, named: Named) -> bytes | str:
        """Return an object's bytes, a file's path and state where objects are files, or a reason.

        An object that is not there is its record's fault. A store that does not answer is not: it
        fails the task, which goes on when it is tried again.
        """
        storage = self._storage
        try:
            return self._content(named, storage.read)
        except BatchError:
            raise
        except Exception:  # the store's own error, whatever its type
            if why := storage.missing(named.uri):
                return f"error {why}"
        _check_etag(storage, named)
        return self._content(named, partial(read_steadily, storage))

    def _content(self, named: Named, read: Callable[..., Iterator[bytes]]) -> bytes | str:
        storage = self._storage
        if local := storage.local_path(named.uri):
            state = file_state(local)
            _check_etag(storage, named)
            return f"file {' '.join(map(str, state))} {local}"
        content = bytearray()
        for chunk in read(named.uri, etag=named.etag):
            content += chunk
            if wrong := named.too_large(len(content)):
                return f"error {wrong}"
        return bytes(content)


def _weight(line: bytes) -> int:
    named = Named.of(line)
    size = 0 if named is None else _UNSTATED if named.size is None else named.size
    return len(line) + max(size, _LEAST_BYTES)


def image_part_bytes(storage: Storage, shard: Shard, etag: str) -> int:
    """Return the size that a shard's parts grow to, by what its first lines state."""
    start = shard["start"]
    end = min(start + _BLOCK, shard["end"])
    block = read_bytes(storage, shard["uri"], start, end, etag=etag)
    weight = sum(_weight(line) for line in split_lines(block))
    return max(part_bytes(weight * (shard["end"] - start) // max(len(block), 1)), _LEAST_PART_BYTES)


def _check_etag(storage: Storage, named: Named) -> None:
    found = storage.stat(named.uri).etag
    if named.etag not in (None, found):
        raise BatchError(
            f"{named.uri} changed after it was listed (ETag {named.etag}, now {found}); plan the "
            "shards again, below another output or with these parts deleted"
        )


def _echo(line: bytes) -> bytes:
    """Return a line's own fields; what the listing says of the object is its input."""
    fields = read_json(line)
    if "error" in fields and (origin := open_envelope(line)):
        fields = read_json(origin[0])
    return write_json({name: fields[name] for name in fields if name not in ("size", "etag")})


def uri_of(line: bytes) -> str | None:
    """Return the object that a line names, also one inside an error line."""
    named = Named.of(line)
    return None if named is None else named.uri


def pack(pairs: Iterable[tuple[bytes, bytes | memoryview | str]]) -> Iterator[bytes | memoryview]:
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


class Images(PartReader):
    """Reads batches of images for one model.

    Pixels are RGB, 0 to 255, scaled to the model's height and width; a model that wants them
    otherwise normalises them itself, which is what its own graph is for.
    """

    def __init__(self, spec: TensorSpec, uri: str) -> None:
        # OpenCV reads its limit when it is loaded.
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(_MOST_PIXELS))
        import cv2

        cv2.setNumThreads(1)
        self._cv2: Any = cv2
        self._spec, self._uri = spec, uri
        self._layout = Layout.of(spec)

    def batches(self, data: bytes, start: int, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield a part's batches, each with how many lines of the listing were blank."""
        entries = list(unpack(data))
        self._hash = hashlib.sha256()
        for first, end in even_cuts(len(entries), size):
            batch = entries[first:end]
            yield self._read(batch, start)
            start += sum(len(line) + 1 for line, _ in batch)

    def digest(self, content: bytes) -> str:
        """Return the digest of lines and objects; the same wherever the objects lie.

        A line with an ETag stands for its object: no other version of that is read.
        """
        return f"sha256:{self._hash.hexdigest()}"

    def _read(
        self, entries: Sequence[tuple[bytes, memoryview | str]], start: int
    ) -> tuple[Batch, int]:
        samples: list[dict[str, Array]] = []
        echoes: list[bytes] = []
        faults: dict[int, Fault] = {}
        count, offset = 0, start
        for line, spooled in entries:
            named = Named.of(line)
            content = _from_file(named, spooled)
            proven = named is not None and named.etag is not None and not isinstance(content, str)
            for piece in pack([(line, b"" if proven else content)]):
                self._hash.update(piece)
            if line.strip():
                found = content if isinstance(content, str) else self._image(content)
                if isinstance(found, str):
                    faults[count] = self._fault(line, offset, found)
                else:
                    samples.append({self._spec.name: found})
                    echoes.append(_echo(line))
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

    def _image(self, data: memoryview) -> Array | str:
        """Return the tensor, or why there is none."""
        return self._decode(data) if data.nbytes else "the object is empty"

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


def _from_file(named: Named | None, content: memoryview | str) -> memoryview | str:
    """Return an object's bytes, or why there are none.

    :raises OSError: a file that is there and cannot be read
    :raises BatchError: a file that changed since its part was begun
    """
    if not isinstance(content, str):
        return content
    kind, _, rest = content.partition(" ")
    if kind != "file":
        return rest or "not a JSON object with a 'uri'"
    *state, path = rest.split(" ", 3)
    expected = FileState(*map(int, state))
    if named is not None and (wrong := named.too_large(expected.size)):
        return wrong
    with Path(path).open("rb") as file:
        check_state(file.fileno(), expected, path)
        data = file.read()
        check_state(file.fileno(), expected, path)
    return memoryview(data)
