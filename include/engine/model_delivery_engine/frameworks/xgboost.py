"""XGBoost: a model saved as JSON or UBJ (``save_model``). It needs no DataInputConfig.

One that an estimator saved (``XGBClassifier`` and the like) answers as its ``predict`` does: where
training stopped early, up to the best iteration. One that a booster saved answers with every tree,
as ``Booster.predict`` does.
"""

import json
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.frameworks.conversion import Conversion, Converted, only, with_suffix
from model_delivery_engine.frameworks.xgboost_graph import booster_to_onnx

ENVIRONMENT = "xgboost"
INPUT = "input"
MISSING = True  # NaN is a value that is missing
_SAVE = "save it with booster.save_model('model.ubj') or 'model.json'"


def find(folder: Path) -> Path:
    """Return the one model file below a folder."""
    found = with_suffix(folder, ".json", ".ubj")
    if len(found) > 1:  # what else lies beside a model, its metrics or its parameters, is JSON too
        found = [each for each in found if each.suffix == ".ubj" or _holds_learner(each)] or found
    # SageMaker's own container names it without a suffix; XGBoost tells its forms by what is in it.
    found = found or [path for path in folder.rglob("xgboost-model") if path.is_file()]
    if not found and (old := with_suffix(folder, ".model", ".bin", ".pkl", ".pickle", ".joblib")):
        raise ConversionError(
            f"{old[0].name} is a pickle or XGBoost's old binary format; {_SAVE}",
            reason=Reason.UNTRUSTED_CODE,
        )
    return only(found, folder, "XGBoost file (.json, .ubj)", _SAVE)


def _holds_learner(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"learner"' in file.read(4096)


def convert(task: Conversion) -> Converted:
    """Convert inside the environment."""
    import onnx
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(task.source)
    except xgboost.core.XGBoostError as error:
        raise ConversionError(
            f"XGBoost {xgboost.__version__} cannot load {task.source.name}: "
            f"{str(error).splitlines()[0][-200:]}; {_SAVE}",
            reason=Reason.MODEL_UNREADABLE,
        ) from error
    # A booster trained on a table asks for its columns by name; ours are in their order.
    booster.feature_names = None
    booster.feature_types = None
    # The same trees; where softmax answers classes alone, softprob has their scores too.
    if json.loads(booster.save_config())["learner"]["objective"]["name"] == "multi:softmax":
        booster.set_param({"objective": "multi:softprob"})
    name, batch = _input(task, booster.num_features())
    used = _iterations(booster)
    model = booster_to_onnx(booster[: used[1]] if used[1] else booster, name, batch)
    onnx.save(model, task.into)
    outputs = [node.name for node in model.graph.output]

    def run(arrays: list[Any]) -> list[Any]:
        # The whole booster, told where to stop: the graph was made of one that was cut.
        matrix = xgboost.DMatrix(arrays[0])
        scores = booster.predict(matrix, iteration_range=used, strict_shape=False)
        return _answers(scores, outputs)

    return Converted(run, exact_splits=True)


def _iterations(booster: Any) -> tuple[int, int]:
    """Return the iterations that ``predict`` of whoever saved it uses; (0, 0) are all."""
    attributes = booster.attributes()
    best = attributes.get("best_iteration")
    by_estimator = "scikit_learn" in attributes
    linear = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"] == "gblinear"
    if best is None or not by_estimator or linear:  # a linear booster has no trees to leave out
        return 0, 0
    return 0, int(best) + 1


def _answers(scores: Any, outputs: list[str]) -> list[Any]:
    """Return the booster's answer in the form of the ONNX model's outputs."""
    import numpy as np

    if "probabilities" not in outputs:
        return [scores.reshape(len(scores), -1)]
    if scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    return [scores.argmax(axis=1), scores]


def _input(task: Conversion, features: int) -> tuple[str, int | None]:
    if not task.shapes:
        return INPUT, None
    name, shape = next(iter(task.shapes.items()))
    if len(task.shapes) > 1 or len(shape) != 2 or shape[1] != features:
        raise ConversionError(
            f"DataInputConfig gives {task.shapes}, the booster takes one input of "
            f"[-1, {features}]; leave DataInputConfig out, or give that",
            reason=Reason.SHAPE_MISMATCH,
        )
    return name, None if shape[0] == -1 else shape[0]
