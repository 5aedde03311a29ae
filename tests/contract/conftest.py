"""A real localcloud (API and worker processes) over a real SeaweedFS, once a session.

awscli carries a botocore of its own, so it lives in `build/awscli`, made on first use from
the hash-pinned `awscli.txt`. To move the pin: `uv pip compile --universal --python-version 3.11
--generate-hashes --no-header --no-annotate -o tests/contract/awscli.txt` over the line `awscli`.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
import pytest

from stack.credentials import ACCOUNT, load_or_create
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET, object_store
from stack.ports import free_ports
from tests.local_cloud import REGION, Cloud, Store
from tests.postgres import MISSING, installed, postgres

ROLE = f"arn:aws:iam::{ACCOUNT}:role/compiler"
PROJECT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("awscli.txt")
ENVIRONMENT = PROJECT / "build" / "awscli"
UV = Path(sys.executable).with_name("uv")
Done = subprocess.CompletedProcess[str]
TERMINAL = {"COMPLETED", "FAILED", "STOPPED"}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home = tmp_path_factory.mktemp("seaweed")
    built = Store(free_ports(1)[0], load_or_create(home / "secrets.json"))
    with object_store(home, built.credentials, built.port):
        yield built


@contextmanager
def running(store: Store, home: Path, **env: str) -> Iterator[Cloud]:
    """Run the API over a database of its own, SQLite where `env` names none."""
    local = LocalCloud(home, store.credentials, free_ports(1)[0], store.port)
    # A loop's last answer can be undone for a while, which no test here waits for.
    local.env.update({"LOCALCLOUD_REVIEW_UNDO_SECONDS": "0", **env})
    local.prepare()
    with local.api():
        yield Cloud(local, store)


@pytest.fixture(scope="session")
def cloud(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running(store, tmp_path_factory.mktemp("localcloud")) as built:
        yield built


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def cloud_over_each(
    request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """Return localcloud over each of its databases, for a module whose `cloud` is this.

    New for the module: no other one's jobs wait in it.
    """
    home = tmp_path_factory.mktemp("localcloud")
    if request.param == "sqlite":
        with running(store, home) as built:
            yield built
        return
    if not installed():
        pytest.skip(MISSING)
    with postgres() as url, running(store, home, LOCALCLOUD_DATABASE_URL=url) as built:
        yield built


@pytest.fixture(scope="module")
def worker(cloud: Cloud) -> Iterator[None]:
    with cloud.worker():
        yield


def classifier(width: int = 16, depth: int = 1) -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    nodes, weights, flows = [], [], "pixels"
    for layer in range(depth):
        name = f"w{layer}"
        rows = 8 if layer == 0 else width
        # Of a scale that keeps sums near one: larger, each layer would multiply rounding errors.
        values = rng.normal(size=(rows, width)) / np.sqrt(rows)
        weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        nodes.append(onnx.helper.make_node("MatMul", [flows, name], [f"h{layer}"]))
        nodes.append(onnx.helper.make_node("Tanh", [f"h{layer}"], [f"a{layer}"]))
        flows = f"a{layer}"
    nodes.append(onnx.helper.make_node("Softmax", [flows], ["scores"]))
    graph = onnx.helper.make_graph(
        nodes,
        "classifier",
        [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", 8])],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", width])],
        weights,
    )
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)


def packed(model: onnx.ModelProto, member: str = "model.onnx") -> bytes:
    data = model.SerializeToString()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def put(cloud: Any) -> Callable[[bytes], str]:
    def put_archive(data: bytes) -> str:
        key = f"models/{uuid4().hex}/digits.tar.gz"
        cloud.store.client().put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    return put_archive


def new_job_request(uri: str, **changes: Any) -> dict[str, Any]:
    name = f"job-{uuid4().hex[:12]}"
    request = {
        "CompilationJobName": name,
        "RoleArn": ROLE,
        "InputConfig": {
            "S3Uri": uri,
            "DataInputConfig": '{"pixels": [4, 8]}',
            "Framework": "ONNX",
        },
        "OutputConfig": {
            "S3OutputLocation": f"s3://{BUCKET}/compiled/{name}/",
            "TargetDevice": "ml_c5",
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
    }
    return {**request, **changes}


def wait_for_job(client: Any, name: str, until: set[str] = TERMINAL) -> dict[str, Any]:
    deadline = time.monotonic() + 90
    while True:
        found = client.describe_compilation_job(CompilationJobName=name)
        if found["CompilationJobStatus"] in until | TERMINAL:
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.fixture(scope="session")
def job_request() -> Callable[..., dict[str, Any]]:
    return new_job_request


@pytest.fixture(scope="session")
def wait() -> Callable[..., dict[str, Any]]:
    return wait_for_job


@pytest.fixture(scope="session")
def archive() -> Callable[..., bytes]:
    """Make a .tar.gz with a classifier of the given size, under the given member name."""

    def make(width: int = 16, depth: int = 1, member: str = "model.onnx") -> bytes:
        return packed(classifier(width, depth), member)

    return make


def uv(*arguments: str) -> None:
    done = subprocess.run([str(UV), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"uv {arguments[:2]}: {done.stderr}"


@pytest.fixture(scope="session")
def aws_executable() -> Path:
    """Install awscli where the environment is missing or of other pins; else reuse it."""
    pins = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = ENVIRONMENT / "installed-from"
    if not stamp.exists() or stamp.read_text() != pins:
        python = str(ENVIRONMENT / "bin" / "python")
        uv("venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT))
        uv("pip", "install", "--quiet", "--python", python,
           "--require-hashes", "-r", str(REQUIREMENTS))  # fmt: skip
        stamp.write_text(pins)
    return ENVIRONMENT / "bin" / "aws"


@pytest.fixture
def aws(cloud: Any, aws_executable: Path, tmp_path: Path) -> Callable[..., Done]:
    """Run `aws` with localcloud as the endpoint of every service and nothing of this machine."""

    def run(*arguments: str, **changes: str) -> Done:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "AWS_ENDPOINT_URL": cloud.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": cloud.access_key_id,
            "AWS_SECRET_ACCESS_KEY": cloud.secret,
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **changes,
        }
        return subprocess.run(
            [str(aws_executable), *arguments, "--output", "json"],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run
