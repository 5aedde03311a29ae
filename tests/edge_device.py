"""For the edge tests: real bundles, a cloud that speaks the device wire, a real agent process.

The cloud here is small and can misbehave on demand; the agent against localcloud is tested in the
integration suite.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import uvicorn
from model_delivery_engine.bundle import Golden, Manifest, Source, TensorSpec, write_bundle
from model_delivery_engine.digest import digest_file
from model_delivery_engine.runtime import open_session, session_options
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import NUMPY_TYPES
from onnx import TensorProto, helper, numpy_helper
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stack.ports import free_ports

THING = "test-thing"
API_TOKEN = "the-api-token-of-the-test"
ONE_TIME_TOKEN = "the-one-time-token-of-the-test"
DEVICE_KEY = "the-device-key-of-the-test"

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def _model(
    nodes: list[Any],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    weights: dict[str, Any],
) -> Any:
    def infos(specs: tuple[TensorSpec, ...]) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                spec.name, ONNX_TYPES[spec.dtype], [d if d >= 0 else "batch" for d in spec.shape]
            )
            for spec in specs
        ]

    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _bundle(
    archive: Path,
    model: Any,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    golden_inputs: dict[str, Any],
    off_by: float,
) -> Path:
    path = archive.with_suffix(".onnx")
    onnx.save(model, path)
    names = [spec.name for spec in outputs]
    answers = open_session(path, session_options()).run(names, golden_inputs)
    golden = {n: a + off_by if off_by else a for n, a in zip(names, answers, strict=True)}
    manifest = Manifest(
        name=archive.name.removesuffix(".tar.gz"),
        model_digest="",
        source=Source("s3://bucket/model.tar.gz", "sha256:" + "0" * 64, "ONNX"),
        target=Target("ml_c5", "LINUX", "X86_64"),
        toolchain={},
        inputs=inputs,
        outputs=outputs,
        golden=Golden("", 0, 1e-5, 1e-5),
    )
    write_bundle(
        archive, model=path, manifest=manifest, golden_inputs=golden_inputs, golden_outputs=golden
    )
    return archive


def scale_bundle(
    folder: Path, factor: float, *, off_by: float = 0.0, padding: int = 16, batch: int = -1
) -> Path:
    """Make a bundle of y = factor · x, x FP32 [batch, 4].

    :param batch: 4, or any number by default
    :param off_by: what its golden outputs are wrong by
    :param padding: columns of noise of 16 bytes each, to make it large
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = (TensorSpec("x", "FP32", (batch, 4)),)
    outputs = (TensorSpec("y", "FP32", (batch, 4)), TensorSpec("total", "FP32", (batch, 1)))
    noise = np.random.default_rng(1).random((4, padding), dtype=np.float32)
    weights = {
        "factor": np.array(factor, np.float32),
        "noise": noise,
        "zeros": np.zeros((padding, 4), np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "noise"], ["wide"]),
        helper.make_node("MatMul", ["wide", "zeros"], ["nothing"]),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "nothing"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=1),
    ]
    golden = {"x": np.random.default_rng(2).random((4, 4), dtype=np.float32)}
    archive = folder / f"scale-{factor}-{off_by}.tar.gz"
    return _bundle(
        archive, _model(nodes, inputs, outputs, weights), inputs, outputs, golden, off_by
    )


