"""Every framework's models through its own environment and the sandbox, as a job would."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import Manifest, open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.errors import ConversionError, EngineError, Reason, ToolchainError
from model_delivery_engine.frameworks import xgboost
from model_delivery_engine.frameworks.environment import environment_python
from model_delivery_engine.frameworks.tflite import refuse_sparse
from model_delivery_engine.frameworks.versions import check_framework_version
from model_delivery_engine.probes import NO_TIME
from model_delivery_engine.runtime import Model, check_golden
from model_delivery_engine.settings import CompilerSettings, Limits
from model_delivery_engine.targets import Target

SETTINGS = CompilerSettings.from_environment()
IMAGE = '{"image": [-1, 3, 8, 8]}'
NHWC = '{"image": [-1, 8, 8, 3]}'
Compile = Callable[..., Manifest]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an environment's models, made once."""
    folders: dict[str, Path] = {}

    def _made(environment: str) -> Path:
        if environment not in folders:
            folder = tmp_path_factory.mktemp(environment)
            python = environment_python(environment, SETTINGS.environments)
            script = str(Path(__file__).with_name("framework_models.py"))
            environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
            subprocess.run(
                [str(python), "-W", "ignore", script, environment, str(folder)],
                check=True,
                capture_output=True,
                env=environ,
            )
            folders[environment] = folder
        return folders[environment]

    return _made


@pytest.fixture
def compile_file(
    tmp_path: Path, target: Target, made: Callable[[str], Path]
) -> Callable[..., Manifest]:
    """Compile one of the made models; the bundle is `tmp_path / "bundle.tar.gz"`."""

    def _compile(
        framework: str,
        environment: str,
        name: str,
        config: str | None,
        settings: CompilerSettings = SETTINGS,
        options: str | None = None,
        files: dict[str, Path] | None = None,
    ) -> Manifest:
        source, folder = made(environment) / name, tmp_path / "packed"
        if source.is_dir():
            shutil.copytree(source, folder / "model")
        else:
            folder.mkdir()
            shutil.copy(source, folder)
        pack_archive(folder, tmp_path / "model.tar.gz")
        request = CompilationRequest(framework, config, target, "m", "s3://b/m.tar.gz", options)
        bundle = tmp_path / "bundle.tar.gz"
        archive = tmp_path / "model.tar.gz"
        return compile_model(archive, bundle, request, settings=settings, files=files)

    return _compile


@pytest.mark.parametrize(
    ("framework", "environment", "name", "config", "shapes"),
    [
        ("PYTORCH", "pytorch", "traced.pt", IMAGE, [(-1, 3, 8, 8)]),
        ("PYTORCH", "pytorch", "scripted.pt", "[[2, 3, 8, 8]]", [(2, 3, 8, 8)]),
        ("PYTORCH", "pytorch", "program.pt2", IMAGE, [(-1, 3, 8, 8)]),
        ("TENSORFLOW", "tensorflow", "saved", NHWC, [(-1, 8, 8, 3)]),
        ("TENSORFLOW", "tensorflow", "frozen.pb", '{"x": [2, 4]}', [(2, 4)]),
        ("KERAS", "tensorflow", "model.keras", IMAGE, [(-1, 3, 8, 8)]),
        ("KERAS", "tensorflow", "model.h5", '{"image": [1, 3, 8, 8]}', [(1, 3, 8, 8)]),
        ("TFLITE", "tensorflow", "model.tflite", '{"image": [1, 8, 8, 3]}', [(1, 8, 8, 3)]),
        ("XGBOOST", "xgboost", "binary.ubj", None, [(-1, 5)]),
        ("XGBOOST", "xgboost", "classes.json", "{}", [(-1, 5)]),
        ("XGBOOST", "xgboost", "regression.ubj", '{"rows": [4, 5]}', [(4, 5)]),
        ("SKLEARN", "sklearn", "forest.skops", None, [(-1, 5)]),
        ("SKLEARN", "sklearn", "linear.skops", '{"rows": [-1, 5]}', [(-1, 5)]),
    ],
)
def test_a_model_answers_as_in_its_framework(
    tmp_path: Path,
    compile_file: Compile,
    framework: str,
    environment: str,
    name: str,
    config: str | None,
    shapes: list[tuple[int, ...]],
) -> None:
    manifest = compile_file(framework, environment, name, config)
    assert [spec.shape for spec in manifest.inputs] == shapes
    assert manifest.conversion is not None
    assert manifest.conversion.max_abs < 1e-4
    assert manifest.source.framework == framework
    assert any(key.startswith(f"{framework.lower()}/") for key in manifest.toolchain)
    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    check_golden(Model.load(bundle), bundle)


