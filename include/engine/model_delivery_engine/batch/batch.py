"""What passes between the stages of a worker: a batch of records, and its answers."""

import base64
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from model_delivery_engine.digest import digest_bytes
from model_delivery_engine.tensors import Array

_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


class PartReader:
    """What readers of parts share."""

    def digest(self, content: bytes) -> str:
        """Return the digest of the part that was read last.

        :param content: the part's bytes
        """
        return digest_bytes(content)


@dataclass(frozen=True)
class Fault:
    """Why a record has no answer, and where it came from.

    :param uri: the object
    :param offset: the record's byte offset there; its row number in Parquet
    :param record: JSON text of the whole record, so that the error line can be input again
    :param columns: the names of a table's columns, in order, where that tells what a value is of;
        JSON text of a record has none
    """

    reason: str
    uri: str
    offset: int
    record: bytes
    base64: str | None = None
    columns: Sequence[str] | None = None

    def error(self) -> dict[str, Any]:
        """Return the line's ``error``."""
        error: dict[str, Any] = {"reason": self.reason, "uri": self.uri, "offset": self.offset}
        if self.base64 is not None:
            error["base64"] = self.base64
        if self.columns is not None:
            error["columns"] = list(self.columns)
        return error


@dataclass
class Batch:
    """Records as they were read, in order, before the model.

    :param count: good and bad records
    :param echoes: JSON text of what the answer repeats as ``input``, for each good record
    :param tensors: an array for each input, one row for each good record; or a list of samples
        where records differ in shape
    :param fault_of: makes a fault of a good record that fails later: its place and the reason
    :param faults: the bad records, by their place in the batch
    """

    count: int
    echoes: Sequence[bytes]
    tensors: dict[str, Array] | list[dict[str, Array]]
    fault_of: Callable[[int, str], Fault]
    faults: dict[int, Fault] = field(default_factory=dict)

    def places(self) -> Sequence[int]:
        """Return the places of the good records."""
        if not self.faults:
            return range(self.count)
        return [place for place in range(self.count) if place not in self.faults]


@dataclass
class Answers:
    """A batch after the model.

    :param echoes: as in `Batch`, for each answered record
    :param outputs: one row for each answered record, by output
    :param faults: the records without an answer, by their place
    """

    count: int
    echoes: Sequence[bytes]
    outputs: dict[str, Array]
    faults: dict[int, Fault]


def even_cuts(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the fewest batches of at most ``size``, as equal as can be.

    A short one at the end would cost a model that streams its weights from memory almost as much as
    a full one.
    """
    batches = -(-count // size)
    return itertools.pairwise(count * n // batches for n in range(batches + 1) if batches)


def record_text(line: bytes) -> tuple[bytes, str | None]:
    """Return a bad line as JSON text, and as base64 where it is no text at all.

    A JSON object stays itself; any other text becomes a JSON string, so that it is read back as the
    line it was.
    """
    try:
        if isinstance(orjson.loads(line), dict):
            return line.strip(), None
    except ValueError:
        pass
    try:
        return orjson.dumps(line.decode()), None
    except UnicodeDecodeError:
        return b"null", base64.b64encode(line).decode()


def spelled(value: Any) -> Any:
    """Return a value as JSON can spell it: bytes as base64, NaN and infinity by their names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _NAMES.get(value, "NaN")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [spelled(each) for each in value]
    if isinstance(value, dict):
        return {name: spelled(each) for name, each in value.items()}
    return value


def json_record(fields: Mapping[str, object]) -> bytes:
    """Return fields as JSON text, numpy values included."""
    return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
