"""Publish a job's results: its parts put together, in order, each proven, then the manifest."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import Compression, OutputFormat, compression_of
from model_delivery_engine.batch.journal import Journal, JournalObject, is_journal, read_journal
from model_delivery_engine.batch.manifest import (
    Published,
    ResultsManifest,
    count_of,
    merge_journals,
    parts_in_order,
)
from model_delivery_engine.batch.pipeline import shard_folder
from model_delivery_engine.batch.planning import positions
from model_delivery_engine.batch.sinks import part_suffix
from model_delivery_engine.batch.storage import Storage, read_bytes, read_steadily
from model_delivery_engine.errors import BatchError

Objects = list[tuple[str, JournalObject]]


@dataclass(frozen=True)
class Destination:
    """Where a job's results go, each an object of its own.

    :param suffixed: whether the names of results and error lines get the ends that tell their
        format, as ``.jsonl.gz`` (default: no)
    """

    results_uri: str
    errors_uri: str
    manifest_uri: str
    suffixed: bool = False

    def of(self, output: OutputFormat | str, compression: Compression | str) -> "Destination":
        """Return the destination of results of a format."""
        if not self.suffixed:
            return self
        packed = Compression(compression)
        return Destination(
            self.results_uri + part_suffix(OutputFormat(output), packed),
            self.errors_uri + part_suffix(OutputFormat.JSONL, packed),
            self.manifest_uri,
        )


def publish_once(
    storage: Storage,
    folder: str,
    count: int,
    destination: Destination,
    *,
    input_uri: str,
    input_format: str | None,
    budget: ErrorBudget,
    output_format: OutputFormat | None = None,
    output_compression: Compression | None = None,
) -> Mapping[str, Any]:
    """Publish a job's shards, and the manifest last; return what it holds.

    Publishing again finds what was published, also when the parts are deleted already: the
    journals tell what the manifest must say; where they are gone too, all or some, its presence
    does. What is found is held to the manifest's digests, and written again where it is not that.

    :param count: the job's shards
    :param output_format: what the caller expects the shards to have written (default: whatever)
    :param output_compression: likewise
    :raises BatchError: as `publish`; parts that are gone, with no manifest of this input; shards
        that wrote something else than was expected
    """
    found = _found_manifest(storage, destination.manifest_uri)
    if found is not None and _is_deleted(storage, folder, count, found):
        return _published(storage, destination, found, input_uri)
    journals = read_journals(storage, folder, count)
    size = positions(storage, input_uri, input_format)
    manifest = merge_journals(journals, input_uri=input_uri, input_size=size)
    # Before anything of what was published before goes.
    budget.check(manifest.records, manifest.errors, complete=True, where=input_uri)
    _check_output(manifest, output_format, output_compression)
    places = destination.of(manifest.output_format, manifest.output_compression)
    if found is not None:
        if _is_of(found, manifest) and _holds(storage, places, found):
            return found
        storage.delete(places.manifest_uri)
    done = publish(
        storage, folder, journals, input_uri=input_uri, input_size=size,
        results_uri=places.results_uri, errors_uri=places.errors_uri, budget=budget,
    )  # fmt: skip
    text = done.to_json().encode()
    storage.write_stream(places.manifest_uri, [text])
    published: Mapping[str, Any] = json.loads(text)
    return published


def _check_output(
    manifest: ResultsManifest, form: OutputFormat | None, compression: Compression | None
) -> None:
    asked = (form or manifest.output_format, compression or manifest.output_compression)
    written = (manifest.output_format, manifest.output_compression)
    if asked != written:
        raise BatchError(
            f"{manifest.input_uri}: the shards wrote {written[0]}, compression {written[1]}; "
            f"{asked[0]}, compression {asked[1]}, was asked for: ask for what they wrote, or for "
            "nothing"
        )


def _found_manifest(storage: Storage, uri: str) -> Mapping[str, Any] | None:
    """Return what lies there, or None; what is no manifest of this release is as good as none."""
    if not storage.exists(uri):
        return None
    try:
        found: Mapping[str, Any] = json.loads(read_bytes(storage, uri))
        Published(**found["results"]), Published(**found["error_lines"])
    except (ValueError, KeyError, TypeError):
        return {}
    return found


def _is_deleted(storage: Storage, folder: str, count: int, found: Mapping[str, Any]) -> bool:
    """Whether `delete_parts` was at the journals of what a manifest is of, and perhaps ended there.

    Then nothing else is left, and some of these are gone. A shard that is yet to be run has no
    journal either, but those that were run have their parts.
    """
    if not all(is_journal(each.uri) for each in storage.list(f"{folder}/")):
        return False
    journals = [read_journal(storage, shard_folder(folder, index)) for index in range(count)]
    left = [each for each in journals if each is not None]
    return len(left) < count and all(_has_shard(found, journal) for journal in left)


def _has_shard(found: Mapping[str, Any], journal: Journal) -> bool:
    """Whether a manifest's results have those of a shard."""
    of_model = (found.get("model_digest"), found.get("configuration_digest"))
    if not journal.complete or of_model != (
        journal.identity["model"], journal.identity["configuration"],
    ):  # fmt: skip
        return False
    return dataclasses.asdict(count_of(journal)) in found["shards"]


