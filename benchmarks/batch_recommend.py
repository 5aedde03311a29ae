"""Recommendations for millions of lines: 943 users, 1,682 items, 64 factors, the best 25."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.answers import json_text
from model_delivery_engine.batch.batch import Answers
from model_delivery_engine.batch.budget import ErrorBudget
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.merge import Destination, publish_once
from model_delivery_engine.batch.pipeline import BatchOptions, ShardJob, run_shard
from model_delivery_engine.batch.planning import plan
from model_delivery_engine.batch.recommend import (
    BATCH_SIZE,
    DEFAULT_RESULTS,
    ITEM_SCORES,
    RESULTS,
    Recommendations,
    Recommender,
    RecommenderLines,
)
from model_delivery_engine.bundle import Bundle
from model_delivery_engine.runtime import Model, open_session, session_options

from benchmarks.batch_models import recommender, user_lines
from benchmarks.batch_rates import (
    Stages,
    TimedStorage,
    Ways,
    beside,
    measure_limit,
    run_ours,
    run_ray,
    write_once,
)
from benchmarks.record import Measure, median_and_spread, work_folder, write

RECORDS = int(os.environ.get("BATCH_RECORDS", 2_000_000))
LONG_RECORDS = int(os.environ.get("BATCH_LONG_RECORDS", 5_000_000))
RAY_RECORDS = int(os.environ.get("BATCH_RAY_RECORDS", 200_000))
SHARD_RECORDS = RECORDS
ROUNDS = int(os.environ.get("BATCH_ROUNDS", 5))
BATCH = BATCH_SIZE
MILLION = 1_000_000
OPTIONS = BatchOptions(batch_size=BATCH, recommendations=Recommendations())


def stages(model: Path) -> tuple[Stages, int]:
    """Bytes to rows of users, rows to the best items, those to bytes of lines: each alone."""
    session = open_session(model, session_options(1))
    recommender = Recommender(Model(session, "limit"), Recommendations())
    reader, users = RecommenderLines(recommender, "limit"), recommender.users
    count = BATCH * 40
    data = user_lines(count)
    lines = data.split(b"\n")[:-1]
    batches = [lines[at : at + BATCH] for at in range(0, count, BATCH)]
    rows = [{"user": np.array([users[orjson.loads(line)["userId"]] for line in batch])}
            for batch in batches]  # fmt: skip
    answers = [Answers(BATCH, batch, recommender.run(row), {})
               for batch, row in zip(batches, rows, strict=True)]  # fmt: skip

    no_results = {RESULTS: np.zeros(1, np.int64)}  # of ONNX Runtime's own TopK

    def parse() -> None:
        for line in data.split(b"\n")[:-1]:
            users[orjson.loads(line)["userId"]]

    return {
        "parse": {
            "orjson": parse,
            "ours, known lines": lambda: _each(lambda _batch: None, reader.batches(data, 0, BATCH)),
        },
        "infer": {
            "ONNX Runtime's TopK": lambda: _each(
                lambda row: session.run(["items", "scores"], row), rows
            ),
            "ONNX Runtime, numpy's argpartition": lambda: _each(
                lambda row: _best(session.run([ITEM_SCORES], row | no_results)[0]), rows
            ),
            "ours, ONNX Runtime and groups' maxima": lambda: _each(recommender.run, rows),
        },
        "serialise": _ways_to_serialise(recommender, answers),
    }, count


def _best(scores: Any) -> tuple[Any, Any]:
    """Return the best items' places and scores, best first, as numpy finds them."""
    places = np.argpartition(scores, -DEFAULT_RESULTS, axis=1)[:, -DEFAULT_RESULTS:]
    best = np.take_along_axis(scores, places, axis=1)
    order = np.argsort(-best, axis=1)
    return np.take_along_axis(places, order, axis=1), np.take_along_axis(best, order, axis=1)


def _each(run: Callable[[Any], object], values: Iterable[Any]) -> None:
    for value in values:
        run(value)


def _ways_to_serialise(recommender: Recommender, answers: Sequence[Answers]) -> Ways:
    names = np.array(list(recommender.items), dtype=object)

    def orjson_alone(one: Answers) -> None:
        # A batch's values in one call: three times as fast as a call for each record.
        items = names[one.outputs["recommendedItems"]]
        json_text(replace(one, outputs={**one.outputs, "recommendedItems": items}))

    return {
        "orjson": lambda: _each(orjson_alone, answers),
        "ours, orjson and labels": lambda: _each(
            lambda one: json_text(one, recommender.labels), answers
        ),
    }


def main() -> Path:
    """Interleave ours, limit and peer; then the long run, the resume and the shards."""
    with work_folder("batch_recommend") as home:
        return _measured(home)


def _measured(home: Path) -> Path:
    work = recommender(home)
    source = write_once(home / "input.jsonl", lambda: user_lines(RECORDS))
    small = write_once(home / "ray.jsonl", lambda: user_lines(RAY_RECORDS))
    ours, limits, ray = [], [], []
    for _ in range(ROUNDS):
        limits.append(measure_limit(stages, work.model))
        ours.append(run_ours(work.bundle, source, home / "parts", OPTIONS))
        ray.append(run_ray("recommend", work.model, small, home / "ray"))
    measures = [
        beside(
            f"records/s, {RECORDS} lines of users to lines of 25 items and scores",
            ours, limits, ray, f"Ray Data, {RAY_RECORDS} of the same lines",
            ">= 0.9 of the limit; >= 10 x the peer", least=0.9, times_peer=10,
        ),
        *_long(work.bundle, home),
        _resume(work.bundle, source, home),
        _shards(home),
    ]  # fmt: skip
    return write("batch_recommend", measures, ["numpy", "onnxruntime", "orjson"])


