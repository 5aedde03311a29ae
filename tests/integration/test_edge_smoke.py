"""The smoke test's operator and a real device."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_delivery.exceptions import EdgeError
from model_delivery.operators.edge import EdgeInferenceOperator

from tests.edge_device import API_TOKEN, THING, Cloud, Device, scale_bundle


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


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ("edge-2", f"'other' leads to the device {THING}, not to edge-2"),
        (THING, "the device runs sha256:[0-9a-f]+, not sha256:of-another-bundle"),
    ],
)
def test_the_wrong_device_and_the_wrong_model_are_told_apart(
    device: Device, monkeypatch: pytest.MonkeyPatch, thing: str, says: str
) -> None:
    connection = {
        "conn_type": "model_delivery_edge", "host": "127.0.0.1", "port": device.port,
        "schema": "http", "password": API_TOKEN,
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))
    operator = EdgeInferenceOperator(
        task_id="smoke_test",
        results_uri="file:///nowhere/results.jsonl",
        input_uri="file:///nowhere/input.jsonl",
        model_name="scale",
        digest="sha256:of-another-bundle",
        thing_name=thing,
        edge_conn_id="other",
    )
    with pytest.raises(EdgeError, match=says):
        operator.execute({})
