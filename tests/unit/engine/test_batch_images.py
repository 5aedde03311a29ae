"""Images by a listing: those that are no images, that are away, that change, and that are large."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_delivery_engine.batch.formats import Compression, InputFormat, OutputFormat
from model_delivery_engine.batch.images import Layout, list_objects
from model_delivery_engine.batch.journal import read_journal
from model_delivery_engine.batch.manifest import ResultsManifest
from model_delivery_engine.batch.parts import LARGEST_PART_BYTES
from model_delivery_engine.batch.pipeline import BatchOptions, ShardResult, shard_folder
from model_delivery_engine.batch.runner import PartRunner, Work
from model_delivery_engine.bundle import Bundle, Manifest, open_bundle
from model_delivery_engine.errors import BatchError
from model_delivery_engine.tensors import TensorSpec
from onnx import TensorProto, helper

from tests.unit.engine.batch_job import ERRORS, FOLDER, Job
from tests.unit.engine.conftest import save_graph
from tests.unit.engine.file_storage import Info

LISTING = "mem://listing.jsonl"
IMAGES = "mem://images/"


@pytest.fixture
def means(tmp_path: Path, compiled: Callable[..., tuple[Manifest, Path]]) -> Bundle:
    """Return a model of the mean of each colour of 8 x 6 pixels."""
    path = save_graph(
        tmp_path / "mean" / "model.onnx",
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        ],
        {"image": (TensorProto.UINT8, ["n", 8, 6, 3])},
        {"mean": (TensorProto.FLOAT, ["n", 3])},
        {"axes": np.array([1, 2], np.int64)},
    )
    _, archive = compiled(path, '{"image": [-1, 8, 6, 3]}')
    return open_bundle(archive, tmp_path / "mean-bundle")


def png(seed: int, height: int = 8, width: int = 6) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def job_of(root: Path, bundle: Bundle, count: int, *, local: bool = False) -> Job:
    job = Job(root, bundle, uri=LISTING, local=local)
    job.options = BatchOptions(batch_size=16, input_format="images")
    for n in range(count):
        job.storage.put(f"{IMAGES}{n:03d}.png", png(n))
    return job


def listing(job: Job) -> bytes:
    return b"".join(list_objects(job.storage.list(IMAGES)))


@pytest.mark.parametrize("local", [True, False])
def test_images(tmp_path: Path, means: Bundle, local: bool) -> None:
    job = Job(tmp_path / "job", means, uri="mem://listing.jsonl", local=local)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 6, 3), np.uint8)
    for n, image in enumerate(pixels):
        png = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        job.storage.put(f"mem://images/{n:03d}.png", png)
    job.storage.put("mem://images/100.png", b"no image")
    job.storage.put("mem://images/101.png", b"")
    listing = b"".join(list_objects(job.storage.list("mem://images/")))
    missing = b'{"uri":"mem://images/none.png"}\n{"name":1}\n\n'
    job.options = BatchOptions(batch_size=16, input_format="images")
    assert job.run(listing + missing, shards=2) == ShardResult(44, 40, 4, 1)
    job.publish()
    lines = job.lines()
    np.testing.assert_allclose(
        [line["output"]["mean"] for line in lines[:40]], pixels.mean(axis=(1, 2)), rtol=1e-4
    )
    assert lines[3]["input"] == {"uri": "mem://images/003.png"}
    reasons = [line["error"]["reason"] for line in lines[40:]]
    assert reasons[:2] == ["not an image that can be decoded", "the object is empty"]
    assert "none.png" in reasons[2]
    assert "'uri'" in reasons[3]
    assert lines[40]["error"]["uri"] == "mem://images/100.png"
    # The error file is an input: with the objects put right, it is answered.
    png = cv2.imencode(".png", pixels[0])[1].tobytes()
    for name in ("100", "101", "none"):
        job.storage.put(f"mem://images/{name}.png", png)
    again = Job(job.storage.root, means, uri=ERRORS, local=local)
    again.options = job.options
    again.forget()
    assert again.run() == ShardResult(4, 3, 1)


def test_a_lines_own_fields_come_out_and_what_is_missing_is_seen_at_once(
    tmp_path: Path, means: Bundle
) -> None:
    job = job_of(tmp_path / "job", means, 1)
    started = time.monotonic()
    result = job.run(
        b'{"uri":"mem://images/000.png","size":900,"id":%d,"label":"x"}\n' % 2**70
        + b'{"uri":"mem://images/none.png"}\n' * 100
    )
    assert time.monotonic() - started < 20  # with an outage's pauses: 44
    assert result == ShardResult(101, 1, 100)
    job.publish()
    own = {"uri": "mem://images/000.png", "id": 2**70, "label": "x"}
    assert job.lines()[0]["input"] == own


def test_a_store_that_is_away_makes_no_error_lines(
    tmp_path: Path, means: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery_engine.batch.storage._PAUSES_S", (0.01,))
    job = job_of(tmp_path / "job", means, 20)
    job.storage.away = "images/007"
    with pytest.raises(ConnectionRefusedError):
        job.run(listing(job))
    job.storage.away = ""
    assert job.run() == ShardResult(20, 20, 0)


@pytest.mark.parametrize("local", [True, False])
def test_an_image_that_is_replaced_under_the_job_is_noticed(
    tmp_path: Path, means: Bundle, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery_engine.batch.storage._PAUSES_S", ())
    job = job_of(tmp_path / "job", means, 20, local=local)
    listed = listing(job)
    job.storage.put(f"{IMAGES}007.png", png(99))
    with pytest.raises(BatchError, match=r"images/007.png changed after it was listed"):
        job.run(listed)


def test_the_digest_of_the_input_is_of_the_pixels_wherever_they_lie(
    tmp_path: Path, means: Bundle
) -> None:
    def manifest(name: str, *, local: bool, first: int = 0) -> ResultsManifest:
        job = job_of(tmp_path / name, means, 5, local=local)
        job.storage.put(f"{IMAGES}000.png", png(first))
        lines = [json.loads(line) for line in listing(job).splitlines()]
        job.run("".join(json.dumps({"uri": each["uri"]}) + "\n" for each in lines).encode())
        return job.publish()

    files, remote = manifest("files", local=True), manifest("remote", local=False)
    assert files.input_digest == remote.input_digest
    assert manifest("other", local=True, first=9).input_digest != files.input_digest


def test_small_pictures_are_many_parts(tmp_path: Path, means: Bundle) -> None:
    job = job_of(tmp_path / "job", means, 1)
    assert job.run(listing(job) * 1_500).ok == 1_500
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    held = [part.records for _, part in sorted(journal.parts.items())]
    assert len(held) >= 12
    assert held[0] <= 8  # a job that fails early is seen early
    assert max(held) <= 128


@pytest.mark.parametrize("sizes", [True, False])
def test_parts_are_cut_by_the_size_of_their_own_images(
    tmp_path: Path, means: Bundle, sizes: bool
) -> None:
    """The listing's first 64 KiB name small ones, what follows large ones."""
    job = job_of(tmp_path / "job", means, 10)
    large = png(1, 1200, 1200)  # 4.3 MB
    for n in range(12):
        job.storage.put(f"{IMAGES}large-{n:02d}.png", large)
    first, rest = listing(job).split(b'{"uri":"mem://images/large', 1)
    lines = first * 100 + b'{"uri":"mem://images/large' + rest
    if not sizes:
        lines = b"".join(
            json.dumps({"uri": json.loads(line)["uri"]}).encode() + b"\n"
            for line in lines.splitlines()[-12:]
        )
    result = job.run(lines)
    assert (result.errors, result.records) == (0, 1012 if sizes else 12)
    journal = read_journal(job.storage, shard_folder(FOLDER, 0))
    assert journal is not None
    small = len(first * 100) if sizes else 0
    held = [part.records for part in journal.parts.values() if part.start >= small]
    assert held
    assert max(held) <= (2 if sizes else LARGEST_PART_BYTES >> 20)


