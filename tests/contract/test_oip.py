"""The Open Inference Protocol v2 over REST, against a real agent process."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from model_delivery_engine.digest import digest_file
from model_delivery_engine.tensors import NUMPY_TYPES

from tests.edge_device import API_TOKEN, THING, Cloud, Device, scale_bundle, types_bundle

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "FP16": [0.5, -65504],
    "FP32": [1, -2.5],
    "FP64": [1e300, 0.1],
    **{
        name: [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
        for name, dtype in NUMPY_TYPES.items()
        if dtype.kind in "iu"
    },
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {"scale": scale_bundle(folder, 2), "types": types_bundle(folder)}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Iterator[Device]:
    cloud = Cloud().start()
    cloud.deploy(1, *((archive, name, "1.2.0") for name, archive in archives.items()))
    device = Device(tmp_path_factory.mktemp("home") / "device", cloud.url).start()
    try:
        cloud.wait_report(1, "SUCCEEDED")
        yield device
        assert device.stop() == 0
    finally:
        device.kill()
        cloud.stop()


def scale_input(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}


def scale_request(**changes: Any) -> dict[str, Any]:
    return {"inputs": [scale_input(**changes)]}


def infer(device: Device, body: Any, model: str = "scale", **options: Any) -> httpx.Response:
    answer = device.request("POST", f"/v2/models/{model}/infer", json=body, **options)
    assert isinstance(answer, httpx.Response)
    return answer


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_is_open(device: Device, path: str) -> None:
    assert httpx.get(device.url + path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("GET", "/v2/models/scale"),
        ("GET", "/v2/models/scale/ready"),
        ("POST", "/v2/models/scale/infer"),
        ("GET", "/v2/models/absent"),
        ("GET", "/elsewhere"),
        ("GET", "/v2/health/live/"),
    ],
)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic " + API_TOKEN, "Bearer ä"])
def test_all_else_takes_the_token(
    device: Device, method: str, path: str, header: str | None
) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    answer = httpx.request(method, device.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "API token" in answer.json()["error"]


def test_server_metadata(device: Device) -> None:
    data = device.request("GET", "/v2").json()
    assert data["name"] == "model-delivery-edge"
    assert data["extensions"] == []
    assert data["thing"] == THING


@pytest.mark.parametrize("path", ["/v2/models/scale", "/v2/models/scale/versions/1.2.0"])
def test_model_metadata(device: Device, archives: dict[str, Path], path: str) -> None:
    data = device.request("GET", path).json()
    assert data["digest"] == digest_file(archives["scale"])
    assert data["versions"] == ["1.2.0"]
    assert data["platform"] == "onnx_onnxv1"
    assert data["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert [each["name"] for each in data["outputs"]] == ["y", "total"]
    assert device.request("GET", f"{path}/ready").json() == {"name": "scale", "ready": True}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/v2/models/absent", "it has scale, types"),
        ("/v2/models/absent/ready", "not on this device"),
        ("/v2/models/scale/versions/9", "it serves 1.2.0"),
        ("/v2/elsewhere", "Not Found"),
    ],
)
def test_unknown_is_404(device: Device, path: str, why: str) -> None:
    answer = device.request("GET", path)
    assert answer.status_code == 404
    assert why in answer.json()["error"]


def test_infer_on_unknown_model_is_404_and_get_is_405(device: Device) -> None:
    assert infer(device, scale_request(), model="absent").status_code == 404
    answer = device.request("GET", "/v2/models/scale/infer")
    assert answer.status_code == 405
    assert "Method Not Allowed" in answer.json()["error"]


@pytest.mark.parametrize("model", ["scale", "scale/versions/1.2.0"])
@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6, 7, 8.5], [[1, 2, 3, 4], [5, 6, 7, 8.5]]])
def test_infer(device: Device, archives: dict[str, Path], model: str, data: list[Any]) -> None:
    body = {"id": "a-1", **scale_request(shape=[2, 4], data=data)}
    answer = infer(device, body, model=model)
    assert answer.json() == {
        "model_name": "scale",
        "model_version": "1.2.0",
        "id": "a-1",
        "parameters": {"digest": digest_file(archives["scale"])},
        "outputs": [
            {
                "name": "y",
                "datatype": "FP32",
                "shape": [2, 4],
                "data": [2, 4, 6, 8, 10, 12, 14, 17],
            },
            {"name": "total", "datatype": "FP32", "shape": [2, 1], "data": [20, 53]},
        ],
    }


def test_no_id_is_not_echoed(device: Device) -> None:
    assert "id" not in infer(device, scale_request()).json()


def test_outputs_are_selected_in_the_order_asked(device: Device) -> None:
    body = {**scale_request(), "outputs": [{"name": "total"}]}
    assert [each["name"] for each in infer(device, body).json()["outputs"]] == ["total"]
    body["outputs"] = [{"name": "total"}, {"name": "y"}]
    assert [each["name"] for each in infer(device, body).json()["outputs"]] == ["total", "y"]


def test_every_data_type_comes_back_exactly(device: Device) -> None:
    assert VALUES.keys() == NUMPY_TYPES.keys() - {"BYTES"}
    inputs = [
        {"name": f"in_{name}", "datatype": name, "shape": [2], "data": data}
        for name, data in VALUES.items()
    ]
    answer = infer(device, {"inputs": inputs}, model="types").json()
    found = {each["name"].removeprefix("out_"): each["data"] for each in answer["outputs"]}
    assert found == VALUES
    assert all(each["name"] == f"out_{each['datatype']}" for each in answer["outputs"])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ([], "must be a JSON object"),
        ({}, "needs a list of inputs"),
        ({"inputs": {}}, "needs a list of inputs"),
        ({"inputs": []}, "input 'x' is missing"),
        ({"inputs": [7]}, "an input must be a JSON object"),
        ({"inputs": [scale_input(), scale_input()]}, "'x' is there twice"),
        (scale_request(name="z"), "no input 'z'; its inputs are x"),
        (scale_request(datatype="FP64"), "takes FP32, got FP64"),
        (scale_request(datatype="FLOAT"), "datatype 'FLOAT'"),
        (scale_request(datatype=["FP32"]), "datatype"),
        (scale_request(shape=[4]), "takes shape [-1, 4]"),
        (scale_request(shape=[1, 5]), "takes shape [-1, 4]"),
        (scale_request(shape=[-1, 4]), "non-negative integers"),
        (scale_request(shape=[True, 4]), "non-negative integers"),
        (scale_request(shape=None), "non-negative integers"),
        (scale_request(data=[1, 2, 3]), "3 values, its shape [1, 4] needs 4"),
        (scale_request(data=[[1, 2, 3]]), "not 4 long in dimension 1"),
        (scale_request(data=[[1, 2, 3, 4], [1]]), "2 rows of data, its shape says 1"),
        (scale_request(data="AAAA"), "as a JSON array"),
        (scale_request(data=["1", 2, 3, 4]), "its data has strings"),
        (scale_request(data=[True, 2, 3, 4]), "its data has booleans"),
        (scale_request(data=[None, 2, 3, 4]), "objects or null"),
        (scale_request(data=[[[1, 2, 3, 4]]]), "not 4 long"),
        (scale_request(data=[1e40, 2, 3, 4]), "a value that FP32 cannot hold"),
        (scale_request(shape=[10**12, 4]), "needs 4000000000000"),
        (scale_request(extra=1), "unknown field 'extra'"),
        ({**scale_request(), "extra": 1}, "unknown field 'extra'"),
        ({**scale_request(), "id": 7}, "id must be a string"),
        ({**scale_request(), "outputs": [{"name": "q"}]}, "no output 'q'; its outputs are y"),
        ({**scale_request(), "outputs": [{"name": "y"}] * 2}, "asked for twice"),
        ({**scale_request(), "outputs": "y"}, "list of outputs"),
        ({**scale_request(), "parameters": {"priority": 1}}, "parameter 'priority'"),
        ({**scale_request(), "parameters": {"binary_data_output": True}}, "binary tensor"),
        (scale_request(parameters={"binary_data_size": 16}), "binary tensor extension"),
        (
            {**scale_request(), "outputs": [{"name": "y", "parameters": {"classification": 1}}]},
            "parameter 'classification'",
        ),
    ],
)
def test_what_does_not_fit_is_400(device: Device, body: Any, why: str) -> None:
    answer = infer(device, body)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert why in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("UINT8", [256, 0], "UINT8 cannot hold"),
        ("UINT8", [-1, 0], "UINT8 cannot hold"),
        ("INT64", [2**63, 0], "INT64 cannot hold"),
        ("INT32", [1.0, 0], "its data has fractions"),
        ("BOOL", [1, 0], "its data has integers"),
        ("FP16", [70000, 0], "FP16 cannot hold"),
    ],
)
def test_values_are_not_coerced(device: Device, name: str, data: list[Any], why: str) -> None:
    inputs = [
        {"name": f"in_{n}", "datatype": n, "shape": [2], "data": data if n == name else values}
        for n, values in VALUES.items()
    ]
    answer = infer(device, {"inputs": inputs}, model="types")
    assert answer.status_code == 400
    assert why in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"inputs": NaN}', b"1" * 10_000]
)
def test_what_is_not_json_is_400(device: Device, content: bytes) -> None:
    answer = device.request("POST", "/v2/models/scale/infer", content=content)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]


def test_parameters_that_ask_for_json_are_fine(device: Device) -> None:
    body = {**scale_request(), "parameters": {"binary_data_output": False}}
    body["outputs"] = [{"name": "y", "parameters": {"binary_data": False}}]
    assert infer(device, body).status_code == 200


def test_binary_and_compressed_bodies_are_refused_by_name(device: Device) -> None:
    headers = {"Inference-Header-Content-Length": "10"}
    answer = infer(device, scale_request(), headers=headers)
    assert answer.status_code == 400
    assert "binary tensor extension" in answer.json()["error"]
    answer = infer(device, scale_request(), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_infinity_is_no_json(device: Device) -> None:
    answer = infer(device, scale_request(data=[3e38, 0, 0, 0]))
    assert answer.status_code == 500
    assert "output 'y' holds NaN or infinity" in answer.json()["error"]


def test_too_large_a_request_is_413(device: Device) -> None:
    answer = device.request(
        "POST", "/v2/models/scale/infer", content=iter([b" " * 1024 * 1024] * 65)
    )
    assert answer.status_code == 413
    assert "send fewer samples" in answer.json()["error"]


async def test_answers_belong_to_their_questions(device: Device) -> None:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {API_TOKEN}"}) as client:

        async def ask(number: int) -> tuple[int, float]:
            body = {"id": str(number), **scale_request(data=[number, 0, 0, 0])}
            answer = await client.post(f"{device.url}/v2/models/scale/infer", json=body)
            data = answer.json()
            return int(data["id"]), data["outputs"][0]["data"][0]

        answers = await asyncio.gather(*(ask(number) for number in range(64)))
    assert answers == [(number, 2.0 * number) for number in range(64)]


def test_answers_are_standard_json(device: Device) -> None:
    content = infer(device, scale_request()).content
    json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in the answer"))
