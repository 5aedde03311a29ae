"""A recommender as a bundle: what a solution version is registered from."""

import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.recommender_model import write_recommender
from model_delivery_engine.bundle import Golden, Manifest, Source, write_bundle
from model_delivery_engine.digest import digest_file
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.targets import resolve_target
from model_delivery_engine.tensors import Array

_GOLDEN_SAMPLES = 8
_ATOL, _RTOL = 1e-5, 1e-4


def write_recommender_bundle(
    archive: Path,
    *,
    name: str,
    recipe: Recipe,
    users: Sequence[str],
    items: Sequence[str],
    user_factors: Array,
    item_factors: Array,
    source_uri: str,
) -> Manifest:
    """Write factors as a bundle for this machine's processor, with golden samples.

    :param archive: the ``.tar.gz`` to write
    :param name: what messages call the model
    :param source_uri: what the factors were trained on
    :raises BatchError: ids that repeat, or whose number differs from the factors' rows
    """
    with tempfile.TemporaryDirectory(prefix="recommender-") as folder:
        path = Path(folder) / "model.onnx"
        write_recommender(path, recipe=recipe, users=users, items=items,
                          user_factors=user_factors, item_factors=item_factors)  # fmt: skip
        model = Model(open_session(path, session_options(threads=1)), name)
        golden = {
            spec.name: np.arange(min(_GOLDEN_SAMPLES, len(users), len(items)), dtype=np.int64)
            for spec in model.inputs
        }
        architecture = "ARM64" if platform.machine() in {"aarch64", "arm64"} else "X86_64"
        manifest = Manifest(
            name=name,
            model_digest="",
            source=Source(source_uri, digest_file(path), "ONNX"),
            target=resolve_target(None, {"Os": "LINUX", "Arch": architecture}),
            toolchain={"onnx": onnx.__version__},
            inputs=model.inputs,
            outputs=model.outputs,
            golden=Golden("", 0, _ATOL, _RTOL),
        )
        return write_bundle(
            archive, model=path, manifest=manifest, golden_inputs=golden,
            golden_outputs=model.run(golden),
        )  # fmt: skip
