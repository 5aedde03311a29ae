"""The results' manifest: shards put together, and the proof that no record is lost or doubled."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from model_delivery_engine.batch.pipeline import ShardResult
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.errors import BatchError


@dataclass(frozen=True)
class ShardCount:
    """One shard's range and counts."""

    index: int
    start: int
    end: int
    records: int
    ok: int
    errors: int


@dataclass(frozen=True)
class ResultsManifest:
    """What ``results/manifest.json`` holds.

    :param input_uri: the object the records came from
    :param input_bytes: its size
    :param model_digest: digest of the model that answered
    :param shards: every shard, in order, covering the object from its first to its last byte
    """

    input_uri: str
    input_bytes: int
    model_digest: str
    records: int
    ok: int
    errors: int
    shards: tuple[ShardCount, ...]
    schema_version: int = 1

    def to_json(self) -> str:
        """Return the manifest as JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


def merge_results(
    parts: Sequence[tuple[Shard, ShardResult]],
    *,
    input_uri: str,
    input_bytes: int,
    model_digest: str,
) -> ResultsManifest:
    """Put the shards' counts together and prove that input = ok + errors.

    :param parts: each shard with its result, in any order
    :param input_uri: the object that was cut into shards
    :param input_bytes: its size in bytes
    :raises BatchError: shards that leave a gap, overlap or are of another object; counts that do
        not add up; names the shard
    """
    ordered = sorted(parts, key=lambda part: part[0]["start"])
    _check_cover(ordered, input_uri, input_bytes)
    for shard, result in ordered:
        if result.records != result.ok + result.errors:
            raise BatchError(
                f"{input_uri}: shard {shard['index']} read {result.records} records and wrote "
                f"{result.ok} answers and {result.errors} errors; run the shard again"
            )
    return ResultsManifest(
        input_uri=input_uri,
        input_bytes=input_bytes,
        model_digest=model_digest,
        records=sum(result.records for _, result in ordered),
        ok=sum(result.ok for _, result in ordered),
        errors=sum(result.errors for _, result in ordered),
        shards=tuple(_count(shard, result) for shard, result in ordered),
    )


def _count(shard: Shard, result: ShardResult) -> ShardCount:
    return ShardCount(
        shard["index"], shard["start"], shard["end"], result.records, result.ok, result.errors
    )


def _check_cover(parts: Sequence[tuple[Shard, ShardResult]], uri: str, size: int) -> None:
    position = 0
    for shard, _ in parts:
        if shard["uri"] != uri or shard["start"] != position:
            raise BatchError(
                f"{uri}: shard {shard['index']} of {shard['uri']} begins at byte {shard['start']}, "
                f"expected {position}; plan the shards again"
            )
        position = shard["end"]
    if position != size:
        raise BatchError(
            f"{uri}: the shards end at byte {position} of {size}; the object changed under the "
            "job or a shard is missing, plan the shards again"
        )
