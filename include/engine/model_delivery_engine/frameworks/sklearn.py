"""scikit-learn: an estimator or pipeline saved by skops, through skl2onnx.

A raw pickle (``.pkl``, ``.joblib``) runs the code of whoever wrote it: it is refused unless the
owner of the machine allows it.
"""

import functools
import zipfile
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason, one_line
from model_delivery_engine.frameworks import sklearn_outputs, sklearn_steps
from model_delivery_engine.frameworks.conversion import (
    OPSET,
    Conversion,
    Converted,
    only,
    with_suffix,
)

ENVIRONMENT = "sklearn"
INPUT = "input"
MISSING = True  # NaN is a value that is missing
CATEGORIES = True  # a column may be of categories, and no other value be an input
# Forests take NaN also where none was in their training; skl2onnx carries over no way for it. Where
# some was, they have learnt it, and it is held against the conversion.
OPTIONAL = ("missing",)
_ML_OPSET = 3  # of ai.onnx.ml; not every converter writes the next one
_PICKLES = (".pkl", ".pickle", ".joblib")
_SAVE = "save it with skops.io.dump(model, 'model.skops')"
# What fitted estimators of scikit-learn's own hold and skops does not list as safe: data (trees,
# kernels, losses), and functions that only compute. A forged file can give them any state, and
# point a tree's node anywhere; in the sandbox the worst of it is a conversion that fails.
_TRUSTED = (
    "numpy.dtype",
    "sklearn._loss.loss.AbsoluteError",
    "sklearn._loss.loss.ExponentialLoss",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfGammaLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfPoissonLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn._loss.loss.HuberLoss",
    "sklearn._loss.loss.PinballLoss",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.cluster._bisect_k_means._BisectingTree",
    "sklearn.cluster._kmeans._kmeans_single_elkan",
    "sklearn.cluster._kmeans._kmeans_single_lloyd",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
    "sklearn.feature_selection._mutual_info.mutual_info_regression",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.DotProduct",
    "sklearn.gaussian_process.kernels.ExpSineSquared",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._dist_metrics.EuclideanDistance",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.metrics._classification.accuracy_score",
    "sklearn.metrics._classification.balanced_accuracy_score",
    "sklearn.metrics._classification.f1_score",
    "sklearn.metrics._classification.log_loss",
    "sklearn.metrics._ranking.roc_auc_score",
    "sklearn.metrics._regression.mean_absolute_error",
    "sklearn.metrics._regression.mean_squared_error",
    "sklearn.metrics._regression.r2_score",
    "sklearn.metrics._regression.root_mean_squared_error",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.metrics._scorer._Scorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
_TYPES = {"float32": "FloatTensorType", "float64": "DoubleTensorType"}


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
    from skl2onnx.common import data_types
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    from sklearn.base import is_classifier

    model = sklearn_steps.without_search(_load(task))
    if sklearn_steps.encodes_texts(model):
        raise ConversionError(
            "the model encodes columns of texts, and its ONNX form takes one table of numbers; "
            "encode texts as numbers before the model, and fit it on those",
            reason=Reason.TENSOR_UNSUPPORTED,
        )
    _refuse_holes(model)
    sklearn_steps.number_columns(model)
    name, batch, features = _input(task, model)
    if task.dtype not in _TYPES:
        raise ConversionError(
            f"scikit-learn's models take floats: dtype {task.dtype!r} is none; use float32 or "
            "float64",
            reason=Reason.OPTIONS_INVALID,
        )
    _take_numpy_numbers()
    _vote_alone(model)
    kind = getattr(data_types, _TYPES[task.dtype])
    convert_it = functools.partial(
        to_onnx,
        model,
        initial_types=[(name, kind([batch, features]))],
        target_opset={"": OPSET, "ai.onnx.ml": _ML_OPSET},
    )
    raw = sklearn_outputs.is_one_of_logistic_each(_last(model))
    try:
        try:
            options: Any = {"zipmap": False} if is_classifier(model) else None
            if raw:
                options = {id(_last(model)): {"zipmap": False, "raw_scores": True}}
            converted = convert_it(options=options)
        except NameError:  # a classifier without probabilities has no such option
            converted = convert_it(options={type(_last(model)): {}})
    except (MissingShapeCalculator, MissingConverter) as error:
        text = one_line(error)
        raise ConversionError(
            f"skl2onnx has no converter: {text[:300]}; replace this step of the pipeline",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=text.partition("<class '")[2].partition("'")[0] or None,
        ) from error
    except Exception as error:  # converters of single estimators fail in ways of their own
        raise ConversionError(
            f"skl2onnx cannot convert {type(model).__name__}: {type(error).__name__}: "
            f"{one_line(error, 300)}; replace that step of the pipeline by a like one",
            reason=Reason.OPERATOR_UNSUPPORTED,
            operator=type(model).__name__,
        ) from error
    if raw:
        sklearn_outputs.share_out(converted.graph)
    sklearn_outputs.discriminate(converted.graph, _last(model))
    sklearn_outputs.exponentiate(converted.graph, _last(model))
    sklearn_outputs.tell_labels_apart(converted.graph, _last(model))
    sklearn_outputs.decide_once(converted.graph, model)
    sklearn_outputs.flatten_labels(converted.graph, model, features)
    sklearn_outputs.part_sequences(converted.graph)
    sklearn_outputs.declare(converted, model, batch, features)
    onnx.save(converted, task.into)
    categories = sklearn_steps.categories_of(model, range(features))
    answer = functools.partial(sklearn_outputs.answers, model, converted.graph)
    return Converted(
        sklearn_steps.with_exact_categories(answer, categories),
        double=True,
        knows_missing=_knows_missing(model),
        categories=categories,
    )


def _refuse_holes(model: Any) -> None:
    """Refuse an imputer that looks for neighbours in what it was trained on, holes included."""
    import numpy as np

    for each in sklearn_steps.within(model):
        if type(each).__name__ == "KNNImputer" and np.isnan(each._fit_X).any():
            raise ConversionError(
                "KNNImputer keeps the data that it was trained on with the values missing in them, "
                "which have no form in ONNX; use SimpleImputer",
                reason=Reason.OPERATOR_UNSUPPORTED,
                operator="KNNImputer",
            )


def _last(model: Any) -> Any:
    """Return the estimator at the end of a pipeline, or the model itself."""
    while hasattr(model, "steps"):
        model = model.steps[-1][1]
    return model


def _knows_missing(model: Any) -> bool:
    """Tell whether a tree in the model was trained on missing values.

    Where a node has met none, they go to the side that has more samples. A node that sends them
    elsewhere has met some.
    """
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if type(each).__name__ == "Tree" and hasattr(each, "children_left"):
            if _sends_missing_elsewhere(each):
                return True
        elif isinstance(each, (list, tuple, set)):
            waiting += each
        elif isinstance(each, dict):
            waiting += each.values()
        elif str(getattr(each, "dtype", "")) == "object":
            waiting += each.ravel().tolist()
        elif type(each).__module__.startswith("sklearn."):
            waiting += vars(each).values() if hasattr(each, "__dict__") else ()
    return False


def _sends_missing_elsewhere(tree: Any) -> bool:
    nodes = tree.__getstate__()["nodes"]
    splits = nodes["left_child"] >= 0
    counts = nodes["n_node_samples"]
    more = counts[nodes["left_child"][splits]] > counts[nodes["right_child"][splits]]
    return bool((nodes["missing_go_to_left"][splits].astype(bool) != more).any())


def _take_numpy_numbers() -> None:
    """Have skl2onnx write numbers of numpy's types, and truths, as histograms' trees have them."""
    from skl2onnx.common import _container

    make_node = _container.make_node

    def make_plain(*arguments: Any, **attributes: Any) -> Any:
        plain: dict[str, Any] = {
            name: [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
            for name, value in attributes.items()
        }
        return make_node(*arguments, **plain)

    _container.make_node = make_plain


def _vote_alone(model: Any) -> None:
    """Let skl2onnx take votes: it refuses a setting that only says how `transform` answers."""
    from sklearn.ensemble import VotingClassifier

    for each in (model, *getattr(model, "get_params", dict)().values()):
        if isinstance(each, VotingClassifier):
            each.flatten_transform = False


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, bool) else value


def _load(task: Conversion) -> Any:
    if task.source.suffix.lower() in _PICKLES:
        import joblib

        return joblib.load(task.source)
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.load(task.source, trusted=list(_TRUSTED))
    except UntrustedTypesFoundException as error:
        if _has_categories(task.source):
            raise ConversionError(
                f"{task.source.name} holds histogram trees with categorical splits, which have no "
                "form in ONNX; encode the categories in a step before (OrdinalEncoder, "
                "OneHotEncoder) and leave categorical_features out",
                reason=Reason.OPERATOR_UNSUPPORTED,
                operator="HistGradientBoosting",
            ) from error
        types = [t for t in skops.io.get_untrusted_types(file=task.source) if t not in _TRUSTED]
        raise ConversionError(
            f"{task.source.name} holds {', '.join(types[:5])}, which skops does not know to be "
            f"safe; {_way_out(task.source)}",
            reason=Reason.UNTRUSTED_CODE,
            operator=types[0] if types else None,
        ) from error
    except Exception as error:
        raise ConversionError(
            f"skops cannot load {task.source.name}: {one_line(error, 300)}; {_SAVE}",
            reason=Reason.MODEL_UNREADABLE,
        ) from error


def _way_out(source: Path) -> str:
    with zipfile.ZipFile(source) as file:
        schema = file.read("schema.json")
    if b"SearchCV" in schema:
        return "of a search, save what it found: search.best_estimator_"
    return (
        "replace the step that holds them by an estimator of scikit-learn's own that holds no "
        "function, neither yours nor another library's"
    )


def _has_categories(source: Path) -> bool:
    """Tell whether a file holds what histogram trees prepare categories with, and such trees."""
    with zipfile.ZipFile(source) as file:
        schema = file.read("schema.json")
    names = ("HistGradientBoosting", "check_array", "partial")
    return all(name.encode() in schema for name in names)


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