@pytest.mark.parametrize(
    ("framework", "environment", "name", "config", "reason", "says"),
    [
        ("PYTORCH", "pytorch", "state.pt", IMAGE, Reason.UNTRUSTED_CODE, "torch.jit.save"),
        ("PYTORCH", "pytorch", "traced.pt", '{"a": [1, 2]}', None, "PYTORCH model cannot be"),
        ("PYTORCH", "pytorch", "traced.pt", None, Reason.DATA_INPUT_INVALID, "has to: give the"),
        ("TFLITE", "pytorch", "traced.pt", NHWC, Reason.MODEL_MISSING, "no .tflite file"),
        ("KERAS", "tensorflow", "lambda.keras", IMAGE, Reason.UNTRUSTED_CODE, "Lambda"),
        ("KERAS", "tensorflow", "model.keras", NHWC, Reason.SHAPE_MISMATCH, "NCHW"),
        ("TENSORFLOW", "tensorflow", "frozen.pb", NHWC, None, "inputs are x"),
        ("TENSORFLOW", "tensorflow", "unsupported.pb", '{"x": [2, 4]}', None, "Betainc"),
        (
            "TENSORFLOW",
            "tensorflow",
            "words",
            '{"words": [-1]}',
            Reason.TENSOR_UNSUPPORTED,
            "input 'words' takes strings",
        ),
        (
            "TENSORFLOW",
            "tensorflow",
            "lengths",
            '{"sizes": [-1, 3]}',
            Reason.DATA_INPUT_INVALID,
            "names sizes; the signature's inputs are lengths",
        ),
        ("KERAS", "tensorflow", "grouped.h5", IMAGE, Reason.MODEL_UNREADABLE, "'groups': 3"),
        ("SKLEARN", "sklearn", "forest.joblib", None, Reason.UNTRUSTED_CODE, "ALLOW_CODE"),
        ("SKLEARN", "sklearn", "code.skops", None, None, "FunctionTransformer"),
        ("SKLEARN", "sklearn", "kinds.skops", None, Reason.OPERATOR_UNSUPPORTED, "categorical"),
        (
            "SKLEARN",
            "sklearn",
            "holes_of_neighbours.skops",
            None,
            Reason.OPERATOR_UNSUPPORTED,
            "KNNImputer keeps the data that it was trained on",
        ),
        ("SKLEARN", "sklearn", "words.skops", None, Reason.TENSOR_UNSUPPORTED, "of texts"),
        ("SKLEARN", "sklearn", "own_search.skops", None, None, "search.best_estimator_"),
        (
            "PYTORCH",
            "pytorch",
            "median.pt",
            '{"x": [-1, 6]}',
            Reason.OPERATOR_UNSUPPORTED,
            "no ONNX form for operator 'aten::median'",
        ),
        (
            "PYTORCH",
            "pytorch",
            "repeated.pt",
            '{"x": [1, 6]}',
            Reason.OPERATOR_UNSUPPORTED,
            "torch.export.save, whose exporter knows more",
        ),
        (
            "KERAS",
            "tensorflow",
            "channels_first.keras",
            '{"image": [-1, 8, 6, 3]}',
            Reason.SHAPE_MISMATCH,
            "(NCHW for images)",
        ),
        ("SKLEARN", "sklearn", "forest.skops", '{"x": [1, 4]}', Reason.SHAPE_MISMATCH, "[-1, 5]"),
        ("XGBOOST", "sklearn", "forest.joblib", None, Reason.UNTRUSTED_CODE, "save_model"),
        ("XGBOOST", "xgboost", "categories.ubj", None, Reason.OPERATOR_UNSUPPORTED, "categorical"),
    ],
)
def test_what_cannot_be_converted_says_what_to_do(
    compile_file: Compile,
    framework: str,
    environment: str,
    name: str,
    config: str | None,
    reason: Reason | None,
    says: str,
) -> None:
    with pytest.raises(EngineError) as caught:
        compile_file(framework, environment, name, config)
    assert says in str(caught.value)
    assert reason in (None, caught.value.reason)


