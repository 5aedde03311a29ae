"""The smoke test's operator and a real device."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_delivery.exceptions import EdgeError
from model_delivery.hooks.edge import EdgeInferenceHook
from model_delivery.hooks.smoke import compare_with_device
from model_delivery.operators.edge import EdgeInferenceOperator

from tests.edge_device import API_TOKEN, THING, Cloud, Device, scale_bundle


@pytest.fixture(params=[-1, 4], ids=["any batch", "batches of 4"])
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Device]:
    cloud = Cloud().start()
    cloud.deploy(1, (scale_bundle(tmp_path, 2, batch=request.param), "scale", "1.0.0"))
    device = Device(tmp_path / "device", cloud.url).start()
    try:
        cloud.wait_report(1, "SUCCEEDED")
        yield device
    finally:
        device.kill()
        cloud.stop()


def connect(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {
        "conn_type": "model_delivery_edge", "host": "127.0.0.1", "port": device.port,
        "schema": "http", "password": API_TOKEN,
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))


def lines(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return f"file://{path}"


@pytest.mark.parametrize(("wrong", "agreed"), [(None, 6), (4, 5)])
def test_every_answer_is_compared_whatever_the_batch(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wrong: int | None,
    agreed: int,
) -> None:
    connect(device, monkeypatch)
    rows = [[float(row)] * 4 for row in range(6)]
    factors = [3 if row == wrong else 2 for row in range(6)]
    results = [
        {"output": {"y": [factor * x for x in row], "total": [factor * sum(row)]}}
        for factor, row in zip(factors, rows, strict=True)
    ]
    compared = compare_with_device(
        EdgeInferenceHook("other"),
        "scale",
        lines(tmp_path / "input.jsonl", [{"x": row} for row in rows]),
        lines(tmp_path / "results.jsonl", results),
        limit=10,
        tolerance=1e-6,
    )
    assert compared == (6, agreed)


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
    connect(device, monkeypatch)
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
