"""The sample that the main job delivers: a model of handwritten digits, and images it never saw.

``python include/samples/digits.py OUTDIR`` trains a small network on scikit-learn's copy of the UCI
digits (1,797 images of 8 by 8 pixels), and writes ``digits.tar.gz`` (one ``model.onnx``),
``held_out.jsonl`` (a record an image: id, image, label) and ``pictures/`` (a PNG an image, sixteen
times as large, for people who review answers).
"""

import argparse
import json
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.tensors import Array
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.convert import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# scikit-learn and its converter have no type annotations.
_MLPClassifier: Any = MLPClassifier
_StandardScaler: Any = StandardScaler
_make_pipeline: Any = make_pipeline
_FloatTensorType: Any = FloatTensorType

SEED = 7
HELD_OUT_SHARE = 0.3
PIXELS = 64
SIDE = 8
ENLARGED = 16
INK = 16.0
OPSET = {"": 18, "ai.onnx.ml": 3}
DATA_INPUT_CONFIG = json.dumps({"image": [-1, PIXELS]})


@dataclass(frozen=True)
class SampleFacts:
    """What was written.

    :param archive: ``digits.tar.gz``
    :param records: ``held_out.jsonl``
    :param pictures: folder of the pictures
    :param held_out: number of its records
    :param accuracy: share of them that the trained model gets right, before any compilation
    :param data_input_config: the archive's DataInputConfig
    """

    archive: Path
    records: Path
    pictures: Path
    held_out: int
    accuracy: float
    data_input_config: str


def write_samples(folder: Path, pictures_uri: str | None = None) -> SampleFacts:
    """Train the model and write the archive and the held-out images into a folder.

    :param pictures_uri: where the pictures will lie, for a field of each record (default: none)
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    train, held_out, train_labels, labels = train_test_split(
        digits.data,
        digits.target,
        test_size=HELD_OUT_SHARE,
        random_state=SEED,
        stratify=digits.target,
    )
    classifier = _train(train, train_labels)
    _write_archive(classifier, folder / "digits.tar.gz")
    pictures = folder / "pictures"
    _write_records(held_out, labels, folder / "held_out.jsonl", pictures_uri)
    _write_pictures(held_out, pictures)
    return SampleFacts(
        archive=folder / "digits.tar.gz",
        records=folder / "held_out.jsonl",
        pictures=pictures,
        held_out=len(labels),
        accuracy=float(classifier.score(held_out, labels)),
        data_input_config=DATA_INPUT_CONFIG,
    )


def _train(images: Array, labels: Array) -> Any:
    network = _MLPClassifier(hidden_layer_sizes=(64,), max_iter=200, random_state=SEED)
    return _make_pipeline(_StandardScaler(), network).fit(images, labels)


def _write_archive(classifier: Any, archive: Path) -> None:
    model = to_onnx(
        classifier,
        initial_types=[("image", _FloatTensorType([None, PIXELS]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=OPSET,
    )
    with tempfile.TemporaryDirectory(prefix="digits-") as name:
        (Path(name) / "model.onnx").write_bytes(model.SerializeToString())
        pack_archive(Path(name), archive)


def _write_records(images: Array, labels: Array, path: Path, uri: str | None) -> None:
    with path.open("w", encoding="utf-8") as out:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = _name(number)
            record = {"id": name, "image": image.tolist(), "label": int(label)}
            if uri:
                record["picture"] = f"{uri}/{name}.png"
            out.write(json.dumps(record) + "\n")


def _write_pictures(images: Array, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        ink = 255 - (image.reshape(SIDE, SIDE) * 255.0 / INK).round().astype(np.uint8)
        large = ink.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        (folder / f"{_name(number)}.png").write_bytes(_png(large))


def _name(number: int) -> str:
    return f"digit-{number:04}"


def _png(grey: Array) -> bytes:
    """Return an image of bytes, black to white, as PNG (ISO 15948)."""
    height, width = grey.shape
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def main() -> None:
    """Write the samples into the folder named on the command line and say what they are."""
    parser = argparse.ArgumentParser(description="Write the digits sample: model and images.")
    parser.add_argument("folder", type=Path, help="folder to write into; made where it is absent")
    facts = write_samples(parser.parse_args().folder)
    print(f"model: {facts.archive}")
    print(f"held-out images: {facts.held_out} in {facts.records}")
    print(f"held-out accuracy: {facts.accuracy:.4f}")


if __name__ == "__main__":
    main()
