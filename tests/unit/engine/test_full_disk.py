"""A disk that is full at one step or another: the machine's fault, and no worse model either."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.disk import disk_watched
from model_delivery_engine.errors import DiskFullError, Reason
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph

KIB = 1024
SIZES = [256, 768, 1024, 1536, 2048, 3072, 4096, 6144, 65536]  # of a model of 480 KiB
CODE = """
import json, sys, tempfile
from pathlib import Path
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.errors import EngineError
from model_delivery_engine.targets import resolve_target
archive, folders, bundle = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
request = CompilationRequest("ONNX", '{"features": [-1, 4]}', resolve_target("ml_c5", None),
                             "linear", "s3://b/m.tar.gz", '{"precision": "int8"}')
found = []
for folder in sorted(folders.iterdir()):
    tempfile.tempdir = str(folder)
    try:
        manifest = compile_model(archive, bundle, request)
        cannot = [c.name for c in manifest.candidates if "cannot be built" in (c.reason or "")]
        found.append(["whole", cannot])
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""


def test_a_disk_that_fills_up_is_never_the_models_fault(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    rng = np.random.default_rng(5)
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [
            helper.make_node("MatMul", ["features", "one"], ["wide"]),
            helper.make_node("Tanh", ["wide"], ["bent"]),
            helper.make_node("MatMul", ["bent", "two"], ["scores"]),
        ],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"scores": (TensorProto.FLOAT, ["n", 4])},
        {
            "one": rng.normal(size=(4, 15_000)).astype(np.float32),
            "two": rng.normal(size=(15_000, 4)).astype(np.float32) / 100,
        },
    )
    archive = pack(model)
    folders = tmp_path / "folders"
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    command = [bwrap, "--dev-bind", "/", "/"]
    for number, size in enumerate(SIZES):
        place = folders / f"{number:02}"
        place.mkdir(parents=True)
        command += ["--size", str(size * KIB), "--tmpfs", str(place)]
    bundle = tmp_path / "bundle.tar.gz"
    command += ["--", sys.executable, "-c", CODE, str(archive), str(folders), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    kinds = [kind for kind, _ in found]
    whole = kinds.index("whole")
    assert kinds == ["DiskFullError"] * whole + ["whole"] * (len(kinds) - whole)
    assert whole > 2  # at several steps
    assert all("no space left on the disk" in said for kind, said in found[:whole])
    # A candidate that found no space is no worse candidate.
    assert [cannot for _, cannot in found[whole:]] == [found[-1][1]] * (len(kinds) - whole)


def test_the_kernels_own_full_device(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="set TMPDIR") as full, disk_watched(tmp_path, "this"):
        Path("/dev/full").write_bytes(b"x")
    assert full.value.reason is Reason.DISK_FULL
    with pytest.raises(FileNotFoundError), disk_watched(tmp_path, "this"):
        (tmp_path / "none").read_bytes()
