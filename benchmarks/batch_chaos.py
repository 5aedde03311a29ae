"""Shards killed at random: records lost, records repeated, bytes that differ.

Method. One input with bad records among the good, over a store of files: plain in two shards of two
worker processes each, or compressed in one shard that the task runs by itself. Each of RUNS runs
starts from nothing; a seeded generator gives each a storage (told of its files, or not), a
compression of the input, and up to three SIGKILLs to the task's whole group of processes, at times
over the life of a task that was never killed. The last try runs to its end, the results are
published, and each record of the output is compared with one that was never killed: lost and
repeated ids are counted, and the digests of results, errors and manifest have to be the same.

Tasks are forked from a server that has imported all they need: else most of each run, and most of
the kills, would be in the import.

`BATCH_CHAOS_RUNS`, `BATCH_CHAOS_SEED` change the size and the seed.
"""

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import Compression
from model_delivery_engine.batch.merge import Destination, publish_once

from benchmarks.batch_chaos_task import FORMAT, plan_of, task
from benchmarks.batch_models import USERS, recommender
from benchmarks.record import Measure, work_folder, write

RUNS = int(os.environ.get("BATCH_CHAOS_RUNS", "100"))
SEED = int(os.environ.get("BATCH_CHAOS_SEED", "20260101"))
RECORDS = 150_000
NOTE = "n" * 64  # long lines: enough bytes in a plain shard for two processes
MOST_KILLS = 3
EARLIEST_KILL = 0.05  # of a task's life
PATIENCE = 300.0
SUFFIX = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}


@dataclass
class Tally:
    """What went wrong, over all runs."""

    lost: int = 0
    repeated: int = 0
    different: int = 0
    kills: int = 0
    in_vain: int = 0
    tries: Counter[int] = field(default_factory=Counter)


def main() -> Path:
    """Run it unharmed once for each input, then RUNS times with kills."""
    with work_folder("batch_chaos") as home:
        return _measured(home)


def _measured(home: Path) -> Path:
    chance, tally = random.Random(SEED), Tally()
    recommender(home)
    (home / "spool").mkdir()
    data = _lines()
    expected, lives = {}, {}
    for kind in Compression:
        uri = _put(home, data, kind)
        _unharmed(home, uri)  # the first one starts the server
        expected[kind], lives[kind] = _unharmed(home, uri)
    for number in range(RUNS):
        kind = chance.choice([Compression.NONE] * 3 + [Compression.GZIP, Compression.ZSTD])
        uri = f"file://{home}/input.json{SUFFIX[kind]}"
        _harmed(home, uri, expected[kind], lives[kind], chance, tally)
        if number % 10 == 9:
            print(f"{number + 1} runs: {tally}", file=sys.stderr, flush=True)
    note = (
        f"{RUNS} runs of {RECORDS} records, seed {SEED}, {tally.kills} kills, and {tally.in_vain} "
        f"that came too late; tries a run: {dict(sorted(tally.tries.items()))}; "
        "no peer: Ray Data resumes by an id column only"
    )
    counts = {
        "records lost": tally.lost,
        "records repeated": tally.repeated,
        "runs whose bytes differ": tally.different,
    }
    return write(
        "batch_chaos",
        [
            Measure(
                what=what, unit="count", better="lower", ours=count, peer=None, peer_name=None,
                limit=0, limit_name="none", goal="0", rounds=RUNS, spread=(count, count),
                note=note, passed=count == 0,
            )
            for what, count in counts.items()
        ],
        ["onnxruntime", "orjson"],
    )  # fmt: skip


def _lines() -> bytes:
    """Return lines of known and of unknown users, broken lines and blank ones, with an id each."""
    chance, lines = random.Random(1), []
    for n in range(RECORDS):
        line = b'{"userId":"%d","n":%d,"note":"%b"}' % (n % (USERS + 3) + 1, n, NOTE.encode())
        lines.append(line if chance.random() > 0.001 else b'{"n": %d, broken' % n)
    return b"\r\n".join(lines)


def _put(home: Path, data: bytes, kind: Compression) -> str:
    members = [data[at : at + 1_000_000] for at in range(0, len(data), 1_000_000)]
    path = home / f"input.json{SUFFIX[kind]}"
    path.write_bytes(b"".join(compress(member, kind) for member in members))
    return f"file://{path}"


def _started(home: Path, uri: str, folder: Path, *, local: bool) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.batch_chaos_task"])
    process = context.Process(target=task, args=(home, uri, str(folder)), kwargs={"local": local})
    process.start()
    return process


def _unharmed(home: Path, uri: str) -> tuple[dict[str, str], float]:
    folder, started = home / "whole", time.monotonic()
    process = _started(home, uri, folder, local=True)
    process.join(PATIENCE)
    if process.exitcode != 0:
        raise RuntimeError(f"a task that nobody killed ended with {process.exitcode}")
    seconds = time.monotonic() - started
    found = _published(folder, uri)
    shutil.rmtree(folder)
    return found, seconds


def _harmed(
    home: Path, uri: str, expected: dict[str, str], life: float, chance: random.Random, tally: Tally
) -> None:
    folder, local = home / "killed", chance.random() < 0.5
    shutil.rmtree(folder, ignore_errors=True)
    kills, tries = chance.randint(1, MOST_KILLS), 1
    for _ in range(kills):
        process = _started(home, uri, folder, local=local)
        process.join(chance.uniform(EARLIEST_KILL, 1) * life)
        if process.exitcode is not None:
            tally.in_vain += 1
            break
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not come to making its group
            process.kill()
        process.join()
        tally.kills += 1
        tries += 1
    process = _started(home, uri, folder, local=local)
    process.join(PATIENCE)
    if process.exitcode != 0:
        raise RuntimeError(f"the last try ended with {process.exitcode}")
    tally.tries[tries] += 1
    found = _published(folder, uri)
    if found != expected:
        tally.different += 1
    seen = _numbers(folder)
    tally.lost += len(set(range(RECORDS)) - seen.keys())
    tally.repeated += sum(count - 1 for count in seen.values())


def _published(folder: Path, uri: str) -> dict[str, str]:
    """Publish, and return the digest of each object."""
    names = ("results.jsonl", "errors.jsonl", "manifest.json")
    destination = Destination(*(f"file://{folder}/{name}" for name in names))
    storage = StorageHook()
    publish_once(
        storage, f"file://{folder}/parts", len(plan_of(uri)), destination,
        input_uri=uri, input_format=FORMAT, budget=ErrorBudget(),
    )  # fmt: skip
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _numbers(folder: Path) -> Counter[int]:
    """Count the ids of all records in the results, also of those that failed."""
    seen: Counter[int] = Counter()
    with (folder / "results.jsonl").open("rb") as lines:
        for line in lines:
            record = orjson.loads(line)["input"]
            if isinstance(record, str):  # a broken line is kept as the text it was
                record = {"n": int(record.partition(": ")[2].partition(",")[0])}
            seen[record["n"]] += 1
    return seen
