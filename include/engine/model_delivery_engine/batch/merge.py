"""Publish a job's results: its parts put together, in order, each proven, then the manifest."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import Compression, OutputFormat, compression_of
from model_delivery_engine.batch.journal import Journal, JournalObject, read_journal
from model_delivery_engine.batch.manifest import (
    ResultsManifest,
    merge_journals,
    parts_in_order,
)
from model_delivery_engine.batch.pipeline import shard_folder
from model_delivery_engine.batch.planning import positions
from model_delivery_engine.batch.sinks import part_suffix
from model_delivery_engine.batch.storage import Storage, read_bytes, read_steadily
from model_delivery_engine.errors import BatchError

Objects = list[tuple[str, JournalObject]]
_JOURNAL = "/journal.json"


@dataclass(frozen=True)
class Destination:
    """Where a job's results go, each an object of its own."""

    results_uri: str
    errors_uri: str
    manifest_uri: str


def publish_once(
    storage: Storage,
    folder: str,
    count: int,
    destination: Destination,
    *,
    input_uri: str,
    input_format: str | None,
    budget: ErrorBudget,
    output_format: OutputFormat = OutputFormat.JSONL,
) -> Mapping[str, Any]:
    """Publish a job's shards, and the manifest last; return what it holds.

    Publishing again finds what was published, also when the parts are deleted already: the
    journals tell what the manifest must say; where they are gone too, its presence does.

    :param count: the job's shards
    :raises BatchError: as `publish`; parts that are gone, with no manifest of this input
    """
    has_parts = next(iter(storage.list(f"{folder}/")), None) is not None
    if not has_parts and storage.exists(destination.manifest_uri):
        return _published(storage, destination, input_uri)
    journals = read_journals(storage, folder, count)
    size = positions(storage, input_uri, input_format)
    manifest = merge_journals(journals, input_uri=input_uri, input_size=size)
    # Before anything of what was published before goes.
    budget.check(manifest.records, manifest.errors, complete=True, where=input_uri)
    text = manifest.to_json().encode()
    if not _holds(storage, destination.manifest_uri, text):
        storage.delete(destination.manifest_uri)
        publish(
            storage, folder, journals, input_uri=input_uri, input_size=size,
            results_uri=destination.results_uri, errors_uri=destination.errors_uri, budget=budget,
            output_format=output_format,
        )  # fmt: skip
        storage.write_stream(destination.manifest_uri, [text])
    published: Mapping[str, Any] = json.loads(text)
    return published


def _published(storage: Storage, destination: Destination, input_uri: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(read_bytes(storage, destination.manifest_uri))
    whole = storage.exists(destination.results_uri) and storage.exists(destination.errors_uri)
    if found.get("input_uri") != input_uri or not whole:
        raise BatchError(
            f"{destination.manifest_uri} is of {found.get('input_uri')}"
            f"{'' if whole else ', whose results are gone'}, and there are no parts of "
            f"{input_uri}: run its shards first"
        )
    return found


def _holds(storage: Storage, uri: str, content: bytes) -> bool:
    return storage.exists(uri) and read_bytes(storage, uri) == content


def read_journals(storage: Storage, folder: str, count: int) -> list[Journal]:
    """Return the journals of a job's shards; BatchError names one that was not begun."""
    journals = []
    for index in range(count):
        journal = read_journal(storage, shard_folder(folder, index))
        if journal is None:
            raise BatchError(f"{shard_folder(folder, index)} has no journal; run that shard first")
        journals.append(journal)
    return journals


def publish(
    storage: Storage,
    folder: str,
    journals: Sequence[Journal],
    *,
    input_uri: str,
    input_size: int,
    results_uri: str,
    errors_uri: str,
    budget: ErrorBudget,
    output_format: OutputFormat = OutputFormat.JSONL,
) -> ResultsManifest:
    """Write results and error lines, each of which appears whole or not at all.

    Parts are streamed and held to their digests; nothing is parsed again. The caller writes the
    manifest, last: results without one are not finished.

    :param folder: the job's working folder
    :param input_size: the input's size, in the positions of its shards
    :raises BatchError: a shard or part that is missing or altered
    :raises BudgetError: more records failed than may; nothing is written
    """
    manifest = merge_journals(journals, input_uri=input_uri, input_size=input_size)
    budget.check(manifest.records, manifest.errors, complete=True, where=input_uri)
    answers: Objects = []
    errors: Objects = []
    for journal in sorted(journals, key=lambda each: int(each.shard["index"])):
        home = shard_folder(folder, journal.shard["index"])
        for part in parts_in_order(journal):
            answers.append((f"{home}/{part.answers.name}", part.answers))
            if part.error_lines is not None:
                errors.append((f"{home}/{part.error_lines.name}", part.error_lines))
    storage.write_stream(errors_uri, _joined(storage, errors, errors_uri))
    if output_format == OutputFormat.PARQUET:
        _publish_parquet(storage, answers, results_uri)
    else:
        storage.write_stream(results_uri, _joined(storage, answers, results_uri))
    return manifest


def delete_parts(storage: Storage, folder: str, *, journals: bool = True) -> None:
    """Delete a job's working folder; its journals last, so that a kill between leaves no lie.

    :param journals: whether they go too (default: True)
    """
    names = [each.uri for each in storage.list(f"{folder}/")]
    for uri in names:
        if not uri.endswith(_JOURNAL):
            storage.delete(uri)
    for uri in names if journals else []:
        if uri.endswith(_JOURNAL):
            storage.delete(uri)


def result_suffix(output_format: OutputFormat, compression: Compression) -> str:
    """Return how the results' name ends."""
    return part_suffix(output_format, compression)


def _joined(storage: Storage, objects: Objects, target: str) -> Iterator[bytes]:
    if not any(expected.size for _, expected in objects):
        yield compress(b"", compression_of(target))  # no bytes at all are no gzip stream
    for uri, expected in objects:
        yield from _proven(storage, uri, expected)


def _proven(storage: Storage, uri: str, expected: JournalObject) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for chunk in read_steadily(storage, uri):
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    found = f"sha256:{digest.hexdigest()}"
    if found != expected.digest:
        raise BatchError(
            f"{uri} has {size} bytes of digest {found}, its journal says {expected.size} of "
            f"{expected.digest}; delete that shard's folder and run the shard again"
        )


def _publish_parquet(storage: Storage, objects: Objects, uri: str) -> None:
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryDirectory(prefix="model-delivery-") as name:
        part, whole = Path(name) / "part", Path(name) / "whole"
        writer = None
        for source, expected in objects:
            with part.open("wb") as file:
                file.writelines(_proven(storage, source, expected))
            table = pyarrow.parquet.read_table(part)
            writer = writer or pyarrow.parquet.ParquetWriter(
                whole, table.schema, compression="zstd"
            )
            writer.write_table(table)
        if writer is None:
            pyarrow.parquet.write_table(pyarrow.table({}), whole)
        else:
            writer.close()
        storage.take(whole, uri)
