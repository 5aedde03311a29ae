"""PNGs from storage through a small network, decoding included."""

import os
from pathlib import Path

import cv2
import numpy as np
from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.batch import Answers
from model_delivery_engine.batch.images import Images, list_objects, pack
from model_delivery_engine.batch.pipeline import BatchOptions
from model_delivery_engine.runtime import Model, open_session, session_options

from benchmarks.batch_models import PIXELS, image_network, pictures
from benchmarks.batch_rates import (
    Limit,
    Ran,
    Stages,
    beside,
    measure_limit,
    run_ours,
    run_ray,
    ways_to_serialise,
)
from benchmarks.record import work_folder, write

RECORDS = int(os.environ.get("BATCH_RECORDS", 12_000))
RAY_RECORDS = int(os.environ.get("BATCH_RAY_RECORDS", 2_000))
ROUNDS = int(os.environ.get("BATCH_ROUNDS", 5))
BATCH = 16
DISTINCT = 64  # pictures; the others repeat them, so that making them takes no hour
OPTIONS = BatchOptions(batch_size=BATCH, input_format="images")


def stages(model: Path) -> tuple[Stages, int]:
    """Objects' bytes to pixels, those to scores, those to bytes of lines: each alone."""
    cv2.setNumThreads(1)
    session = open_session(model, session_options(1))
    coded = [np.frombuffer(each, np.uint8) for each in pictures(DISTINCT)]
    count = DISTINCT * 4
    random = np.random.default_rng(0)
    batch = random.integers(0, 256, (BATCH, PIXELS, PIXELS, 3), np.uint8)
    (scores,) = session.run(["scores"], {"image": batch})

    spec = Model(session, "limit").inputs[0]
    reader = Images(spec, "limit")
    packed = b"".join(pack((b'{"uri":"p%d"}' % n, one.tobytes()) for n, one in enumerate(coded)))
    answers = Answers(BATCH, [b'{"uri":"p"}'] * BATCH, {"scores": scores}, {})

    def decode_ours() -> None:
        for _ in range(4):
            for _batch in reader.batches(packed, 0, BATCH):
                pass

    def decode() -> None:
        for _ in range(4):
            for each in coded:
                cv2.imdecode(each, cv2.IMREAD_COLOR_RGB)

    def infer() -> None:
        for _ in range(count // BATCH):
            session.run(["scores"], {"image": batch})

    return {
        "decode": {"OpenCV": decode, "ours": decode_ours},
        "infer": {"ONNX Runtime": infer},
        "serialise": ways_to_serialise([answers] * (count // BATCH)),
    }, count


def main() -> Path:
    """Interleave ours, limit and peer."""
    with work_folder("batch_images") as home:
        return _measured(home)


def _write_pictures(folder: Path, coded: list[bytes], count: int) -> None:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:06}.png").write_bytes(coded[n % len(coded)])


def _measured(home: Path) -> Path:
    work, coded = image_network(home), pictures(DISTINCT)
    _write_pictures(home / "pictures", coded, RECORDS)
    _write_pictures(home / "ray_pictures", coded, RAY_RECORDS)
    source = home / "listing.jsonl"
    listed = StorageHook().list(f"file://{home}/pictures/")
    source.write_bytes(b"".join(list_objects(listed)))
    ours: list[Ran] = []
    ray: list[float] = []
    limits: list[Limit] = []
    for _ in range(ROUNDS):
        limits.append(measure_limit(stages, work.model))
        ours.append(run_ours(work.bundle, source, home / "parts", OPTIONS))
        ray.append(run_ray("images", work.model, home / "ray_pictures", home / "ray"))
    measure = beside(
        f"images/s, {RECORDS} PNGs of {PIXELS} x {PIXELS} from storage",
        ours, limits, ray, f"Ray Data, {RAY_RECORDS} images", ">= 0.9 of the limit", least=0.9,
    )  # fmt: skip
    return write("batch_images", [measure], ["numpy", "onnxruntime", "opencv-python-headless"])
