"""Wide records through a heavy model: 512 floats a line, a perceptron of 9.7 million parameters."""

import os
from pathlib import Path

import numpy as np
import orjson
from model_delivery_engine.batch.batch import Answers
from model_delivery_engine.batch.json_lines import JsonLines
from model_delivery_engine.batch.pipeline import BatchOptions
from model_delivery_engine.batch.records import RecordParser
from model_delivery_engine.runtime import Model, open_session, session_options

from benchmarks.batch_models import WIDTH, feature_lines, mlp
from benchmarks.batch_rates import (
    Limit,
    Ran,
    Stages,
    Ways,
    beside,
    measure_limit,
    run_ours,
    run_ray,
    ways_to_serialise,
    write_once,
)
from benchmarks.record import work_folder, write

RECORDS = int(os.environ.get("BATCH_RECORDS", 60_000))
RAY_RECORDS = int(os.environ.get("BATCH_RAY_RECORDS", 20_000))
ROUNDS = int(os.environ.get("BATCH_ROUNDS", 5))
BATCH = 64
OPTIONS = BatchOptions(batch_size=BATCH)


def stages(model: Path) -> tuple[Stages, int]:
    """Bytes to tensors, those to scores, those to bytes of lines: each alone."""
    session = open_session(model, session_options(1))
    count = BATCH * 40
    random = np.random.default_rng(0)
    rows = [random.normal(size=(BATCH, WIDTH)).astype(np.float32) for _ in range(40)]
    echo = b'{"id":"r123"}'
    answers = [
        Answers(
            BATCH, [echo] * BATCH, {"scores": session.run(["scores"], {"features": row})[0]}, {}
        )
        for row in rows
    ]

    def infer() -> None:
        for row in rows:
            session.run(["scores"], {"features": row})

    return {
        "parse": _ways_to_parse(feature_lines(count), Model(session, "limit")),
        "infer": {"ONNX Runtime": infer},
        "serialise": ways_to_serialise(answers),
    }, count


def _ways_to_parse(data: bytes, model: Model) -> Ways:
    import simdjson

    lines = data.split(b"\n")[:-1]
    parser = simdjson.Parser()
    reader = JsonLines(RecordParser(model.inputs, None), "limit")

    def with_orjson() -> None:
        for line in lines:
            np.array(orjson.loads(line)["features"], np.float32)

    def with_simdjson() -> None:
        for line in lines:
            document = parser.parse(line)
            values = document["features"]
            values.as_buffer(of_type="d")
            del values, document

    def ours() -> None:
        for _batch in reader.batches(data, 0, BATCH):
            pass

    return {"orjson": with_orjson, "simdjson": with_simdjson, "ours": ours}


def main() -> Path:
    """Interleave ours, limit and peer."""
    with work_folder("batch_dense") as home:
        return _measured(home)


def _measured(home: Path) -> Path:
    work = mlp(home)
    source = write_once(home / "input.jsonl", lambda: feature_lines(RECORDS))
    small = write_once(home / "ray.jsonl", lambda: feature_lines(RAY_RECORDS))
    ours: list[Ran] = []
    ray: list[float] = []
    limits: list[Limit] = []
    for _ in range(ROUNDS):
        limits.append(measure_limit(stages, work.model))
        ours.append(run_ours(work.bundle, source, home / "parts", OPTIONS))
        ray.append(run_ray("dense", work.model, small, home / "ray"))
    measure = beside(
        f"records/s, {RECORDS} lines of {WIDTH} floats through 9.7 million parameters",
        ours, limits, ray, f"Ray Data, {RAY_RECORDS} lines", ">= 0.92 of the limit", least=0.92,
    )  # fmt: skip
    return write("batch_dense", [measure], ["numpy", "onnxruntime", "orjson", "pysimdjson"])
