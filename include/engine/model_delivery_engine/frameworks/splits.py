"""Inputs around a tree model's own split points, where its answers change and nowhere else.

A tree that splits at 1.7e9 answers the same for everything that is drawn around zero.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_delivery_engine.golden import SEED
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

SPLITS = "splits"
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_ROWS = 256
_BESIDE = 2.0**-18  # of a split point: a few of single precision's last steps
_RANK = 2


def own_values(graph: Any) -> dict[str, dict[int, Array]]:
    """Return split points by input and feature, of trees that read an input as it came."""
    inputs = {node.name for node in graph.input}
    found: dict[str, dict[int, set[float]]] = {}
    for node in graph.node:
        if node.op_type not in _TREES or node.input[0] not in inputs:
            continue
        attributes = {each.name: each for each in node.attribute}
        features = attributes["nodes_featureids"].ints
        modes = attributes["nodes_modes"].strings
        values = attributes["nodes_values"].floats
        for feature, mode, value in zip(features, modes, values, strict=True):
            if mode != b"LEAF" and np.isfinite(value):
                found.setdefault(node.input[0], {}).setdefault(int(feature), set()).add(value)
    return {
        name: {feature: np.array(sorted(values)) for feature, values in by_feature.items()}
        for name, by_feature in found.items()
    }


def draw(graph: Any, specs: Sequence[TensorSpec], exact: bool) -> list[dict[str, Array]]:
    """Draw runs of rows whose features lie just beside the split points, or on them.

    :param exact: on them too; a split point that was rounded for ONNX is not met exactly
    """
    rng = np.random.default_rng([SEED, 7])
    runs = []
    values = own_values(graph)
    for _ in range(max(1, _ROWS // _rows(specs))):
        inputs = {}
        for spec in specs:
            shape = tuple(_ROWS if size == -1 else size for size in spec.shape)
            array = rng.normal(size=shape)
            if len(shape) == _RANK:
                for feature, points in values.get(spec.name, {}).items():
                    steps = (-1.0, 0.0, 1.0) if exact else (-1.0, 1.0)
                    chosen = rng.choice(points, shape[0])
                    beside = np.maximum(np.abs(chosen), 1e-6) * _BESIDE
                    array[:, feature] = chosen + beside * rng.choice(steps, shape[0])
            inputs[spec.name] = np.asarray(array, NUMPY_TYPES[spec.dtype])
        runs.append(inputs)
    return runs[:8]


def _rows(specs: Sequence[TensorSpec]) -> int:
    size = specs[0].shape[0] if specs[0].shape else 1
    return _ROWS if size == -1 else max(size, 1)
