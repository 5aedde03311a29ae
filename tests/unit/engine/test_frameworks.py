"""Every framework's models through its own environment and the sandbox, as a job would."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import Manifest, open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.errors import ConversionError, EngineError, Reason, ToolchainError
from model_delivery_engine.frameworks.environment import environment_python
from model_delivery_engine.frameworks.versions import check_framework_version
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
        return compile_model(tmp_path / "model.tar.gz", bundle, request, settings=settings)

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
        ("TFLITE", "pytorch", "traced.pt", NHWC, Reason.MODEL_MISSING, "no .tflite file"),
        ("KERAS", "tensorflow", "lambda.keras", IMAGE, Reason.UNTRUSTED_CODE, "Lambda"),
        ("KERAS", "tensorflow", "model.keras", NHWC, Reason.SHAPE_MISMATCH, "NCHW"),
        ("TENSORFLOW", "tensorflow", "frozen.pb", NHWC, None, "inputs are x"),
        ("TENSORFLOW", "tensorflow", "unsupported.pb", '{"x": [2, 4]}', None, "Betainc"),
        ("SKLEARN", "sklearn", "forest.joblib", None, Reason.UNTRUSTED_CODE, "ALLOW_CODE"),
        ("SKLEARN", "sklearn", "code.skops", None, None, "FunctionTransformer"),
        ("SKLEARN", "sklearn", "forest.skops", '{"x": [1, 4]}', Reason.SHAPE_MISMATCH, "[-1, 5]"),
        ("XGBOOST", "sklearn", "forest.joblib", None, Reason.UNTRUSTED_CODE, "save_model"),
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


def test_a_signature_that_is_not_there_is_named(compile_file: Compile) -> None:
    with pytest.raises(EngineError, match=r"no signature 'train' \(it has: .*serving_default"):
        compile_file(
            "TENSORFLOW", "tensorflow", "saved", NHWC, options='{"signature_def_key": "train"}'
        )


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
