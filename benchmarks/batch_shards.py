"""A worker of the shards' benchmark: `python -m benchmarks.batch_shards HOME INDEX COUNT`."""

import sys
import tempfile
from pathlib import Path

from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.pipeline import BatchOptions, ShardJob, run_shard
from model_delivery_engine.batch.planning import plan
from model_delivery_engine.batch.recommend import Recommendations
from model_delivery_engine.bundle import open_bundle

SHARDS = 8


def main() -> None:
    """Run every COUNT-th shard, from INDEX on, in this one process."""
    home, index, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    storage = StorageHook()
    options = BatchOptions(recommendations=Recommendations())
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(home / "recommender.tar.gz", Path(folder) / "opened")
        for shard in plan(storage, f"file://{home}/shards.jsonl", SHARDS)[index::count]:
            run_shard(ShardJob(shard, bundle, f"file://{home}/sharded", options, processes=1),
                      storage)  # fmt: skip


if __name__ == "__main__":
    main()
