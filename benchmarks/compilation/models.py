"""Seven real models: four that packages ship, three that their own frameworks train on real digits.

Each comes as an archive with the data to calibrate on and to hold it to. Where nobody labelled the
data, the labels are the source model's own answers: the metric is then agreement with fp32.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.frameworks.environment import environment_python
from model_delivery_engine.settings import CompilerSettings
from onnx import TensorProto, helper

SEED = 7
TEXT_PIXELS = 48
PAGE = 480
MOST_OF_A_KIND = 200  # of files, by their suffix
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "13",
    "lazy",
    "dogs",
    "and",
    "leaves",
    "2026",
    "reviews",
    "behind",
]


@dataclass(frozen=True)
class Case:
    """A model to compile and to time.

    :param samples: an ``.npz`` with inputs and labels
    :param metric: by name, or an ONNX file
    :param labelled: what the labels are, in words
    :param neural: whether its time goes into matrix products and convolutions
    :param batch: samples in one run of the throughput
    """

    name: str
    framework: str
    archive: Path
    config: str
    samples: Path
    metric: str
    labelled: str
    neural: bool = True
    batch: int = 1


def make_cases(folder: Path, packages: Path) -> Iterator[Case]:
    """Yield the cases.

    :param packages: site-packages of the environment that has magika and rapidocr
    """
    ocr = packages / "rapidocr_onnxruntime" / "models"
    # A bound of 0.01 on a count needs a hundred samples held out; the other metrics are shares, and
    # need eight, beside as many for the search and some to calibrate on.
    lines = np.stack([_text_line(n, 320) for n in range(48)])
    short = np.stack([_text_line(n, 192, flip=n % 2 == 1) for n in range(400)])
    pages = np.stack([_page(n) for n in range(48)])
    # The quick ones first: what is measured is written after each.
    yield from _trained(folder)
    yield _shipped(folder, "rapidocr classification", ocr / "ch_ppocr_mobile_v2.0_cls_infer.onnx",
                   {"x": short}, [1, 3, TEXT_PIXELS, 192], "accuracy", 1)  # fmt: skip
    yield _shipped(folder, "magika", packages / "magika/models/standard_v3_3/model.onnx",
                   {"bytes": _files(packages)}, [-1, 2048], "accuracy", 8)  # fmt: skip
    yield _shipped(folder, "rapidocr recognition", ocr / "ch_PP-OCRv4_rec_infer.onnx",
                   {"x": lines}, [1, 3, TEXT_PIXELS, 320], "characters", 1)  # fmt: skip
    yield _shipped(folder, "rapidocr detection", ocr / "ch_PP-OCRv4_det_infer.onnx",
                   {"x": pages}, [1, 3, PAGE, PAGE], "pixels", 1)  # fmt: skip


def _shipped(
    folder: Path, name: str, model: Path, inputs: dict[str, Any], shape: list[int],
    metric: str, batch: int,
) -> Case:  # fmt: skip
    place = folder / name.replace(" ", "-")
    (place / "model").mkdir(parents=True)
    (place / "model" / "model.onnx").write_bytes(model.read_bytes())
    pack_archive(place / "model", place / "model.tar.gz")
    answers = _answers(model, inputs, shape[0])
    chosen = metric
    if metric == "accuracy":
        labels = answers.argmax(axis=-1)
    else:
        chosen = str(place / "metric.onnx")
        labels = answers.argmax(-1) if metric == "characters" else (answers > 0.3).astype(np.int64)
        onnx.save(_agreement(answers.shape, metric), chosen)
    np.savez(place / "samples.npz", labels=labels, **inputs)
    ((input_name, _),) = inputs.items()
    config = f'{{"{input_name}": {shape}}}'
    said = "agreement with fp32" + ("" if metric == "accuracy" else f" on {metric}")
    return Case(name, "ONNX", place / "model.tar.gz", config, place / "samples.npz", chosen, said,
                batch=batch)  # fmt: skip


def _answers(model: Path, inputs: dict[str, Any], batch: int) -> Any:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ((name, array),) = inputs.items()
    size = 8 if batch == -1 else batch
    parts = [
        session.run(None, {name: array[start : start + size]})[0]
        for start in range(0, len(array), size)
    ]
    return np.concatenate(parts)


def _agreement(shape: tuple[int, ...], metric: str) -> onnx.ModelProto:
    """Return a metric: the share of characters, or of pixels above 0.3, that are as labelled."""
    if metric == "characters":
        nodes = [helper.make_node("ArgMax", ["outputs"], ["found"], axis=-1, keepdims=0)]
        labels = shape[1:-1]
    else:
        nodes = [
            helper.make_node("Greater", ["outputs", "level"], ["above"]),
            helper.make_node("Cast", ["above"], ["found"], to=TensorProto.INT64),
        ]
        labels = shape[1:]
    nodes += [
        helper.make_node("Equal", ["found", "labels"], ["same"]),
        helper.make_node("Cast", ["same"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["share"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "axes"], ["score"], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "agreement",
        [
            value("outputs", TensorProto.FLOAT, ["n", *shape[1:]]),
            value("labels", TensorProto.INT64, ["n", *labels]),
        ],
        [value("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("level", TensorProto.FLOAT, [], [0.3]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _files(packages: Path) -> Any:
    """Return the first and last 1,024 bytes of some 1,300 files, as magika reads them.

    Pinned packages have the same files wherever this runs. The compiler holds out 400 of them: of
    100, one file more or less would decide about a bound of 0.01.
    """
    kinds: dict[str, list[Path]] = {}
    for path in sorted(packages.rglob("*")):
        if "__pycache__" not in path.parts and path.is_file() and path.stat().st_size >= 2048:
            kinds.setdefault(path.suffix, []).append(path)
    generator = random.Random(SEED)
    rows = [
        path.read_bytes()
        for paths in kinds.values()
        for path in generator.sample(paths, min(len(paths), MOST_OF_A_KIND))
    ]
    return np.array([[*data[:1024], *data[-1024:]] for data in rows], np.int32)


def _draw(text: str, size: tuple[int, int], places: list[tuple[int, int]]) -> Any:
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 26)
    image = Image.new("RGB", size, "white")
    for place in places:
        ImageDraw.Draw(image).text(place, text, fill=(20, 20, 40), font=font)
    return np.asarray(image, np.float32)


def _normalised(pixels: Any) -> Any:
    return (pixels.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)


def _text_line(number: int, width: int, *, flip: bool = False) -> Any:
    generator = random.Random(number)
    text = " ".join(generator.sample(WORDS, 3))
    pixels = _draw(text, (width, TEXT_PIXELS), [(4, generator.randrange(2, 14))])
    return _normalised(pixels[::-1, ::-1] if flip else pixels)


def _page(number: int) -> Any:
    generator = random.Random(number)
    places = [(generator.randrange(0, 200), y) for y in range(20, PAGE - 40, 60)]
    return _normalised(_draw(" ".join(generator.sample(WORDS, 4)), (PAGE, PAGE), places))


def _trained(folder: Path) -> Iterator[Case]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "digits.npz"
    np.savez(data, images=images, labels=labels)
    for name, framework, environment, file, shape in (
        ("torch CNN, digits", "PYTORCH", "pytorch", "model.pt", [-1, 1, 32, 32]),
        ("scikit-learn forest, digits", "SKLEARN", "sklearn", "model.skops", [-1, 64]),
        ("XGBoost, digits", "XGBOOST", "xgboost", "model.ubj", [-1, 64]),
    ):
        place = folder / environment
        (place / "model").mkdir(parents=True)
        python = environment_python(environment, CompilerSettings.from_environment().environments)
        script = str(Path(__file__).with_name("train.py"))
        environ = {**os.environ, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
        command = [str(python), "-W", "ignore", script, environment, str(data)]
        subprocess.run(
            [*command, str(place / "model" / file)], check=True, env=environ, capture_output=True
        )
        pack_archive(place / "model", place / "model.tar.gz")
        held_out = slice(1000, None)
        given = images[held_out]
        if environment == "pytorch":
            given = given.reshape(-1, 1, 8, 8).repeat(4, axis=2).repeat(4, axis=3)
        np.savez(place / "samples.npz", input=given, labels=labels[held_out])
        config = f'{{"input": {shape}}}'
        yield Case(name, framework, place / "model.tar.gz", config, place / "samples.npz",
                   "accuracy", "accuracy on held-out images", neural=environment == "pytorch",
                   batch=8)  # fmt: skip


def archive_of_size(folder: Path, megabytes: int) -> Path:
    """Return an archive with an ONNX model of about that many megabytes: dense layers."""
    rng = np.random.default_rng(SEED)
    width = 1024
    layers = megabytes * 10**6 // (4 * width * width)
    weights = [rng.normal(0, 0.03, (width, width)).astype(np.float32) for _ in range(layers)]
    nodes, flow = [], "x"
    for n in range(layers):
        nodes.append(helper.make_node("MatMul", [flow, f"w{n}"], [f"h{n}"]))
        nodes.append(helper.make_node("Relu", [f"h{n}"], [f"a{n}"]))
        flow = f"a{n}"
    graph = helper.make_graph(
        nodes, "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(flow, TensorProto.FLOAT, ["n", width])],
        [onnx.numpy_helper.from_array(w, f"w{n}") for n, w in enumerate(weights)],
    )  # fmt: skip
    (folder / "model").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model" / "model.onnx")
    pack_archive(folder / "model", folder / "model.tar.gz")
    return folder / "model.tar.gz"
