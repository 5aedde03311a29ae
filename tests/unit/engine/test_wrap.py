"""What another compiler made, and what no compiler can have made."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, wrap, wrap_artifact
from model_delivery_engine.errors import BundleError, ParityError
from model_delivery_engine.manifest import ONNX_RUNTIME
from model_delivery_engine.runtime import Model, check_golden
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.targets import Target

from tests.unit.engine.conftest import WEIGHTS, save_linear


@pytest.mark.parametrize("members", [[], ["library.so"]], ids=["no file", "an empty file"])
def test_an_artifact_with_nothing_in_it_is_refused(
    tmp_path: Path, pack: Callable[[Path], Path], target: Target, members: list[str]
) -> None:
    archive = pack(save_linear(tmp_path / "model" / "model.onnx"))
    artifact = tmp_path / "artifact.tar.gz"
    with tarfile.open(artifact, "w:gz") as packed:
        for name in members:
            packed.addfile(tarfile.TarInfo(name))
    request = CompilationRequest("ONNX", '{"features": [-1, 4]}', target, "linear", "s3://b/m")
    settings = CompilerSettings(tmp_path / "environments")
    with pytest.raises(BundleError, match=r"artifact\.tar\.gz holds no file with anything in it"):
        wrap_artifact(archive, artifact, tmp_path / "b.tar.gz", request, settings=settings)
    assert not (tmp_path / "b.tar.gz").exists()


def test_weights_beside_an_artifact_are_put_into_the_bundle(
    tmp_path: Path, pack: Callable[[Path], Path], target: Target
) -> None:
    model = save_linear(tmp_path / "model" / "model.onnx")
    archive = pack(model)
    folder = tmp_path / "made"
    folder.mkdir()
    onnx.save(
        onnx.load(model), folder / "model.onnx", save_as_external_data=True, location="model.data",
        size_threshold=0,
    )  # fmt: skip
    pack_archive(folder, tmp_path / "artifact.tar.gz")
    request = CompilationRequest("ONNX", '{"features": [-1, 4]}', target, "linear", "s3://b/m")
    manifest = wrap_artifact(
        archive, tmp_path / "artifact.tar.gz", tmp_path / "b.tar.gz", request,
        settings=CompilerSettings(tmp_path / "environments"),
    )  # fmt: skip
    assert manifest.runtime == ONNX_RUNTIME
    bundle = open_bundle(tmp_path / "b.tar.gz", tmp_path / "opened")
    check_golden(Model.load(bundle), bundle)


def test_a_bundle_that_does_not_open_is_not_left(
    tmp_path: Path,
    pack: Callable[[Path], Path],
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = save_linear(tmp_path / "model" / "model.onnx")
    archive = pack(model)
    other = save_linear(tmp_path / "other.onnx", weights=-WEIGHTS)
    monkeypatch.setattr(wrap, "_whole", lambda path, work: other)
    request = CompilationRequest("ONNX", '{"features": [-1, 4]}', target, "linear", "s3://b/m")
    settings = CompilerSettings(tmp_path / "environments")
    with pytest.raises(ParityError, match="does not reproduce its golden outputs"):
        wrap_artifact(archive, archive, tmp_path / "b.tar.gz", request, settings=settings)
    assert not (tmp_path / "b.tar.gz").exists()
