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
    assert data["extensions"] == ["binary_tensor_data"]
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
        ({**scale_request(), "parameters": {"binary_data_output": 1}}, "give true or false"),
        (scale_request(parameters={"binary_data_size": 16}), "its bytes come behind the JSON"),
        (scale_request(parameters={"binary_data_size": "16"}), "give a whole number"),
        (scale_request(parameters={"binary_data_size": True}), "give a whole number"),
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


def test_compressed_bodies_are_refused_by_name(device: Device) -> None:
    answer = infer(device, scale_request(), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def in_bytes(name: str, array: Any, datatype: str) -> tuple[dict[str, Any], bytes]:
    """Return what the JSON has of an input, and its bytes, as the extension spells them."""
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    head = {
        "name": name, "datatype": datatype, "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    return head, raw


def send(
    device: Device, head: Any, tail: bytes, model: str = "scale", length: str | None = None
) -> httpx.Response:
    text = b"" if head is None else json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)) if length is None else length}
    answer = device.request(
        "POST", f"/v2/models/{model}/infer", content=text + tail, headers=headers
    )
    assert isinstance(answer, httpx.Response)
    return answer


def read(answer: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a binary answer's JSON, and its outputs as arrays by name."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    at = int(answer.headers["Inference-Header-Content-Length"])
    data, found = json.loads(answer.content[:at]), {}
    for each in data["outputs"]:
        size = each.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[each["name"]] = np.array(each["data"]).reshape(each["shape"])
            continue
        assert "data" not in each
        dtype = NUMPY_TYPES[each["datatype"]].newbyteorder("<")
        raw = answer.content[at : at + size]
        found[each["name"]] = np.frombuffer(raw, dtype).reshape(each["shape"])
        at += size
    assert at == len(answer.content)
    return data, found


def test_every_data_type_goes_and_comes_in_bytes(device: Device) -> None:
    arrays = {
        name: np.array([np.nan, np.inf] if name.startswith("FP") else values, NUMPY_TYPES[name])
        for name, values in VALUES.items()
    }
    parts = [in_bytes(f"in_{name}", array, name) for name, array in arrays.items()]
    head = {
        "id": "b-1", "inputs": [each for each, _ in parts],
        "parameters": {"binary_data_output": True},
    }  # fmt: skip
    data, found = read(send(device, head, b"".join(raw for _, raw in parts), "types"))
    assert data["id"] == "b-1"
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[f"out_{name}"], array)


@pytest.mark.parametrize("wanted", ["all", "one", "none"])
def test_bytes_and_json_are_mixed_as_asked(device: Device, wanted: str) -> None:
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    head, raw = in_bytes("x", rows, "FP32")
    body: dict[str, Any] = {"inputs": [head]}
    if wanted == "one":
        body["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    elif wanted == "all":
        body["parameters"] = {"binary_data_output": True}
    else:
        body["parameters"] = {"binary_data_output": True}
        body["outputs"] = [{"name": "y", "parameters": {"binary_data": False}}]
    answer = send(device, body, raw)
    if wanted == "none":
        assert answer.json()["outputs"][0]["data"] == (rows * 2).ravel().tolist()
    else:
        np.testing.assert_array_equal(read(answer)[1]["y"], rows * 2)


def test_json_may_be_answered_in_bytes(device: Device) -> None:
    body = {**scale_request(), "parameters": {"binary_data_output": True}}
    np.testing.assert_array_equal(read(infer(device, body))[1]["y"], [[2, 4, 6, 8]])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_body_without_json_is_the_only_input(device: Device, rows: int) -> None:
    array = np.arange(4 * rows, dtype="<f4").reshape(rows, 4)
    _, found = read(send(device, None, array.tobytes()))
    np.testing.assert_array_equal(found["y"], array * 2)


@pytest.mark.parametrize(
    ("size", "tail", "length", "why"),
    [
        (16, b"\0" * 15, None, "15 are left"),
        (16, b"\0" * 17, None, "1 bytes behind its last"),
        (12, b"\0" * 12, None, "has 12 bytes, its shape [1, 4] of FP32 needs 16"),
        (-1, b"", None, "binary_data_size of -1"),
        (2**63, b"\0" * 16, None, "16 are left"),
        (16, b"\0" * 16, "7x", "is '7x'"),
        (16, b"\0" * 16, "-5", "is '-5'"),
        (16, b"\0" * 16, "9" * 5000, "give the length of its JSON"),
        (16, b"\0" * 16, "100000", "give the length of its JSON"),
        (16, b"\0" * 16, "20", "not JSON"),
        (16, b"\0" * 16, "0", "no FP32 of shape [-1, 4]"),
    ],
)
def test_bytes_that_do_not_fit_are_400(
    device: Device, size: int, tail: bytes, length: str | None, why: str
) -> None:
    head = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    body = {"inputs": [{**head, "parameters": {"binary_data_size": size}}]}
    answer = send(device, body, tail, length=length)
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["error"]


def test_an_input_has_data_or_bytes(device: Device) -> None:
    head, raw = in_bytes("x", np.zeros((1, 4), np.float32), "FP32")
    answer = send(device, {"inputs": [{**head, "data": [0, 0, 0, 0]}]}, raw)
    assert answer.status_code == 400
    assert "it has no data" in answer.json()["error"]


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
