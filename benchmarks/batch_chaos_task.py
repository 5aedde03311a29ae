"""A task of `batch_chaos`, in a process that is there to be killed."""

import os
import tempfile
from pathlib import Path

from model_delivery_engine.batch.pipeline import BatchOptions, ShardJob, run_shard
from model_delivery_engine.batch.planning import plan
from model_delivery_engine.batch.recommend import Recommendations
from model_delivery_engine.batch.shards import Shard
from model_delivery_engine.bundle import open_bundle

from benchmarks.batch_rates import TimedStorage

SHARDS = 2
FORMAT = "jsonl"
RESULTS = 3  # short answers: many records a second, so many parts to be killed between


def plan_of(uri: str) -> list[Shard]:
    """Return the input's shards: two, or one where it is compressed."""
    return plan(TimedStorage(), uri, SHARDS, input_format=FORMAT)


def task(home: Path, uri: str, folder: str, *, local: bool) -> None:
    """Run every shard, or what a run before left of them, with at most two processes.

    :param local: whether the engine is told where the files are
    """
    os.setsid()  # so that it is killed with its processes
    tempfile.tempdir = str(home / "spool")  # what a killed one leaves goes with the benchmark's
    options = BatchOptions(
        batch_size=256, input_format=FORMAT, recommendations=Recommendations(RESULTS)
    )
    with tempfile.TemporaryDirectory() as opened:
        bundle = open_bundle(home / "recommender.tar.gz", Path(opened) / "bundle")
        for shard in plan_of(uri):
            job = ShardJob(shard, bundle, f"file://{folder}/parts", options, processes=2)
            run_shard(job, TimedStorage(local=local))
