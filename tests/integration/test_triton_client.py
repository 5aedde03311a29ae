"""The Open Inference Protocol through a client that others wrote, in an environment of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_device import API_TOKEN, Cloud, Device, scale_bundle

PACKAGES = ("tritonclient==2.73.0", "geventhttpclient==2.6.1", "numpy==2.4.6")
ENVIRONMENT = Path(__file__).resolve().parents[2] / "build" / "triton-client"
CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

url, token = sys.argv[1], sys.stdin.read()
client, headers = triton.InferenceServerClient(url), {"Authorization": f"Bearer {token}"}
x = np.arange(8, dtype=np.float32).reshape(2, 4)

def infer(values, sent, wanted, headers):
    tensor = triton.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=sent)
    outputs = None if wanted is None else [triton.InferRequestedOutput("y", binary_data=wanted)]
    # a copy: this client writes its own headers into what it is given
    return client.infer(
        "scale", [tensor], outputs=outputs, headers=dict(headers), request_id="7"
    )

def refusal(values, headers):
    try:
        infer(values, True, None, headers)
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"

results = [infer(x, sent, wanted, headers) for sent in (0, 1) for wanted in (None, False, True)]
print(json.dumps({
    "health": [client.is_server_live(), client.is_server_ready()],
    "models": [client.is_model_ready(name, headers=headers) for name in ("scale", "absent")],
    "server": client.get_server_metadata(headers=headers)["name"],
    "inputs": client.get_model_metadata("scale", "1.0.0", headers=headers)["inputs"],
    "ids": [each.get_response()["id"] for each in results],
    "ys": [each.as_numpy("y").tolist() for each in results],
    "nan": repr(infer(x / 0, True, True, headers).as_numpy("y")[0, 0]),
    "refusals": [refusal(x[:, :3].copy(), headers), refusal(x, {})],
}))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """Make the client's environment, once for all runs."""
    uv, python = Path(sys.executable).parent / "uv", ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", ENVIRONMENT], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *PACKAGES], check=True)
    return python


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    cloud = Cloud().start()
    cloud.deploy(1, (scale_bundle(tmp_path, 2), "scale", "1.0.0"))
    device = Device(tmp_path / "device", cloud.url).start()
    try:
        cloud.wait_report(1, "SUCCEEDED")
        yield device
    finally:
        device.kill()
        cloud.stop()


def test_tritons_client_and_the_agent_understand_each_other(python: Path, device: Device) -> None:
    done = subprocess.run(
        [python, "-c", CLIENT, device.url.removeprefix("http://")],
        input=API_TOKEN, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    misfit, no_token = found.pop("refusals")
    assert found == {
        "health": [True, True],
        "models": [True, False],
        "server": "model-delivery-edge",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "ids": ["7"] * 6,
        "ys": [[[0, 2, 4, 6], [8, 10, 12, 14]]] * 6,
        "nan": "np.float32(nan)",
    }
    assert "takes shape [-1, 4]" in misfit
    assert "401" in no_token