def _long(bundle: Bundle, home: Path) -> list[Measure]:
    """One long run: flat in rate and memory."""
    source = write_once(home / "long.jsonl", lambda: user_lines(LONG_RECORDS))
    ran = run_ours(bundle, source, home / "parts", OPTIONS)
    merged = _seconds_to_merge(source, home / "parts", home / "merged")
    source.unlink()
    nothing: dict[str, Any] = {
        "peer": None, "peer_name": None, "limit": None, "limit_name": None, "rounds": 1,
    }  # fmt: skip
    note = f"{LONG_RECORDS} records in {ran.seconds:.0f} s, one run: no spread, peer or limit"
    fifty = 50 * MILLION * (1 / ran.rate + merged / LONG_RECORDS)
    return [
        Measure(
            what="second half's rate by the first half's", unit="ratio", better="higher",
            ours=ran.halves[1] / ran.halves[0], goal=">= 0.95: flat", note=note,
            passed=ran.halves[1] / ran.halves[0] >= 0.95,
            spread=(ran.halves[1] / ran.halves[0],) * 2, **nothing,
        ),
        Measure(
            what="resident memory of all processes, peak", unit="MiB", better="lower",
            ours=ran.peak_bytes / 2**20, goal="< 1024 MiB", spread=(ran.peak_bytes / 2**20,) * 2,
            note=note, passed=ran.peak_bytes < 2**30, **nothing,
        ),
        Measure(
            what="50 million records", unit="s", better="lower", ours=fifty, goal="< 600 s",
            spread=(fifty, fifty), passed=fifty < 600,
            note=f"{note}; reckoned from this run's rate, and from the {merged:.1f} s that putting "
            "its parts together took; without the start", **nothing,
        ),
    ]  # fmt: skip


def _seconds_to_merge(source: Path, parts: Path, merged: Path) -> float:
    """Return how long putting the parts of a run together takes: results are visible after it."""
    names = ("results.jsonl", "errors.jsonl", "manifest.json")
    destination = Destination(*(f"file://{merged}/{name}" for name in names))
    started = time.perf_counter()
    publish_once(
        StorageHook(), f"file://{parts}", 1, destination, input_uri=f"file://{source}",
        input_format=None, budget=ErrorBudget(),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    shutil.rmtree(merged)
    return seconds


def _resume(bundle: Bundle, source: Path, home: Path) -> Measure:
    """How much of the input a job reads that was killed when 99 % of it were done."""
    folder = home / "resumed"
    storage = TimedStorage(local=False)
    size = source.stat().st_size
    job = ShardJob(
        plan(storage, f"file://{source}", 1)[0], bundle, f"file://{folder}", OPTIONS
    )  # fmt: skip
    run_shard(job, storage)
    journal = read_journal(storage, job.shard_folder)
    assert journal is not None
    parts = len(journal.parts)
    shutil.rmtree(folder)
    storage.parts_until_kill = parts - max(parts // 100, 1)
    with contextlib.suppress(KeyboardInterrupt):
        run_shard(job, storage)
    again = TimedStorage(local=False)
    run_shard(job, again)
    share = 100 * (again.bytes_read - _journal_bytes(folder)) / size
    return Measure(
        what="input read by the resume of a job that is 99 % done", unit="%", better="lower",
        ours=share, peer=None, peer_name=None, limit=1.0, limit_name="what was left to do",
        goal="<= 2 %", rounds=1, spread=(share, share), passed=share <= 2,
        note=f"{parts} parts; the peer's resume reads all input (ray #65891)",
    )  # fmt: skip


def _journal_bytes(folder: Path) -> int:
    journals = (folder / "shard-00000").glob("journal-*.json")
    return sum(each.stat().st_size for each in journals)


def _shards(home: Path) -> Measure:
    """8 shards on one worker of one core, and on two."""
    write_once(home / "shards.jsonl", lambda: user_lines(SHARD_RECORDS))
    _workers(home, 1)  # which leaves the modules' bytecode, as an installation has it
    ratios = []
    for _ in range(ROUNDS):
        one, two = _workers(home, 1), _workers(home, 2)
        ratios.append(two / one)
    ratio, spread = median_and_spread(ratios)
    return Measure(
        what="time of 8 shards on 2 workers by the time on 1", unit="ratio", better="lower",
        ours=ratio, peer=None, peer_name=None, limit=0.5, limit_name="twice the cores",
        goal="<= 0.6", rounds=ROUNDS, spread=spread, passed=ratio <= 0.6,
        note=f"{SHARD_RECORDS} records; a worker is a process of one core, its start included; no "
        "peer: the same engine at both ends",
    )  # fmt: skip


def _workers(home: Path, count: int) -> float:
    shutil.rmtree(home / "sharded", ignore_errors=True)
    started = time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "benchmarks.batch_shards", str(home)]
    workers = [
        subprocess.Popen([*command, str(n), str(count)], env=environment) for n in range(count)
    ]
    for worker in workers:
        if worker.wait():
            raise RuntimeError("a worker of the shards failed")
    return time.perf_counter() - started