SIX = '{"x": [-1, 6]}'


@pytest.mark.parametrize(
    ("framework", "environment", "name", "config"),
    [
        *(("PYTORCH", "pytorch", f"{name}.pt", SIX)
          for name in ("floor", "floor_whole", "logsigmoid", "trunc", "angle", "saturated",
                       "places", "cut")),
        ("KERAS", "tensorflow", "twelve.keras", '{"x": [-1, 4]}'),
        ("KERAS", "tensorflow", "gelu.keras", '{"x": [-1, 4]}'),
        ("KERAS", "tensorflow", "dictionary.keras", '{"a": [-1, 4], "b": [-1, 3]}'),
        ("KERAS", "tensorflow", "channels_first.keras", '{"image": [-1, 3, 8, 6]}'),
        ("KERAS", "tensorflow", "augmented.keras", IMAGE),
        ("KERAS", "tensorflow", "keras_2.h5", IMAGE),
        *(("XGBOOST", "xgboost", f"{name}.ubj", None)
          for name in ("rank", "cox", "logistic", "hinge", "raw", "quantile", "poisson", "tweedie",
                       "both", "vector", "dart", "linear", "forest", "truths")),
        *(("SKLEARN", "sklearn", f"{name}.skops", None)
          for name in ("mlp", "mlp_regressor", "histogram", "histogram_regressor", "boosting",
                       "clusters", "outliers", "vectors", "neighbours", "names", "holes",
                       "forest_of_many", "margins", "one_each", "voters", "stack", "two_targets",
                       "two_labels", "two_classifiers", "one_hot", "one_hot_of_some", "ordinal",
                       "imputed_ordinal", "named_columns", "selected_columns",
                       "masked_columns", "histogram_of_counts", "perceptron_of_two_labels",
                       "search", "search_in_a_pipeline",
                       "search_of_pipelines")),
    ],
)  # fmt: skip
def test_a_common_model_is_right_on_inputs_of_every_kind(
    compile_file: Compile, framework: str, environment: str, name: str, config: str | None
) -> None:
    conversion = compile_file(framework, environment, name, config).conversion
    assert conversion is not None
    wanted = {"unit", "signed", "wide", "large", "whole", "halves", "edges"}
    assert wanted <= set(conversion.proved), conversion.left_out
    if framework == "XGBOOST":
        assert "missing" in conversion.proved
        assert ("splits" in conversion.proved) == (name != "linear.ubj")


@pytest.mark.parametrize("name", ["one_hot", "one_hot_of_some", "ordinal", "imputed_ordinal"])
def test_a_column_of_categories_is_drawn_from_them(
    tmp_path: Path, compile_file: Compile, name: str
) -> None:
    compile_file("SKLEARN", "sklearn", f"{name}.skops", None)
    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    (table,) = bundle.golden_inputs.values()
    assert set(table[:, 2]) <= {2, 3, 4, 5, 6}
    assert set(table[:, 3]) <= {100, 101, 102, 103}
    assert ((table[:, :2] >= 0) & (table[:, :2] < 1)).all()


def test_the_model_of_sagemakers_own_container_is_found(tmp_path: Path) -> None:
    (tmp_path / "xgboost-model").write_bytes(b"{")
    assert xgboost.find(tmp_path).name == "xgboost-model"


def test_what_lies_beside_a_booster_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"auc": 0.9}')
    (tmp_path / "model.json").write_text('{"learner": {}, "version": [3, 0, 0]}')
    assert xgboost.find(tmp_path).name == "model.json"
    (tmp_path / "other.json").write_text('{"version": [3, 0, 0], "learner": {}}')
    with pytest.raises(ConversionError, match="has 2 models"):
        xgboost.find(tmp_path)


