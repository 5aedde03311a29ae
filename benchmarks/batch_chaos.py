"""Shards killed at random: records lost, records repeated, bytes that differ.

Method. One input with bad records among the good, in two shards, run by tasks of two processes each
over a store of files. Each of RUNS runs starts from nothing; a seeded generator gives each a
storage (told of its files, or not), a compression of the input, and up to three SIGKILLs to the
task's whole group of processes, at times over its life. The last try runs to its end, the results
are published, and each record of the output is compared with one that was never killed: lost and
repeated ids are counted, and the digests of results, errors and manifest have to be the same.

`BATCH_CHAOS_RUNS`, `BATCH_CHAOS_SEED` change the size and the seed.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.compression import compress
from model_delivery_engine.batch.formats import Compression
from model_delivery_engine.batch.merge import Destination, publish_once

from benchmarks.batch_chaos_task import FORMAT, plan_of, run_task
from benchmarks.batch_models import USERS, recommender
from benchmarks.record import OUT, Measure, write

RUNS = int(os.environ.get("BATCH_CHAOS_RUNS", "100"))
SEED = int(os.environ.get("BATCH_CHAOS_SEED", "20260101"))
RECORDS = 200_000
MOST_KILLS = 3
LIFE_SECONDS = (0.3, 4.0)
PATIENCE = 300.0
SUFFIX = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}


@dataclass
class Tally:
    """What went wrong, over all runs."""

    lost: int = 0
    repeated: int = 0
    different: int = 0
    kills: int = 0
    tries: Counter[int] = field(default_factory=Counter)


def main() -> Path:
    """Run it unharmed once for each input, then RUNS times with kills."""
    home = OUT / "batch_chaos"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        return _measured(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _measured(home: Path) -> Path:
    chance, tally = random.Random(SEED), Tally()
    recommender(home)
    data = _lines()
    expected = {}
    for kind in Compression:
        uri = _put(home, data, kind)
        expected[kind] = _unharmed(home, uri)
    for number in range(RUNS):
        kind = chance.choice([Compression.NONE] * 3 + [Compression.GZIP, Compression.ZSTD])
        _harmed(home, f"file://{home}/input.json{SUFFIX[kind]}", expected[kind], chance, tally)
        if number % 10 == 9:
            print(f"{number + 1} runs: {tally}", file=sys.stderr, flush=True)
    note = (
        f"{RUNS} runs of {RECORDS} records, seed {SEED}, {tally.kills} kills; tries a run: "
        f"{dict(sorted(tally.tries.items()))}; no peer: Ray Data resumes by an id column only"
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
        line = json.dumps({"userId": str(n % (USERS + 3) + 1), "n": n})
        lines.append(line if chance.random() > 0.001 else f'{{"n": {n}, broken')
    return "\r\n".join(lines).encode()


def _put(home: Path, data: bytes, kind: Compression) -> str:
    members = [data[at : at + 1_000_000] for at in range(0, len(data), 1_000_000)]
    path = home / f"input.json{SUFFIX[kind]}"
    path.write_bytes(b"".join(compress(member, kind) for member in members))
    return f"file://{path}"


def _unharmed(home: Path, uri: str) -> dict[str, str]:
    folder = home / "whole"
    run_task(str(home), uri, str(folder), local=True)
    found = _published(folder, uri)
    shutil.rmtree(folder)
    return found


def _harmed(
    home: Path, uri: str, expected: dict[str, str], chance: random.Random, tally: Tally
) -> None:
    folder, local = home / "killed", chance.random() < 0.5
    shutil.rmtree(folder, ignore_errors=True)
    kills, tries = chance.randint(1, MOST_KILLS), 0
    while True:
        tries += 1
        arguments = [str(home), uri, str(folder), "local" if local else "remote"]
        command = [sys.executable, "-m", "benchmarks.batch_chaos_task", *arguments]
        task = subprocess.Popen(command, start_new_session=True)
        try:
            task.wait(chance.uniform(*LIFE_SECONDS) if tries <= kills else PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(task.pid, signal.SIGKILL)
            task.wait()
            if tries > kills:
                raise
            tally.kills += 1
            continue
        if task.returncode:
            raise RuntimeError(f"a task failed by itself: {task.returncode}")
        break
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
            record = json.loads(line)["input"]
            if isinstance(record, str):  # a broken line is kept as the text it was
                record = {"n": int(record.partition(": ")[2].partition(",")[0])}
            seen[record["n"]] += 1
    return seen
