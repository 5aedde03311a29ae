"""A real localcloud (API and worker processes) over a real SeaweedFS, once a session."""

import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import numpy as np
import onnx
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCOUNT = "123456789012"
REGION = "eu-west-1"
BUCKET = "contract"
ROLE = "arn:aws:iam::123456789012:role/compiler"
TERMINAL = {"COMPLETED", "FAILED", "STOPPED"}
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def process(
    argv: list[str], env: dict[str, str], log: Path, healthy: Callable[[], bool]
) -> Iterator["subprocess.Popen[bytes]"]:
    with (
        log.open("ab") as output,
        subprocess.Popen(
            argv, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        ) as child,
    ):
        try:
            deadline = time.monotonic() + 60
            while not healthy():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{argv[:2]} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.1)
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True)
class Store:
    """The S3 endpoint and its one identity."""

    url: str
    access_key_id: str
    secret: str = field(repr=False)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )


@dataclass(frozen=True)
class Cloud:
    """A running localcloud, a key of its account, and how to run its commands."""

    url: str
    store: Store
    env: dict[str, str] = field(repr=False)
    home: Path
    access_key_id: str
    secret: str = field(repr=False)
    password: str = field(repr=False)

    def client(self, service: str, **options: Any) -> Any:
        settings = {
            "endpoint_url": self.url,
            "region_name": REGION,
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret,
            "config": Config(retries={"total_max_attempts": 1}),
            **options,
        }
        return boto3.client(service, **settings)

    def run(self, *arguments: str, secret: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(BIN / "model-delivery-localcloud"), *arguments],
            env=self.env, input=secret, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def worker(self, log: str = "worker.log") -> Any:
        argv = [str(BIN / "model-delivery-localcloud"), "work", "--lease-seconds", "4"]
        return process(argv, self.env, self.home / log, lambda: True)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home = tmp_path_factory.mktemp("seaweed")
    ports = free_ports(10)
    built = Store(f"http://127.0.0.1:{ports[0]}", "contractstore", secrets.token_urlsafe(24))
    identity = {
        "name": "contract",
        "credentials": [{"accessKey": built.access_key_id, "secretKey": built.secret}],
        "actions": ["Read", "Write", "List", "Tagging"],
    }
    (home / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (home / "data").mkdir()
    flags = [f"-s3.port={ports[0]}", f"-s3.port.grpc={ports[1]}"]
    for index, part in enumerate(("master", "volume", "filer", "admin"), start=1):
        flags += [f"-{part}.port={ports[2 * index]}", f"-{part}.port.grpc={ports[2 * index + 1]}"]
    argv = [
        str(BIN / "weed"), "mini", f"-dir={home / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-bucket={BUCKET}", f"-s3.config={home / 's3.json'}", "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
        "-disableHttp", *flags,
    ]  # fmt: skip

    def healthy() -> bool:
        try:
            built.client().head_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            return False
        return True

    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with process(argv, env, home / "weed.log", healthy):
        yield built


@pytest.fixture(scope="session")
def cloud(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("localcloud")
    port = free_ports(1)[0]
    built = Cloud(
        url=f"http://127.0.0.1:{port}",
        store=store,
        home=home,
        access_key_id="AKIACONTRACTTESTS001",
        secret=secrets.token_urlsafe(30),
        password=secrets.token_urlsafe(12),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LOCALCLOUD_HOME": str(home),
            "LOCALCLOUD_S3_ENDPOINT_URL": store.url,
            "LOCALCLOUD_S3_ACCESS_KEY_ID": store.access_key_id,
            "LOCALCLOUD_S3_SECRET_ACCESS_KEY": store.secret,
            "LOCALCLOUD_SECRET_KEY": secrets.token_urlsafe(48),
        },
    )
    for arguments, secret in (
        (("migrate",), None),
        (("access-key", "add", "--id", built.access_key_id, "--account", ACCOUNT), built.secret),
        (("user", "add", "ada"), built.password),
    ):
        done = built.run(*arguments, secret=secret)
        assert done.returncode == 0, done.stderr
    argv = [str(BIN / "model-delivery-localcloud"), "serve", "--port", str(port)]
    with process(argv, built.env, home / "api.log", lambda: answers(f"{built.url}/healthz")):
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
        weights.append(onnx.numpy_helper.from_array(
            rng.normal(size=(rows, width)).astype(np.float32), name))  # fmt: skip
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
