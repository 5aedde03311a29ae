"""scikit-learn: an estimator or pipeline saved by skops, through skl2onnx.

A raw pickle (``.pkl``, ``.joblib``) runs the code of whoever wrote it: it is refused unless the
owner of the machine allows it.
"""

from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason, one_line
from model_delivery_engine.frameworks.conversion import (
    OPSET,
    Conversion,
    Converted,
    only,
    with_suffix,
)

ENVIRONMENT = "sklearn"
INPUT = "input"
_PICKLES = (".pkl", ".pickle", ".joblib")
_SAVE = "save it with skops.io.dump(model, 'model.skops')"
# Fitted trees hold node indices that a forged file can point anywhere; in the sandbox the worst of
# it is a conversion that fails.
_TRUSTED = ["sklearn.tree._tree.Tree"]


def find(folder: Path) -> Path:
    """Return the one model file below a folder."""
    found = with_suffix(folder, ".skops", *_PICKLES)
    return only(found, folder, "scikit-learn file (.skops)", _SAVE)


def refuse(source: Path, allow_code: bool) -> None:
    """Refuse a pickle where the owner of the machine does not allow them."""
    if source.suffix.lower() in _PICKLES and not allow_code:
        raise ConversionError(
            f"{source.name} is a pickle, which runs code when it is loaded; {_SAVE}, or "
            "have the owner of this machine set MODEL_DELIVERY_ALLOW_CODE=on",
            reason=Reason.UNTRUSTED_CODE,
        )


def convert(task: Conversion) -> Converted:
    """Convert inside the environment."""
    import onnx
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.common.exceptions import MissingShapeCalculator
    from sklearn.base import is_classifier

    model = _load(task)
    name, batch, features = _input(task, model)
    options = {"zipmap": False} if is_classifier(model) else None
    try:
        converted = to_onnx(
            model,
            initial_types=[(name, FloatTensorType([batch, features]))],
            options=options,
            target_opset=OPSET,
        )
    except MissingShapeCalculator as error:
        text = one_line(error)
        raise ConversionError(
            f"skl2onnx has no converter: {text[:300]}; replace this step of the pipeline",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=text.partition("<class '")[2].partition("'")[0] or None,
        ) from error
    onnx.save(converted, task.into)

    def run(arrays: list[Any]) -> list[Any]:
        if is_classifier(model):
            answers = [model.predict(arrays[0])]
            if hasattr(model, "predict_proba"):
                answers.append(model.predict_proba(arrays[0]).astype("float32"))
            return answers if len(answers) == len(converted.graph.output) else []
        if hasattr(model, "predict"):
            answer = model.predict(arrays[0])
            return [answer.reshape(len(answer), -1).astype("float32")]
        return [model.transform(arrays[0]).astype("float32")]

    comparable = hasattr(model, "predict_proba") or not is_classifier(model)
    return Converted(run if comparable and len(converted.graph.output) <= 2 else None)


def _load(task: Conversion) -> Any:
    if task.source.suffix.lower() in _PICKLES:
        import joblib

        return joblib.load(task.source)
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.load(task.source, trusted=_TRUSTED)
    except UntrustedTypesFoundException as error:
        types = [t for t in skops.io.get_untrusted_types(file=task.source) if t not in _TRUSTED]
        raise ConversionError(
            f"{task.source.name} holds {', '.join(types[:5])}, which skops does not know to be "
            "safe; build the model of scikit-learn's own estimators",
            reason=Reason.UNTRUSTED_CODE,
            operator=types[0] if types else None,
        ) from error
    except Exception as error:
        raise ConversionError(
            f"skops cannot load {task.source.name}: {one_line(error, 300)}; {_SAVE}",
            reason=Reason.MODEL_UNREADABLE,
        ) from error


def _input(task: Conversion, model: Any) -> tuple[str, int | None, int]:
    features = getattr(model, "n_features_in_", None)
    if not task.shapes:
        if features is None:
            raise ConversionError(
                "the model does not say how many features it takes; give DataInputConfig, for "
                'example {"input": [-1, 64]}',
                reason=Reason.DATA_INPUT_INVALID,
            )
        return INPUT, None, features
    name, shape = next(iter(task.shapes.items()))
    if len(task.shapes) > 1 or len(shape) != 2 or features not in (None, shape[1]):
        raise ConversionError(
            f"DataInputConfig gives {task.shapes}, the model takes one input of "
            f"[-1, {features or 'features'}]; give that",
            reason=Reason.SHAPE_MISMATCH,
        )
    return name, None if shape[0] == -1 else shape[0], shape[1]
