"""Real models and archives for the engine's tests, made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import Bundle, Manifest, open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.targets import Target, resolve_target
from onnx import TensorProto, helper, numpy_helper

from tests.unit.engine.batch_job import Job

Dims = list[int | str | None]
WEIGHTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def save_graph(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, Dims]],
    outputs: dict[str, tuple[int, Dims]],
    constants: dict[str, Any] | None = None,
    opsets: dict[str, int] | None = None,
) -> Path:
    """Write an ONNX file; tensors are name to (element type, dimensions)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, t, d) for n, (t, d) in inputs.items()],
        [helper.make_tensor_value_info(n, t, d) for n, (t, d) in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or {"": 18}).items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def save_linear(path: Path, batch: int | str | None = "batch", weights: Any = WEIGHTS) -> Path:
    """Write softmax(features · weights): features FLOAT [batch, 4], scores FLOAT [batch, 3]."""
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["product"]),
        helper.make_node("Softmax", ["product"], ["scores"], axis=-1),
    ]
    return save_graph(
        path,
        nodes,
        {"features": (TensorProto.FLOAT, [batch, 4])},
        {"scores": (TensorProto.FLOAT, [batch, 3])},
        {"weights": weights},
    )


def linear(features: Any) -> Any:
    """Compute what `save_linear`'s model computes, in numpy."""
    product = np.asarray(features, np.float32) @ WEIGHTS
    powers = np.exp(product - product.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture
def target() -> Target:
    return resolve_target("ml_c5", None)


@pytest.fixture
def pack(tmp_path: Path) -> Callable[[Path], Path]:
    """Pack one file as a model archive."""

    def _pack(model: Path) -> Path:
        archive = tmp_path / f"{model.parent.name}-{model.stem}.tar.gz"
        pack_archive(model.parent, archive)
        return archive

    return _pack


@pytest.fixture
def compiled(
    tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> Callable[..., tuple[Manifest, Path]]:
    """Compile an ONNX file; returns the manifest and the bundle's archive."""

    def _compile(model: Path, config: str | None) -> tuple[Manifest, Path]:
        bundle = tmp_path / "out" / "bundle.tar.gz"
        request = CompilationRequest("ONNX", config, target, "linear", "s3://bucket/model.tar.gz")
        return compile_model(pack(model), bundle, request), bundle

    return _compile


@pytest.fixture
def linear_bundle(tmp_path: Path, compiled: Callable[..., tuple[Manifest, Path]]) -> Bundle:
    _, archive = compiled(save_linear(tmp_path / "linear" / "model.onnx"), '{"features": [-1, 4]}')
    return open_bundle(archive, tmp_path / "opened")


@pytest.fixture
def job(tmp_path: Path, linear_bundle: Bundle) -> Job:
    """Return a batch of the linear model."""
    return Job(tmp_path / "job", linear_bundle)
