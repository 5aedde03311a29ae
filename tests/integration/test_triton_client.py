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

def refusal(binary_input, headers):
    tensor = triton.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary_input)
    try:
        # a copy: this client writes its own headers into what it is given
        client.infer("scale", [tensor], headers=dict(headers))
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"

tensor = triton.InferInput("x", [2, 4], "FP32")
tensor.set_data_from_numpy(x, binary_data=False)
wanted = [triton.InferRequestedOutput("y", binary_data=False)]
result = client.infer("scale", [tensor], outputs=wanted, headers=headers, request_id="7")
print(json.dumps({
    "health": [client.is_server_live(), client.is_server_ready()],
    "models": [client.is_model_ready(name, headers=headers) for name in ("scale", "absent")],
    "server": client.get_server_metadata(headers=headers)["name"],
    "inputs": client.get_model_metadata("scale", "1.0.0", headers=headers)["inputs"],
    "id": result.get_response()["id"],
    "y": result.as_numpy("y").tolist(),
    "refusals": [refusal(True, headers), refusal(False, headers), refusal(False, {})],
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
    binary, binary_output, no_token = found.pop("refusals")
    assert found == {
        "health": [True, True],
        "models": [True, False],
        "server": "model-delivery-edge",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "id": "7",
        "y": [[0, 2, 4, 6], [8, 10, 12, 14]],
    }
    assert "binary tensor extension is not served" in binary
    assert "'binary_data_output'" in binary_output
    assert "401" in no_token
