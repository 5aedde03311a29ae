"""Models and inputs of the batch benchmarks, made from fixed seeds."""

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import orjson
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.recommender_model import write_recommender
from model_delivery_engine.bundle import Bundle, Golden, Manifest, Source, open_bundle, write_bundle
from model_delivery_engine.digest import digest_file
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.targets import resolve_target
from onnx import TensorProto, helper, numpy_helper

USERS, ITEMS, FACTORS = 943, 1682, 64  # MovieLens-100k's shape
WIDTH = 512
LAYERS = (WIDTH, 2048, 2048, 2048, 128)  # 9.7 million parameters
PIXELS = 224


@dataclass(frozen=True)
class Workload:
    """A model and where it lies."""

    bundle: Bundle
    model: Path


def recommender(folder: Path) -> Workload:
    """Write factors of MovieLens-100k's shape as a recommender."""
    random = np.random.default_rng(0)
    path = folder / "recommender.onnx"
    write_recommender(
        path,
        recipe=Recipe.USER_PERSONALIZATION,
        users=[str(n + 1) for n in range(USERS)],
        items=[str(n + 1) for n in range(ITEMS)],
        user_factors=random.normal(0, 0.3, (USERS, FACTORS)).astype(np.float32),
        item_factors=random.normal(0, 0.3, (ITEMS, FACTORS)).astype(np.float32),
    )
    return _bundled(path, {"user": np.arange(8)})


def mlp(folder: Path) -> Workload:
    """Write a perceptron of 9.7 million parameters over 512 floats."""
    random = np.random.default_rng(0)
    nodes, constants, name = [], {}, "features"
    for n, (wide, narrow) in enumerate(itertools.pairwise(LAYERS)):
        constants[f"w{n}"] = random.normal(0, wide**-0.5, (wide, narrow)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [name, f"w{n}"], [f"h{n}"]))
        name = f"h{n}"
        if narrow != LAYERS[-1]:
            nodes.append(helper.make_node("Relu", [name], [f"r{n}"]))
            name = f"r{n}"
    nodes.append(helper.make_node("Identity", [name], ["scores"]))
    path = folder / "mlp.onnx"
    _save(path, nodes, ("features", TensorProto.FLOAT, ["n", WIDTH]), ["n", LAYERS[-1]], constants)
    return _bundled(path, {"features": random.normal(size=(8, WIDTH)).astype(np.float32)})


def image_network(folder: Path) -> Workload:
    """Write a small convolutional network over 224 x 224 RGB pixels; it normalises them itself."""
    random = np.random.default_rng(0)
    constants = {"scale": np.array(1 / 255, np.float32)}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    channels = (3, 16, 32, 64)
    for n, (before, after) in enumerate(itertools.pairwise(channels)):
        shape = (after, before, 3, 3)
        constants[f"k{n}"] = random.normal(0, (9 * before) ** -0.5, shape).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [f"x{n}", f"k{n}"], [f"c{n}"], strides=[2, 2],
                             pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{n}"], [f"x{n + 1}"]),
        ]  # fmt: skip
    constants["head"] = random.normal(0, 0.1, (64, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", ["x3"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    path = folder / "images.onnx"
    shape = ["n", PIXELS, PIXELS, 3]
    _save(path, nodes, ("image", TensorProto.UINT8, shape), ["n", 10], constants)
    return _bundled(path, {"image": random.integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)})


def user_lines(count: int) -> bytes:
    """Return Personalize's input lines for random users."""
    users = np.random.default_rng(1).integers(1, USERS + 1, count)
    return b"".join(b'{"userId":"%d"}\n' % user for user in users)


def feature_lines(count: int) -> bytes:
    """Return lines of an id and 512 floats with nine digits, as a feature store writes them."""
    rows = np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)
    option = orjson.OPT_SERIALIZE_NUMPY
    return b"".join(
        orjson.dumps({"id": f"r{n}", "features": row}, option=option) + b"\n"
        for n, row in enumerate(rows)
    )


def pictures(count: int) -> list[bytes]:
    """Return PNGs with smooth shapes and some noise, which is what photographs compress like."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:PIXELS, 0:PIXELS]
    found = []
    for n in range(count):
        waves = [np.sin(x / (7 + n % 5) + c) + np.cos(y / (9 + n % 7)) for c in range(3)]
        noisy = np.stack(waves, -1) * 60 + 128 + random.normal(0, 4, (PIXELS, PIXELS, 3))
        found.append(cv2.imencode(".png", noisy.clip(0, 255).astype(np.uint8))[1].tobytes())
    return found


def _save(path: Path, nodes: list, source: tuple, output: list, constants: dict) -> None:  # type: ignore[type-arg]
    graph = helper.make_graph(
        nodes, path.stem, [helper.make_tensor_value_info(*source)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def _bundled(path: Path, golden: dict) -> Workload:  # type: ignore[type-arg]
    model = Model(open_session(path, session_options(1)), path.stem)
    target = resolve_target("ml_c5", None)
    source = Source(f"file://{path}", digest_file(path), "ONNX")
    manifest = Manifest(
        path.stem, "", source, target, {}, model.inputs, model.outputs, Golden("", 0, 1e-5, 1e-4)
    )
    archive = path.with_suffix(".tar.gz")
    write_bundle(archive, model=path, manifest=manifest, golden_inputs=golden,
                 golden_outputs=model.run(golden))  # fmt: skip
    return Workload(open_bundle(archive, Path(tempfile.mkdtemp(dir=path.parent))), path)
