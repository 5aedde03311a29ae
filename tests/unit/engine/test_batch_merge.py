"""Merging: results held to their manifest, parts to their shard, formats to what was written."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.formats import Compression, OutputFormat
from model_delivery_engine.batch.journal import Journal, is_journal, read_journal
from model_delivery_engine.batch.merge import Destination, delete_parts, publish_once
from model_delivery_engine.batch.pipeline import BatchOptions, shard_folder
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.digest import digest_bytes
from model_delivery_engine.errors import BatchError

from tests.unit.engine.batch_job import ERRORS, FOLDER, RESULTS, URI, Job, KilledError
from tests.unit.engine.file_storage import FileStorage

PLACES = Destination(RESULTS, ERRORS, "mem://manifest.json")
SUFFIXED = Destination("mem://out/results", "mem://out/errors", PLACES.manifest_uri, suffixed=True)
LINES = b"".join(b'{"id":%d,"features":[%d,2,3,4]}\n' % (n, n % 7) for n in range(20_000)) + b"{}"


def publish(job: Job, destination: Destination = PLACES, **more: Any) -> Any:
    return publish_once(
        job.storage, FOLDER, len(job.shards), destination, input_uri=job.uri, input_format=None,
        budget=ErrorBudget(), **more,
    )  # fmt: skip


def alter(storage: FileStorage, uri: str) -> None:
    storage.put(uri, storage.get(uri).replace(b'"input"', b'"INPUT"', 1))


@pytest.mark.parametrize("uri", [RESULTS, ERRORS])
@pytest.mark.parametrize("how", [FileStorage.delete, alter])
def test_results_that_are_not_what_the_manifest_says_are_written_again(
    job: Job, uri: str, how: Any
) -> None:
    job.run(LINES, shards=2)
    published = publish(job)
    for each, name in ((RESULTS, "results"), (ERRORS, "error_lines")):
        content = job.storage.get(each)
        assert published[name] == {"size": len(content), "digest": digest_bytes(content)}
    before = job.storage.get(uri)
    how(job.storage, uri)
    assert publish(job) == published
    assert job.storage.get(uri) == before
    delete_parts(job.storage, FOLDER)
    assert publish(job) == published
    how(job.storage, uri)
    with pytest.raises(BatchError, match="whose results are gone or altered, and there are no par"):
        publish(job)


def test_a_retry_after_the_parts_are_gone_believes_the_results_alone(job: Job) -> None:
    """As where a task is killed after it deleted the parts, before the journals."""
    job.run(LINES)
    published = publish(job)
    delete_parts(job.storage, FOLDER, journals=False)
    assert publish(job) == published
    alter(job.storage, RESULTS)
    with pytest.raises(FileNotFoundError):
        publish(job)


def test_a_merge_that_ended_at_any_delete_is_finished_by_the_next(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run(LINES, shards=3)
    saved = {each.uri: job.storage.get(each.uri) for each in job.storage.list(f"{FOLDER}/")}
    published = publish(job)
    for dies_at in range(len(saved)):
        for uri, content in saved.items():
            job.storage.put(uri, content)
        left = iter(range(dies_at))

        def delete(uri: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KilledError
            FileStorage.delete(job.storage, uri)

        with monkeypatch.context() as patch:
            patch.setattr(job.storage, "delete", delete)
            with pytest.raises(KilledError):
                delete_parts(job.storage, FOLDER)
        assert publish(job) == published
        delete_parts(job.storage, FOLDER)
        assert not list(job.storage.list(f"{FOLDER}/"))


def test_shards_that_are_yet_to_run_are_not_what_was_published_before(job: Job) -> None:
    """Before parts or journals of theirs are there, the manifest is still the old one."""
    job.run(LINES, shards=3)
    publish(job)
    job.forget(0)
    with pytest.raises(BatchError, match="shard-00000 has no journal; run that shard first"):
        publish(job)
    delete_parts(job.storage, FOLDER)
    job.options = BatchOptions(batch_size=32)
    job.run_one(1)
    for each in [*job.storage.list(f"{FOLDER}/")]:
        if not is_journal(each.uri):
            job.storage.delete(each.uri)
    with pytest.raises(BatchError, match="shard-00000 has no journal; run that shard first"):
        publish(job)


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes_at_all_are_refused(job: Job, processes: int) -> None:
    job.processes = processes
    with pytest.raises(BatchError, match=f"processes is {processes}; give at least 1"):
        job.run(LINES)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kept", [0, -1])
def test_parts_must_be_all_of_their_shard(
    tmp_path: Path, linear_bundle: Bundle, suffix: str, kept: int
) -> None:
    from model_delivery_engine.batch.compression import compress

    job = Job(tmp_path / "job", linear_bundle, uri=URI + suffix)
    job.run(compress(LINES, Compression.GZIP) if suffix else LINES)
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    assert journal.end == len(LINES)
    assert len(journal.parts) > 2
    journal.parts = dict(list(journal.parts.items())[:kept])
    (uri,) = job.journals()
    job.storage.put(uri, journal.to_json())
    with pytest.raises(BatchError, match="lacks what begins at"):
        publish(job)
    assert not job.storage.exists(RESULTS)


def test_a_compressed_object_that_comes_short_is_noticed(
    tmp_path: Path, linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_delivery_engine.batch.compression import compress

    job = Job(tmp_path / "job", linear_bundle, uri=f"{URI}.gz")
    first = compress(LINES[:100_000], Compression.GZIP)
    read = job.storage.read

    def short_read(uri: str, start: int = 0, end: int | None = None, **more: Any) -> Any:
        cut = min(end or len(first), len(first)) if uri == job.uri else end
        return read(uri, start, cut, **more)

    monkeypatch.setattr(job.storage, "read", short_read)
    with pytest.raises(BatchError, match=f"{len(first)} bytes came of"):
        job.run(first + compress(LINES[100_000:], Compression.GZIP))


@pytest.mark.parametrize(
    ("form", "compression", "suffix"),
    [
        (OutputFormat.JSONL, Compression.NONE, ".jsonl"),
        (OutputFormat.JSONL, Compression.ZSTD, ".jsonl.zst"),
        (OutputFormat.PARQUET, Compression.NONE, ".parquet"),
    ],
)
def test_results_are_named_by_what_the_shards_wrote(
    job: Job, form: OutputFormat, compression: Compression, suffix: str
) -> None:
    job.options = BatchOptions(batch_size=64, output_format=form, output_compression=compression)
    job.run(LINES, shards=2)
    other = OutputFormat.JSONL if form == OutputFormat.PARQUET else OutputFormat.PARQUET
    with pytest.raises(BatchError, match=f"the shards wrote {form}, .*{other}, .* was asked for"):
        publish(job, SUFFIXED, output_format=other)
    published = publish(job, SUFFIXED, output_format=form, output_compression=compression)
    assert published["results"]["size"] == len(job.storage.get(f"mem://out/results{suffix}"))
    delete_parts(job.storage, FOLDER)
    assert publish(job, SUFFIXED) == published


def test_a_header_alone_makes_parquet_of_no_rows(tmp_path: Path, linear_bundle: Bundle) -> None:
    job = Job(tmp_path / "job", linear_bundle, uri="mem://in.csv")
    job.options = BatchOptions(batch_size=64, output_format=OutputFormat.PARQUET)
    assert job.run(b"id,features\n").records == 0
    publish(job)
    table = pyarrow.parquet.read_table(io.BytesIO(job.storage.get(RESULTS)))
    assert (table.num_rows, table.column_names) == (0, ["input", "scores", "error"])


def test_of_two_beginnings_of_a_shard_the_one_that_went_on_counts(job: Job) -> None:
    job.run(LINES)
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    other = replace(journal, batch_size=32, parts={}, complete=False, end=None)
    for name in ("a", "z"):
        job.storage.put(f"{shard_folder(FOLDER, 0)}/journal-{name}.json", other.to_json())
    assert publish(job)["records"] == sum(part.records for part in journal.parts.values())


def test_a_journal_of_another_release_is_said(job: Job) -> None:
    job.run(LINES)
    (uri,) = job.journals()
    data = {**json.loads(job.storage.get(uri)), "version": 3}
    with pytest.raises(ValueError, match="another release"):
        Journal.from_json(json.dumps(data).encode())
