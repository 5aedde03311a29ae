"""A framework's own model through the service: environment, sandbox, and the page of its job."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.frameworks.environment import environment_python
from model_delivery_engine.settings import CompilerSettings

from stack.credentials import ACCOUNT
from stack.localcloud import PORTAL_USER
from stack.object_store import BUCKET

MODELS = Path(__file__).parents[1] / "unit" / "engine" / "framework_models.py"


@pytest.fixture(scope="module")
def booster(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return an archive with a booster that XGBoost trained."""
    folder = tmp_path_factory.mktemp("xgboost")
    python = environment_python("xgboost", CompilerSettings.from_environment().environments)
    subprocess.run(
        [str(python), "-W", "ignore", str(MODELS), "xgboost", str(folder)],
        check=True,
        capture_output=True,
    )
    (folder / "one").mkdir()
    (folder / "classes.ubj").rename(folder / "one" / "model.ubj")
    pack_archive(folder / "one", folder / "model.tar.gz")
    return (folder / "model.tar.gz").read_bytes()


def test_a_booster_needs_no_shapes_and_its_page_shows_the_report(
    cloud: Any, worker: None, put: Callable[[bytes], str], job_request: Any, wait: Any,
    booster: bytes, tmp_path: Path,
) -> None:  # fmt: skip
    client = cloud.client("sagemaker")
    request = job_request(put(booster))
    request["InputConfig"] = {"S3Uri": request["InputConfig"]["S3Uri"], "Framework": "XGBOOST"}
    request["OutputConfig"]["CompilerOptions"] = '{"format": "ort", "objective": "size"}'
    client.create_compilation_job(**request)
    name = request["CompilationJobName"]
    done = wait(client, name)
    assert done["CompilationJobStatus"] == "COMPLETED", done["FailureReason"]
    key = done["ModelArtifacts"]["S3ModelArtifacts"].removeprefix(f"s3://{BUCKET}/")
    cloud.store.client().download_file(BUCKET, key, str(tmp_path / "bundle.tar.gz"))
    manifest = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened").manifest
    assert (manifest.format, manifest.source.framework) == ("ort", "XGBOOST")
    assert manifest.conversion is not None
    assert "xgboost/xgboost-cpu" in manifest.toolchain
    # What was not given is derived, and it is what could have been given.
    derived = json.loads(done["DerivedInformation"]["DerivedDataInputConfig"])
    assert derived == {spec.name: list(spec.shape) for spec in manifest.inputs}

    with httpx.Client(base_url=cloud.url, timeout=20) as browser:
        form = re.search(r'name="csrf" value="([^"]+)"', browser.get("/sign-in").text)
        assert form is not None
        signing = {"csrf": form[1], "name": PORTAL_USER, "password": cloud.password}
        browser.post("/sign-in", data=signing)
        page = browser.get(f"/jobs/compilation/{ACCOUNT}/eu-west-1/{name}")
    assert page.status_code == 200
    for text in ("Candidates", "Profile", "The ONNX conversion against XGBOOST", "ort", "<svg"):
        assert text in page.text
    assert "style=" not in page.text, "the pages' policy allows no inline style"
