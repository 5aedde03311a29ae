"""The results' manifest: shards put together, and the proof that no record is lost or doubled."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_delivery_engine.batch.formats import Compression, OutputFormat, compression_of
from model_delivery_engine.batch.journal import Journal, JournalPart
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.digest import digest_bytes
from model_delivery_engine.errors import BatchError

_COUNTS = ("records", "ok", "errors", "skipped")


@dataclass(frozen=True)
class ShardCount:
    """One shard's range, counts and digests.

    :param input_digest: over the digests of its parts' input, a line each, in order
    :param output_digest: the same over their answers
    """

    index: int
    start: int
    end: int
    records: int
    ok: int
    errors: int
    skipped: int
    input_digest: str
    output_digest: str


@dataclass(frozen=True)
class Published:
    """What was published under a name: bytes, and SHA-256."""

    size: int
    digest: str


@dataclass(frozen=True)
class ResultsManifest:
    """What ``results/manifest.json`` holds: ``records`` = ``ok`` + ``errors``.

    :param input_uri: the object the records came from
    :param input_size: its size in bytes, in rows for Parquet
    :param input_digest: over the digests of its parts, a line each
    :param model_digest: digest of the model that answered
    :param configuration_digest: digest of how it was asked
    :param skipped: blank lines, which are no records
    :param shards: every shard, in order, covering the object from its first to its last position
    :param output_format: of the results
    :param output_compression: of results and error lines
    :param results: the results' object; None until they are published
    :param error_lines: the error lines' object, likewise
    """

    input_uri: str
    input_size: int
    input_digest: str
    model_digest: str
    configuration_digest: str
    records: int
    ok: int
    errors: int
    skipped: int
    shards: tuple[ShardCount, ...]
    output_format: str
    output_compression: str
    results: Published | None = None
    error_lines: Published | None = None
    schema_version: int = 3

    def to_json(self) -> str:
        """Return the manifest as JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


def merge_journals(
    journals: Sequence[Journal], *, input_uri: str, input_size: int
) -> ResultsManifest:
    """Put the shards' journals together and prove that input = ok + errors + skipped.

    :param journals: each shard's, in any order
    :param input_uri: the object that was cut into shards
    :param input_size: its size, in the positions of its shards
    :raises BatchError: shards that are not complete, leave a gap, overlap or are of another object
        or version of it, model or configuration; counts that do not add up; names the shard
    """
    ordered = sorted(journals, key=lambda journal: int(journal.shard["index"]))
    _same(ordered, "input")
    _check_cover([_shard(journal) for journal in ordered], input_uri, input_size)
    counts = [count_of(journal) for journal in ordered]
    parts = [part for journal in ordered for part in parts_in_order(journal)]
    return ResultsManifest(
        input_uri=input_uri,
        input_size=input_size,
        input_digest=_digest([part.input_digest for part in parts]),
        model_digest=_same(ordered, "model"),
        configuration_digest=_same(ordered, "configuration"),
        output_format=journals[0].output_format if journals else OutputFormat.JSONL,
        output_compression=journals[0].output_compression if journals else Compression.NONE,
        shards=tuple(counts),
        **{name: sum(getattr(count, name) for count in counts) for name in _COUNTS},
    )


def check_parts(journal: Journal) -> None:
    """Raise a BatchError unless a shard's parts are all of it."""
    for _ in parts_in_order(journal):
        pass


def parts_in_order(journal: Journal) -> Iterator[JournalPart]:
    """Yield a shard's parts; BatchError where they leave a gap, or end before the shard does."""
    position = journal.shard["start"]
    for index, number in enumerate(sorted(journal.parts)):
        part = journal.parts[number]
        if number != index or part.start != position:
            raise _lacking(journal, position)
        if part.records != part.ok + part.errors:
            raise BatchError(
                f"shard {journal.shard['index']} of {journal.shard['uri']}: part {index} has "
                f"{part.records} records, {part.ok} answers and {part.errors} errors; delete its "
                "folder and run it again"
            )
        yield part
        position = part.end
    if position != _end(journal):
        raise _lacking(journal, position)


def _end(journal: Journal) -> int | None:
    """Return where the last part ends: of a compressed object, only its reader knew."""
    shard = _shard(journal)
    return shard["end"] if compression_of(shard["uri"]) == Compression.NONE else journal.end


def _lacking(journal: Journal, position: int) -> BatchError:
    return BatchError(
        f"shard {journal.shard['index']} of {journal.shard['uri']} lacks what begins at "
        f"{position}; run the shard again"
    )


def count_of(journal: Journal) -> ShardCount:
    """Return what a manifest says of a shard; BatchError for one that is not complete."""
    shard = _shard(journal)
    if not journal.complete:
        raise BatchError(
            f"shard {shard['index']} of {shard['uri']} is not complete; run it to its end"
        )
    parts = list(parts_in_order(journal))
    return ShardCount(
        shard["index"], shard["start"], shard["end"],
        **journal.totals(),
        input_digest=_digest([part.input_digest for part in parts]),
        output_digest=_digest([each.digest for part in parts for each in part.answers]),
    )  # fmt: skip


def _shard(journal: Journal) -> Shard:
    data = journal.shard
    return Shard(index=data["index"], uri=data["uri"], start=data["start"], end=data["end"])


def _digest(lines: Sequence[str]) -> str:
    return digest_bytes("\n".join(lines).encode())


def _same(journals: Sequence[Journal], name: str) -> str:
    found = {journal.identity[name] for journal in journals}
    if len(found) > 1:
        raise BatchError(
            f"the shards were run with {len(found)} versions of the {name}: delete their folders "
            "and run all of them again"
        )
    return found.pop() if found else ""


def _check_cover(shards: Sequence[Shard], uri: str, size: int) -> None:
    position = 0
    for shard in shards:
        if shard["uri"] != uri or shard["start"] != position:
            raise BatchError(
                f"{uri}: shard {shard['index']} of {shard['uri']} begins at {shard['start']}, "
                f"expected {position}; plan the shards again"
            )
        position = shard["end"]
    if position != size:
        raise BatchError(
            f"{uri}: the shards end at {position} of {size}; the object changed under the "
            "job or a shard is missing, plan the shards again"
        )