@pytest.mark.parametrize("name", ["two", "three", "dart", "linear"])
@pytest.mark.parametrize("saved_by", ["estimator", "booster"])
def test_a_booster_that_stopped_early_answers_as_its_predict(
    tmp_path: Path, made: Callable[[str], Path], compile_file: Compile, name: str, saved_by: str
) -> None:
    prefix = "early_estimator" if saved_by == "estimator" else "early"
    compile_file("XGBOOST", "xgboost", f"{prefix}_{name}.ubj", None)
    with np.load(made("xgboost") / f"early_{name}.npz") as file:
        x, wanted = file["x"], file["best" if saved_by == "estimator" else "whole"]
    model = Model.load(open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened"))
    got = model.run({"input": x})
    if name == "two":
        np.testing.assert_allclose(got["probabilities"][:, 1], wanted, atol=1e-5)
    elif name == "three":
        np.testing.assert_array_equal(got["label"], wanted)
    else:
        np.testing.assert_allclose(got["variable"][:, 0], wanted, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["vectors", "few_vectors", "margins", "descent", "perceptron", "aggressive", "ridge",
     "one_to_one"],
)  # fmt: skip
def test_two_classes_are_decided_in_one_column(
    tmp_path: Path, made: Callable[[str], Path], compile_file: Compile, name: str
) -> None:
    """skl2onnx gives some a column for each class, and that of the first class two ways."""
    manifest = compile_file("SKLEARN", "sklearn", f"two_{name}.skops", None)
    assert manifest.conversion is not None
    assert not [each for each in manifest.conversion.left_out if "no such answer" in each]
    model = Model.load(open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened"))
    with np.load(made("sklearn") / "decisions.npz") as file:
        got = model.run({"input": file["input"]})
        np.testing.assert_allclose(got["probabilities"][:, 0], file[name], rtol=1e-3, atol=1e-3)
    labels = got["label"].reshape(-1)  # of one against one they are a column
    assert (labels == (got["probabilities"][:, 0] > 0)).mean() > 0.99


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_an_analysis_of_discriminants_answers_labels_and_probabilities(
    compile_file: Compile, kind: str, classes: int
) -> None:
    name = f"{kind}_analysis_{classes}.skops"
    manifest = compile_file("SKLEARN", "sklearn", name, None)
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    assert shapes == {"label": (-1,), "probabilities": (-1, classes)}


@pytest.mark.parametrize(
    ("framework", "environment", "name", "shapes"),
    [
        ("PYTORCH", "pytorch", "program.pt2", {"image": (-1, 3, 8, 8)}),
        ("TENSORFLOW", "tensorflow", "saved", {"image": (-1, 8, 8, 3)}),
        ("TENSORFLOW", "tensorflow", "frozen.pb", {"x": (-1, 4)}),
        ("KERAS", "tensorflow", "model.keras", {"image": (-1, 3, 8, 8)}),
        ("KERAS", "tensorflow", "channels_first.keras", {"image": (-1, 3, 8, 6)}),
        ("KERAS", "tensorflow", "dictionary.keras", {"b": (-1, 3), "a": (-1, 4)}),
        ("TFLITE", "tensorflow", "model.tflite", {"image": (-1, 8, 8, 3)}),
    ],
)
def test_shapes_that_a_model_says_need_not_be_given(
    compile_file: Compile,
    framework: str,
    environment: str,
    name: str,
    shapes: dict[str, tuple[int, ...]],
) -> None:
    manifest = compile_file(framework, environment, name, None)
    assert {spec.name: spec.shape for spec in manifest.inputs} == shapes
    assert manifest.conversion is not None
    assert "unit" in manifest.conversion.proved


def test_more_samples_than_are_compared(tmp_path: Path, compile_file: Compile) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", input=rng.random((700, 5)).astype(np.float32))
    files = {"s3://b/c.npz": tmp_path / "c.npz"}
    options = '{"calibration": "s3://b/c.npz"}'
    manifest = compile_file("XGBOOST", "xgboost", "binary.ubj", None, options=options, files=files)
    assert manifest.conversion is not None
    assert "calibration" in manifest.conversion.proved


def test_sparse_weights_of_tensorflow_lite_are_called_so() -> None:
    dense: dict[str, Any] = {"name": "bias", "sparsity_parameters": {}}
    sparse = {"name": "kernel", "sparsity_parameters": {"traversal_order": [0, 1]}}
    refuse_sparse("m.tflite", [dense])
    with pytest.raises(
        ConversionError, match=r"sparse form \('kernel'\), .* pack .* dense"
    ) as caught:
        refuse_sparse("m.tflite", [dense, sparse])
    assert caught.value.reason is Reason.TENSOR_UNSUPPORTED


def test_a_model_of_eight_bits_is_held_to_its_own_steps(compile_file: Compile) -> None:
    config = '{"image": [1, 8, 8, 3]}'
    conversion = compile_file("TFLITE", "tensorflow", "integers.tflite", config).conversion
    assert conversion is not None
    assert {"signed", "large", "edges"} <= set(conversion.proved)


def _answers(tmp_path: Path, **inputs: np.ndarray) -> np.ndarray:
    model = Model.load(open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened"))
    return next(iter(model.run(inputs).values()))


@pytest.mark.parametrize("name", ["apart.pt", "apart.pt2"])
@pytest.mark.parametrize(
    ("config", "first", "second"),
    [
        ('{"alpha": [-1, 4], "beta": [-1, 4]}', "alpha", "beta"),
        ('{"beta": [-1, 4], "alpha": [-1, 4]}', "alpha", "beta"),
        ('{"left": [-1, 4], "right": [-1, 4]}', "left", "right"),
        ("[[-1, 4], [-1, 4]]", "input0", "input1"),
    ],
)
def test_inputs_of_like_shape_are_not_confused(
    tmp_path: Path, compile_file: Compile, name: str, config: str, first: str, second: str
) -> None:
    compile_file("PYTORCH", "pytorch", name, config)
    one, other = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    got = _answers(tmp_path, **{first: one, second: other})
    np.testing.assert_allclose(got, one * 2 - other * 5, rtol=1e-5, atol=1e-5)


def test_a_program_may_take_keywords_and_nests(tmp_path: Path, compile_file: Compile) -> None:
    compile_file("PYTORCH", "pytorch", "keywords.pt2", "[[3, 4], [3, 4], [3, 4]]")
    one, other, mask = np.random.default_rng(0).normal(size=(3, 3, 4)).astype(np.float32)
    got = _answers(tmp_path, input0=one, input1=other, input2=mask)
    np.testing.assert_allclose(got, (one * 2 - other * 5) * mask, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["apart.pt", "apart.pt2"])
def test_an_input_may_be_fixed(tmp_path: Path, compile_file: Compile, name: str) -> None:
    config, options = '{"alpha": [3, 4], "beta": [3, 4]}', '{"values": {"beta": 2.5}}'
    manifest = compile_file("PYTORCH", "pytorch", name, config, options=options)
    assert [spec.name for spec in manifest.inputs] == ["alpha"]
    assert manifest.conversion is not None
    one = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    got = _answers(tmp_path, alpha=one)
    np.testing.assert_allclose(got, one * 2 - 2.5 * 5, rtol=1e-5, atol=1e-5)


MIXED = '{"ids": [-1, 7], "features": [-1, 4]}'


def test_inputs_of_several_types(tmp_path: Path, compile_file: Compile) -> None:
    options = '{"dtype": {"ids": "int64", "features": "float32"}}'
    manifest = compile_file("PYTORCH", "pytorch", "mixed.pt", MIXED, options=options)
    assert [spec.dtype for spec in manifest.inputs] == ["INT64", "FP32"]
    assert manifest.conversion is not None
    proved = manifest.conversion.proved
    # Ids beyond the table are out of the model's domain; the floats beside them are not.
    assert "large (whole numbers 0 and 1)" in proved
    assert "whole" in proved
    rng = np.random.default_rng(0)
    ids, features = rng.integers(0, 50, (3, 7)), rng.normal(size=(3, 4)).astype(np.float32)
    assert _answers(tmp_path, ids=ids, features=features).shape == (3, 4)


def test_inputs_of_truths_and_of_eight_bits(tmp_path: Path, compile_file: Compile) -> None:
    config = '{"x": [-1, 6], "mask": [-1, 6]}'
    options = '{"dtype": {"mask": "bool"}}'
    manifest = compile_file("PYTORCH", "pytorch", "masked.pt", config, options=options)
    assert [spec.dtype for spec in manifest.inputs] == ["FP32", "BOOL"]
    x, mask = np.ones((3, 6), np.float32), np.eye(3, 6, dtype=bool)
    np.testing.assert_array_equal(_answers(tmp_path, x=x, mask=mask), np.where(mask, 1, -1))


def test_pixels_are_taken_as_they_come(compile_file: Compile) -> None:
    options = '{"dtype": "uint8"}'
    manifest = compile_file("PYTORCH", "pytorch", "pixels.pt", '{"x": [-1, 6]}', options=options)
    assert [spec.dtype for spec in manifest.inputs] == ["UINT8"]


def test_the_manifest_says_how_much_is_answered(compile_file: Compile) -> None:
    (output,) = compile_file("SKLEARN", "sklearn", "two_targets.skops", None).outputs
    assert output.shape == (-1, 2)


def test_types_that_are_not_said_are_asked_for(compile_file: Compile) -> None:
    with pytest.raises(EngineError, match=r"features takes floats too.*torch\.export"):
        compile_file("PYTORCH", "pytorch", "mixed.pt", MIXED, options='{"dtype": "int64"}')


def test_types_that_the_model_does_not_take_are_named(compile_file: Compile) -> None:
    with pytest.raises(EngineError, match=r"\(ids float32, features float32\).*dtype") as caught:
        compile_file("PYTORCH", "pytorch", "mixed.pt", MIXED)
    assert caught.value.reason is Reason.DATA_INPUT_INVALID


def test_an_exported_program_knows_its_types(compile_file: Compile) -> None:
    config = '{"ids": [2, 7], "features": [2, 4]}'
    manifest = compile_file("PYTORCH", "pytorch", "mixed.pt2", config)
    assert [spec.dtype for spec in manifest.inputs] == ["INT64", "FP32"]


def test_inputs_on_which_a_framework_hangs_are_left_out(
    tmp_path: Path, compile_file: Compile
) -> None:
    short = dataclasses.replace(SETTINGS, limits=Limits(seconds=60.0), cache=tmp_path / "cache")
    conversion = compile_file("PYTORCH", "pytorch", "positive.pt", SIX, short).conversion
    assert conversion is not None
    assert conversion.proved == ("unit",)
    assert f"signed: {NO_TIME}: the framework hung on it" in conversion.left_out
    assert f"edges: {NO_TIME}: it was not asked any more" in conversion.left_out
    assert not (tmp_path / "cache").exists()  # with more time there may be more to say


def test_random_numbers_of_a_framework_are_refused(compile_file: Compile) -> None:
    with pytest.raises(EngineError, match="draws random numbers"):
        compile_file("PYTORCH", "pytorch", "noisy.pt", SIX)


def test_a_frozen_graph_keeps_every_output_and_no_left_over(compile_file: Compile) -> None:
    manifest = compile_file("TENSORFLOW", "tensorflow", "best.pb", '{"x": [-1, 10]}')
    assert [(spec.dtype, spec.shape) for spec in manifest.outputs] == [
        ("FP32", (-1, 3)), ("INT32", (-1, 3))
    ]  # fmt: skip


def test_the_framework_answers_the_users_samples_and_scores_them(
    compile_file: Compile, made: Callable[[str], Path]
) -> None:
    uri = "s3://b/times.npz"
    files = {uri: made("sklearn") / "times.npz"}
    options = {"samples": uri, "metric": "mae"}
    with pytest.raises(EngineError, match=r'user.s samples .* "dtype": "float64"') as caught:
        compile_file("SKLEARN", "sklearn", "times.skops", None, files=files,
                     options=json.dumps(options))  # fmt: skip
    assert caught.value.reason is Reason.PARITY_FAILED


def test_a_model_in_double_precision(compile_file: Compile, made: Callable[[str], Path]) -> None:
    uri = "s3://b/times.npz"
    files = {uri: made("sklearn") / "times.npz"}
    options = {"samples": uri, "metric": "mae", "dtype": "float64"}
    manifest = compile_file(
        "SKLEARN", "sklearn", "times.skops", None, files=files, options=json.dumps(options)
    )
    assert manifest.inputs[0].dtype == "FP64"
    assert manifest.conversion is not None
    assert "samples" in manifest.conversion.proved
    source = next(each for each in manifest.candidates if each.name == "source")
    # Against the estimator's own answers, which are the labels here.
    assert source.metric == pytest.approx(0.0, abs=1e-3)


def holed(made: Callable[[str], Path], name: str, **options: object) -> dict[str, Any]:
    uri = f"s3://b/{name}.npz"
    named = {"samples": uri, "metric": "mae", **options}
    return {"options": json.dumps(named), "files": {uri: made("xgboost") / f"{name}.npz"}}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_samples_with_holes_are_boosters_own(
    compile_file: Compile, made: Callable[[str], Path], precision: str
) -> None:
    given = holed(made, "holed", precision=precision)
    manifest = compile_file("XGBOOST", "xgboost", "holed.ubj", None, **given)
    assert manifest.conversion is not None
    assert "samples" in manifest.conversion.proved
    source = next(each for each in manifest.candidates if each.name == "source")
    assert source.metric == pytest.approx(0.0, abs=1e-6)
    assert manifest.quantisation == "none"  # trees have nothing to quantise


@pytest.mark.parametrize("name", ["learnt_holes", "learnt_holes_in_a_pipeline"])
def test_trees_that_learnt_missing_values_are_held_to_them(
    compile_file: Compile, name: str
) -> None:
    with pytest.raises(EngineError, match="inputs drawn 'missing'") as caught:
        compile_file("SKLEARN", "sklearn", f"{name}.skops", None)
    assert caught.value.reason is Reason.PARITY_FAILED


def test_infinite_samples_are_no_holes(compile_file: Compile, made: Callable[[str], Path]) -> None:
    with pytest.raises(EngineError, match="has infinite values; remove") as caught:
        compile_file("XGBOOST", "xgboost", "holed.ubj", None, **holed(made, "infinite"))
    assert caught.value.reason is Reason.SAMPLES_INVALID


def test_a_signature_that_is_not_there_is_named(compile_file: Compile) -> None:
    with pytest.raises(EngineError, match=r"no signature 'train' \(it has: .*serving_default"):
        compile_file(
            "TENSORFLOW", "tensorflow", "saved", NHWC, options='{"signature_def_key": "train"}'
        )


def test_what_an_optimiser_of_keras_2_left_answers_nothing(
    tmp_path: Path, compile_file: Compile
) -> None:
    manifest = compile_file("TENSORFLOW", "tensorflow", "trained", '{"x": [-1, 4]}')
    assert manifest.conversion is not None
    assert "signed" in manifest.conversion.proved
    assert _answers(tmp_path, x=np.ones((2, 4), np.float32)).shape == (2, 3)


def test_the_owner_may_allow_a_pickle(compile_file: Compile) -> None:
    allowing = dataclasses.replace(SETTINGS, allow_code=True)
    manifest = compile_file("SKLEARN", "sklearn", "forest.joblib", None, allowing)
    assert manifest.conversion is not None


def test_a_model_that_loops_for_ever_ends_at_the_limit(compile_file: Compile) -> None:
    short = dataclasses.replace(SETTINGS, limits=Limits(seconds=15.0))
    with pytest.raises(EngineError, match="not converted within 15 s") as caught:
        compile_file("PYTORCH", "pytorch", "endless.pt", "[[1, 4]]", short)
    assert caught.value.reason is Reason.CONVERSION_TIMEOUT


def test_without_the_sandbox_where_the_owner_says_so(compile_file: Compile) -> None:
    trusting = dataclasses.replace(SETTINGS, sandbox=False)
    manifest = compile_file("SKLEARN", "sklearn", "linear.skops", None, trusting)
    assert manifest.inputs[0].shape == (-1, 5)


def test_a_missing_sandbox_is_named_with_its_setting(
    compile_file: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolchainError, match=r"apt-get install bubblewrap.*MODEL_DELIVERY_SANDBOX"):
        compile_file("SKLEARN", "sklearn", "linear.skops", None)


def test_a_raised_batch_keeps_its_rows_apart(tmp_path: Path, compile_file: Compile) -> None:
    """An exporter that bakes in the example's batch would answer the same for every row."""
    compile_file("PYTORCH", "pytorch", "traced.pt", IMAGE)
    model = Model.load(open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened"))
    images = np.random.default_rng(0).random((5, 3, 8, 8)).astype(np.float32)
    together = next(iter(model.run({"image": images}).values()))
    alone = next(iter(model.run({"image": images[3:4]}).values()))
    np.testing.assert_allclose(together[3:4], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("framework", "version"),
    [("PYTORCH", "1.8"), ("PYTORCH", "2.13"), ("TENSORFLOW", "1.15.3"), ("TFLITE", "2"),
     ("ONNX", None)],
)  # fmt: skip
def test_a_framework_reads_what_older_versions_saved(framework: str, version: str | None) -> None:
    check_framework_version(framework, version)


@pytest.mark.parametrize(
    ("framework", "version", "says"),
    [("PYTORCH", "3.0", "newer than"), ("TENSORFLOW", "2.99", "newer than"),
     ("SKLEARN", "1.2", "no versions")],
)  # fmt: skip
def test_a_version_that_nothing_reads_is_refused(framework: str, version: str, says: str) -> None:
    with pytest.raises(ConversionError, match=says):
        check_framework_version(framework, version)
