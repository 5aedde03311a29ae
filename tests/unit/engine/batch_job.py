"""A whole job over files: plan, run each shard, publish."""

import json
from pathlib import Path
from typing import Any

from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.manifest import ResultsManifest
from model_delivery_engine.batch.merge import publish, read_journals
from model_delivery_engine.batch.pipeline import (
    BatchOptions,
    ShardJob,
    ShardResult,
    run_shard,
    shard_folder,
)
from model_delivery_engine.batch.planning import plan, positions
from model_delivery_engine.bundle import Bundle

from tests.unit.engine.file_storage import FileStorage

URI = "mem://input.jsonl"
FOLDER = "mem://parts"
RESULTS = "mem://results.jsonl"
ERRORS = "mem://errors.jsonl"


class Job:
    """One job below a folder of its own.

    :param local: whether the engine is told where the files are
    """

    def __init__(self, root: Path, bundle: Bundle, *, uri: str = URI, local: bool = False) -> None:
        self.storage = FileStorage(root, local=local)
        self.bundle = bundle
        self.uri = uri
        self.budget = ErrorBudget()
        self.processes: int | None = 1
        self.options = BatchOptions(batch_size=64)
        self.told: list[str] = []

    def run(self, data: bytes | None = None, shards: int = 1, **plan_options: Any) -> ShardResult:
        """Put the input, run every shard, return the counts of all."""
        if data is not None:
            self.storage.put(self.uri, data)
        form = self.options.input_format
        self.shards = plan(self.storage, self.uri, shards, input_format=form, **plan_options)
        results = [self.run_one(index) for index in range(len(self.shards))]
        return ShardResult(
            *(sum(getattr(each, name) for each in results)
              for name in ("records", "ok", "errors", "skipped"))
        )  # fmt: skip

    def run_one(self, index: int) -> ShardResult:
        job = ShardJob(
            self.shards[index], self.bundle, FOLDER, self.options, budget=self.budget,
            processes=self.processes, shards=len(self.shards),
        )  # fmt: skip
        return run_shard(job, self.storage, self.told.append)

    def publish(self) -> ResultsManifest:
        """Merge."""
        return publish(
            self.storage, FOLDER, read_journals(self.storage, FOLDER, len(self.shards)),
            input_uri=self.uri,
            input_size=positions(self.storage, self.uri, self.options.input_format),
            results_uri=RESULTS, errors_uri=ERRORS, budget=self.budget,
        )  # fmt: skip

    def journals(self, index: int = 0) -> list[str]:
        """Return the URIs of a shard's journals, one of each run that left one."""
        return [each.uri for each in self.storage.list(f"{shard_folder(FOLDER, index)}/journal-")]

    def forget(self, index: int = 0) -> None:
        """Delete a shard's journals, so that it begins again."""
        for uri in self.journals(index):
            self.storage.delete(uri)

    def lines(self, uri: str = RESULTS) -> list[dict[str, Any]]:
        """Return the published lines, parsed."""
        data = self.storage.get(uri)
        assert not data or data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]

    def answers(self, data: bytes, **options: Any) -> tuple[ShardResult, list[dict[str, Any]]]:
        """Run a job and return its counts and its lines."""
        self.options = BatchOptions(**{"batch_size": 64, **options})
        result = self.run(data)
        self.publish()
        return result, self.lines()


class KilledError(BaseException):
    pass


def kill_at(job: Job, write: int) -> None:
    """Make the job's storage die at its n-th write, before or after the object is there."""
    count = iter(range(write + 1))
    take, write_stream = job.storage.take, job.storage.write_stream

    def dying_take(path: Path, uri: str) -> None:
        if next(count, None) is None:
            raise KilledError
        take(path, uri)

    def dying_write(uri: str, chunks: Any, **more: Any) -> None:
        if next(count, None) is None:
            raise KilledError
        write_stream(uri, chunks, **more)

    job.storage.take, job.storage.write_stream = dying_take, dying_write  # type: ignore[method-assign]
