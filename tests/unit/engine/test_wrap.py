"""What another compiler made, and what no compiler can have made."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from model_delivery_engine.compile import CompilationRequest, wrap_artifact
from model_delivery_engine.errors import BundleError
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.targets import Target

from tests.unit.engine.conftest import save_linear


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