def types_bundle(folder: Path) -> Path:
    """Make a bundle that answers each input as it came: a pair for each type but BYTES.

    No bundle takes strings: golden samples of them cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    types = {name: dtype for name, dtype in NUMPY_TYPES.items() if name != "BYTES"}
    inputs = tuple(TensorSpec(f"in_{t}", t, (-1,)) for t in types)
    outputs = tuple(TensorSpec(f"out_{t}", t, (-1,)) for t in types)
    nodes = [helper.make_node("Identity", [f"in_{t}"], [f"out_{t}"]) for t in types]
    golden = {f"in_{t}": np.array([0, 1], dtype) for t, dtype in types.items()}
    model = _model(nodes, inputs, outputs, {})
    return _bundle(folder / "types.tar.gz", model, inputs, outputs, golden, 0.0)


def component(archive: Path, name: str, version: str, **changes: Any) -> dict[str, Any]:
    """Describe a bundle as a component of a desired state."""
    digest = digest_file(archive)
    artifact = {
        "digest": digest,
        "size": archive.stat().st_size,
        "path": f"/edge/v1/artifacts/{digest}",
        **changes,
    }
    return {"name": name, "version": version, "configuration": {}, "artifact": artifact}


@dataclass
class Cloud:
    """A cloud for one device.

    :param cut_after: bytes of body after which each artifact answer breaks off, while `cuts` last
    :param stall_after: bytes of body after which artifact answers hang until `stop`
    """

    port: int = field(default_factory=lambda: free_ports(1)[0])
    desired: dict[str, Any] | None = None
    served: dict[str, bytes] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    cut_after: int = 0
    cuts: int = 0
    stall_after: int = 0
    token_used: bool = False
    etag_suffix: str = ""
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Cloud":
        routes = [
            Route("/edge/v1/devices/{thing}/registration", self._register, methods=["POST"]),
            Route("/edge/v1/devices/{thing}/desired", self._desired),
            Route("/edge/v1/devices/{thing}/reported", self._reported, methods=["PUT"]),
            Route("/edge/v1/artifacts/{digest}", self._artifact),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            port=self.port,
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        wait_until(lambda: self._server is not None and self._server.started, "the cloud starts")
        return self

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(15)
            self._server = None

    def deploy(self, generation: int, *components: tuple[Path, str, str]) -> None:
        """Desire bundles as (archive, component name, version)."""
        described = []
        for archive, name, version in components:
            described.append(component(archive, name, version))
            self.served[described[-1]["artifact"]["digest"]] = archive.read_bytes()
        self.desire(generation, described)

    def desire(self, generation: int, components: list[dict[str, Any]]) -> None:
        self.desired = {
            "generation": generation,
            "deployment_id": f"deployment-{generation}",
            "components": components,
        }

    def wait_report(self, generation: int, status: str, seconds: float = 30) -> dict[str, Any]:
        """Return the first report of this outcome."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [
                r for r in self.reports if (r["generation"], r["status"]) == (generation, status)
            ]
            return bool(found)

        wait_until(look, lambda: f"{status} of {generation}; got {self.reports[-3:]}", seconds)
        return found[0]

    def ranges(self) -> list[str]:
        """Return the Range header of each artifact request, '' for none."""
        return [value for kind, value in self.requests if kind == "artifact"]

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("model-delivery-edge-protocol") != "2":
            return JSONResponse({"error": "speak protocol 2"}, status_code=426)
        if request.headers.get("authorization") != f"Bearer {DEVICE_KEY}":
            return JSONResponse({"error": "no such device"}, status_code=401)
        return None

    async def _register(self, request: Request) -> Response:
        body = await request.json()
        assert set(body) == {"token", "architecture", "platform", "agent_version", "public_key"}
        self.requests.append(("registration", body["architecture"]))
        if self.token_used or body["token"] != ONE_TIME_TOKEN:
            return JSONResponse({"error": "this token is wrong or was used"}, status_code=403)
        self.token_used = True
        return JSONResponse({"device_key": DEVICE_KEY}, status_code=201)

    async def _desired(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        after = int(request.query_params["after"])
        self.requests.append(("desired", str(after)))
        deadline = time.monotonic() + float(request.query_params["wait"])
        while time.monotonic() < deadline:
            if self.desired and self.desired["generation"] > after:
                return JSONResponse(self.desired)
            if self._server is None or self._server.should_exit:
                break
            await asyncio.sleep(0.02)
        return Response(status_code=204)

    async def _reported(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        self.reports.append(await request.json())
        return Response(status_code=204)

    async def _artifact(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        self.requests.append(("artifact", request.headers.get("range", "")))
        digest = request.path_params["digest"]
        if digest not in self.served:
            return JSONResponse({"error": f"{digest} was not deployed"}, status_code=404)
        data, etag = self.served[digest], f'"{digest}{self.etag_suffix}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if "range" in request.headers and request.headers.get("if-range") == etag:
            start, status = int(request.headers["range"][6:-1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers["Content-Length"] = str(len(data) - start)
        return StreamingResponse(self._body(data[start:]), status_code=status, headers=headers)

    async def _body(self, data: bytes) -> Any:
        limit = self.cut_after if self.cuts else self.stall_after or len(data)
        for offset in range(0, min(limit, len(data)), 65536):
            yield data[offset : min(offset + 65536, limit)]
            await asyncio.sleep(0)
        if limit >= len(data):
            return
        if self.cuts:
            self.cuts -= 1
            await asyncio.sleep(0.1)  # let what was sent leave before the connection breaks
            raise ConnectionAbortedError("cut on purpose")
        while self.stall_after and self._server and not self._server.should_exit:
            await asyncio.sleep(0.02)
        raise ConnectionAbortedError("stopped while stalled")


@dataclass
class Device:
    """A real agent process.

    :param home: its folder
    :param cloud: URL of its cloud
    """

    home: Path
    cloud: str
    port: int = field(default_factory=lambda: free_ports(1)[0])
    env: dict[str, str] = field(
        default_factory=lambda: {
            "MODEL_DELIVERY_EDGE_API_TOKEN": API_TOKEN,
            "MODEL_DELIVERY_EDGE_TOKEN": ONE_TIME_TOKEN,
        }
    )
    process: "subprocess.Popen[bytes] | None" = None
    thing: str = THING

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        path = self.home.with_suffix(".log")
        return path.read_text() if path.exists() else ""

    def start(self) -> "Device":
        argv = [
            sys.executable, "-m", "model_delivery_edge.cli", "run", "--thing", self.thing,
            "--cloud", self.cloud, "--home", str(self.home), "--port", str(self.port),
        ]  # fmt: skip
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), **self.env}
        with self.home.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=environ, stdout=log, stderr=log)
        return self

    def wait_ready(self) -> "Device":
        wait_until(lambda: self._status("/v2/health/ready") == 200, lambda: f"ready; {self.log}")
        return self

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def request(self, method: str, path: str, token: str = API_TOKEN, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=10, **options)

    def scale(self, name: str = "scale") -> float:
        """Infer with a scale model; return its factor."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 0, 0, 0]}
        answer = self.request("POST", f"/v2/models/{name}/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text
        return float(answer.json()["outputs"][0]["data"][0])

    def _status(self, path: str) -> int:
        assert self.process is None or self.process.poll() is None, self.log
        try:
            return httpx.get(self.url + path, timeout=2).status_code
        except httpx.TransportError:
            return 0


def wait_until(condition: Any, what: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.02)


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())