def _published(
    storage: Storage, destination: Destination, found: Mapping[str, Any], input_uri: str
) -> Mapping[str, Any]:
    of_input = found.get("input_uri") == input_uri
    if of_input:
        places = destination.of(found["output_format"], found["output_compression"])
        if _holds(storage, places, found):
            return found
    raise BatchError(
        f"{destination.manifest_uri} is of {found.get('input_uri')}"
        f"{', whose results are gone or altered' if of_input else ''}, and there are no parts of "
        f"{input_uri}: run its shards first"
    )


def _is_of(found: Mapping[str, Any], manifest: ResultsManifest) -> bool:
    """Whether a manifest is of these shards."""
    said = {name: found.get(name) for name in ("results", "error_lines")}
    expected: Mapping[str, Any] = json.loads(manifest.to_json())
    return {**expected, **said} == found


def _holds(storage: Storage, places: Destination, found: Mapping[str, Any]) -> bool:
    """Whether results and error lines are what their manifest says."""
    expected = {places.errors_uri: found["error_lines"], places.results_uri: found["results"]}
    return all(_is_there(storage, uri, Published(**what)) for uri, what in expected.items())


def _is_there(storage: Storage, uri: str, expected: Published) -> bool:
    if not storage.exists(uri) or storage.stat(uri).size != expected.size:
        return False
    content = _Hashed(read_steadily(storage, uri))
    for _ in content:
        pass
    return content.published() == expected


def are_error_lines_of(storage: Storage, uri: str, manifest_uri: str) -> bool:
    """Whether an object has the error lines of the results that a manifest is of.

    Those of its own retry may be the same, where no record is answered then either.
    """
    found = _found_manifest(storage, manifest_uri)
    if not found or found.get("input_uri") == uri:
        return False
    return _is_there(storage, uri, Published(**found["error_lines"]))


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
            answers += [(f"{home}/{each.name}", each) for each in part.answers]
            errors += [(f"{home}/{each.name}", each) for each in part.error_lines]
    error_lines = _Hashed(_joined(storage, errors, errors_uri))
    storage.write_stream(errors_uri, error_lines, size=_size(errors))
    is_parquet = manifest.output_format == OutputFormat.PARQUET
    results = _Hashed(
        _joined_parquet(storage, answers) if is_parquet else _joined(storage, answers, results_uri)
    )
    storage.write_stream(results_uri, results, size=_size(answers))
    return dataclasses.replace(
        manifest, results=results.published(), error_lines=error_lines.published()
    )


def _size(objects: Objects) -> int:
    return sum(expected.size for _, expected in objects)


class _Hashed:
    """Chunks, of which it tells size and digest when they have gone by.

    They are hashed by another thread, which needs no lock of Python's for it: each byte is hashed
    twice, for its part and for the whole, while it is read and written.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash, self._size = hashlib.sha256(), 0

    def __iter__(self) -> Iterator[bytes]:
        with ThreadPoolExecutor(1) as beside:
            before: Future[None] | None = None
            for chunk in self._chunks:
                if before is not None:
                    before.result()
                before = beside.submit(self._hash.update, chunk)
                self._size += len(chunk)
                yield chunk

    def published(self) -> Published:
        return Published(self._size, f"sha256:{self._hash.hexdigest()}")


def delete_parts(storage: Storage, folder: str, *, journals: bool = True) -> None:
    """Delete a job's working folder; its journals last, so that a kill between leaves no lie.

    :param journals: whether they go too (default: True)
    """
    uris = [each.uri for each in storage.list(f"{folder}/")]
    kept = [uri for uri in uris if is_journal(uri)]
    for uri in set(uris).difference(kept):
        storage.delete(uri)
    for uri in kept if journals else []:
        storage.delete(uri)


def _joined(storage: Storage, objects: Objects, target: str) -> Iterator[bytes]:
    if not any(expected.size for _, expected in objects):
        yield compress(b"", compression_of(target))  # no bytes at all are no gzip stream
    for uri, expected in objects:
        yield from _proven(storage, uri, expected)


def _proven(storage: Storage, uri: str, expected: JournalObject) -> Iterator[bytes]:
    content = _Hashed(read_steadily(storage, uri))
    yield from content
    found = content.published()
    if found.digest != expected.digest:
        raise BatchError(
            f"{uri} has {found.size} bytes of digest {found.digest}, its journal says "
            f"{expected.size} of {expected.digest}; delete that shard's folder and run the shard "
            "again"
        )


def _joined_parquet(storage: Storage, objects: Objects) -> Iterator[bytes]:
    """Put files together, each of which is small enough for memory, as row groups of one."""
    import pyarrow
    import pyarrow.parquet

    whole, writer = _Passing(), None
    for source, expected in objects:
        part = pyarrow.py_buffer(b"".join(_proven(storage, source, expected)))
        table = pyarrow.parquet.read_table(part)
        writer = writer or pyarrow.parquet.ParquetWriter(whole, table.schema, compression="zstd")
        if table.num_rows:
            writer.write_table(table)
        yield whole.taken()
    if writer is None:
        pyarrow.parquet.write_table(pyarrow.table({}), whole)
    else:
        writer.close()
    yield whole.taken()


class _Passing(io.RawIOBase):
    """A file that is written to, and gives away what was."""

    def __init__(self) -> None:
        super().__init__()
        self._at, self._content = 0, bytearray()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._content += data
        self._at += len(data)
        return len(data)

    def taken(self) -> bytes:
        content, self._content = bytes(self._content), bytearray()
        return content