def test_what_an_object_may_be(
    tmp_path: Path, means: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery_engine.batch.images.MAX_RECORD_BYTES", 100_000)
    for local in (True, False):
        job = job_of(tmp_path / f"{local}", means, 1, local=local)
        job.storage.put(f"{IMAGES}large.png", b"x" * 100_001)
        job.run(
            b'{"uri":"mem://images/large.png"}\n{"uri":"mem://images/000.png","size":5}\n'
            b'{"uri":"mem://images/a\\u0000b"}\n{"uri":"mem://images"}\n'
        )
        job.publish()
        reasons = [line["error"]["reason"] for line in job.lines()]
        assert "is over 100000 bytes" in reasons[0]
        assert "larger than the 5 bytes that the listing states" in reasons[1]
        assert "does not exist" in reasons[2]
        assert "does not exist" in reasons[3]


def test_what_a_console_leaves_for_a_folder_is_no_image(tmp_path: Path, means: Bundle) -> None:
    job = job_of(tmp_path / "job", means, 2)
    marker = Info(IMAGES, 0, "none")
    named = list_objects([marker, *job.storage.list(IMAGES), Info(f"{IMAGES}x/", 3, "some")])
    uris = [json.loads(line)["uri"] for line in named]
    assert uris == [f"{IMAGES}000.png", f"{IMAGES}001.png", f"{IMAGES}x/"]


def test_an_input_that_cannot_hold_pixels_is_refused() -> None:
    with pytest.raises(BatchError, match="is INT8, which cannot hold the pixels"):
        Layout.of(TensorSpec("image", "INT8", (-1, 8, 8, 3)))


def test_a_model_of_two_inputs_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "two.onnx",
        [helper.make_node("Mul", ["image", "scale"], ["y"])],
        {
            "image": (TensorProto.FLOAT, ["n", 8, 6, 3]),
            "scale": (TensorProto.FLOAT, ["n", 1, 1, 1]),
        },
        {"y": (TensorProto.FLOAT, ["n", 8, 6, 3])},
    )
    work = Work(
        path, "two", LISTING, InputFormat.IMAGES, OutputFormat.JSONL, Compression.NONE, tmp_path
    )
    with pytest.raises(BatchError, match="'two' takes image, scale, and an image is one input"):
        PartRunner(work)
