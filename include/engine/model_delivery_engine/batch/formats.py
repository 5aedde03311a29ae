"""The formats of a batch, told from an object's name or said by the caller."""

from dataclasses import dataclass
from enum import StrEnum

from model_delivery_engine.errors import BatchError


class InputFormat(StrEnum):
    """How records lie in an object."""

    JSONL = "jsonl"  # one JSON object a line
    CSV = "csv"  # a header, then one row a line
    PARQUET = "parquet"  # one row a record; positions are row numbers
    RAW = "raw"  # records of one fixed size: the little-endian bytes of the model's one input
    IMAGES = "images"  # JSON lines that name an image object each, as `list_objects` writes them


class OutputFormat(StrEnum):
    """How answers are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"


class Compression(StrEnum):
    """Of JSON lines and CSV, in and out."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


SUFFIX = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}
_MAGIC = {Compression.GZIP: b"\x1f\x8b", Compression.ZSTD: b"\x28\xb5\x2f\xfd"}
MAGIC_BYTES = 4
_SUFFIXES = {
    ".jsonl": InputFormat.JSONL, ".ndjson": InputFormat.JSONL, ".json": InputFormat.JSONL,
    ".csv": InputFormat.CSV, ".parquet": InputFormat.PARQUET, ".raw": InputFormat.RAW,
    ".bin": InputFormat.RAW,
}  # fmt: skip


@dataclass(frozen=True)
class Encoding:
    """An object's format and compression."""

    format: InputFormat
    compression: Compression


def compression_of(uri: str) -> Compression:
    """Tell an object's compression from its name."""
    found = (each for each, end in SUFFIX.items() if end and uri.endswith(end))
    return next(found, Compression.NONE)


def check_plain(uri: str, beginning: bytes) -> None:
    """Refuse an object of text that is compressed, and whose name does not say so.

    :param beginning: the object's first `MAGIC_BYTES`, which no text begins with
    :raises BatchError: it is gzip or zstd
    """
    for compression, magic in _MAGIC.items():
        if beginning.startswith(magic):
            raise BatchError(
                f"{uri} is {compression}, and its name says plain text: let it end in "
                f"{SUFFIX[compression]}, or store it uncompressed"
            )


def encoding_of(uri: str, given: str | None = None) -> Encoding:
    """Tell an input's encoding from its name.

    :param given: the format where the name does not say it; the compression is in the name always
    :raises BatchError: a name that says nothing, an unknown format, a compression that the format
        does not take
    """
    compression = compression_of(uri)
    if given is None:
        stem = uri.rpartition("/")[2].removesuffix(SUFFIX[compression])
        found = next((form for end, form in _SUFFIXES.items() if stem.endswith(end)), None)
        if found is None:
            raise BatchError(
                f"{uri}: its name tells no format; name it {', '.join(_SUFFIXES)} or say the "
                f"input format: {', '.join(InputFormat)}"
            )
    else:
        try:
            found = InputFormat(given)
        except ValueError as error:
            raise BatchError(
                f"input format {given!r} is unknown; there are {', '.join(InputFormat)}"
            ) from error
    if compression != Compression.NONE and found not in (InputFormat.JSONL, InputFormat.CSV):
        raise BatchError(f"{uri}: {found} is not read from {compression}; store it uncompressed")
    return Encoding(found, compression)
