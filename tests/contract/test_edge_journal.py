"""What a real agent process does between hearing of a model and serving it, and when it dies."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge_device import Cloud, Device, component, scale_bundle, wait_until


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud().start()
    yield cloud
    cloud.stop()


@pytest.fixture
def serving(tmp_path: Path, cloud: Cloud) -> Iterator[Device]:
    device = Device(tmp_path / "device", cloud.url)
    cloud.deploy(1, (scale_bundle(tmp_path, 2), "scale", "1.0.0"))
    device.start().wait_ready()
    cloud.wait_report(1, "SUCCEEDED")
    yield device
    device.kill()


def state_of(device: Device) -> tuple[int, str]:
    data = json.loads((device.home / "state" / "outcome.json").read_bytes())
    return data["generation"], data["state"]


def told(cloud: Cloud, generation: int) -> list[str]:
    return [report["state"] for report in cloud.reports if report["generation"] == generation]


def deploy(cloud: Cloud, generation: int, archive: Path, **changes: Any) -> None:
    described = component(archive, "scale", "2.0.0")
    described["configuration"] = changes.pop("configuration", {})
    cloud.served[described["artifact"]["digest"]] = archive.read_bytes()
    cloud.desire(generation, [described])
    assert cloud.desired is not None
    cloud.desired |= changes


def test_profile_of_the_probe_is_reported(serving: Device, cloud: Cloud) -> None:
    report = cloud.wait_report(1, "SUCCEEDED")
    assert report["state"] == "COMMITTED"
    assert report["components"] == {"scale": "COMMITTED"}
    (profile,) = report["profiles"]
    assert profile["record"]["digest"] == report["running"][0]["digest"]
    assert profile["record"]["peak_bytes"] > 0
    assert profile["signature"]


def test_a_model_that_answers_nan_is_refused_and_not_tried_again_by_itself(
    serving: Device, cloud: Cloud, tmp_path: Path
) -> None:
    bad = scale_bundle(tmp_path, float("nan"))
    deploy(cloud, 2, bad)
    assert "NaN" in cloud.wait_report(2, "FAILED")["error"]
    assert serving.scale() == 2
    fetched = len(cloud.ranges())
    deploy(cloud, 3, bad)
    report = cloud.wait_report(3, "FAILED")
    assert "was refused before" in report["error"]
    assert len(cloud.ranges()) == fetched
    deploy(cloud, 4, bad, retry=True, configuration={"probe": {"allowNonFinite": True}})
    wait_until(lambda: told(cloud, 4)[-1:] in (["FAILED"], ["COMMITTED"]), "it is tried again")
    assert "PROBING" in json.dumps(cloud.reports) or len(cloud.ranges()) > fetched


@pytest.mark.parametrize(
    ("limits", "why"), [({"memoryBytes": 1}, "MiB of memory"), ({"seconds": 0.01}, "not probed")]
)
def test_limits_of_the_probe_hold(
    serving: Device, cloud: Cloud, tmp_path: Path, limits: dict[str, Any], why: str
) -> None:
    deploy(cloud, 2, scale_bundle(tmp_path, 3), configuration={"probe": limits})
    assert why in cloud.wait_report(2, "FAILED")["error"]
    assert serving.scale() == 2


def test_a_deadline_ends_a_deployment(serving: Device, cloud: Cloud, tmp_path: Path) -> None:
    cloud.stall_after = 1_000_000
    deploy(cloud, 2, scale_bundle(tmp_path, 3, padding=4 * 65536), deadline_seconds=1.5)
    report = cloud.wait_report(2, "FAILED")
    assert report["state"] == "TIMED_OUT"
    assert "not done within its 1.5 s" in report["error"]
    assert serving.scale() == 2
    assert state_of(serving) == (2, "TIMED_OUT")


def test_killed_with_all_it_needs_it_goes_on_without_the_cloud(
    serving: Device, cloud: Cloud, tmp_path: Path
) -> None:
    deploy(cloud, 2, scale_bundle(tmp_path, 3), configuration={"probe": {"runs": 10_000}})
    wait_until(lambda: state_of(serving) == (2, "PROBING"), "it probes")
    serving.kill()
    cloud.stop()
    serving.start().wait_ready()
    assert serving.scale() in (2, 3)
    wait_until(lambda: serving.scale() == 3, "it goes on from its journal", 60)
    assert state_of(serving)[0] == 2


def test_unsigned_where_a_key_is_pinned(serving: Device, cloud: Cloud, tmp_path: Path) -> None:
    trust = {"anchor": "A" * 43 + "=", "public": "A" * 43 + "=", "number": 0, "releases": {}}
    (serving.home / "trust.json").write_text(json.dumps(trust))
    fetched = len(cloud.ranges())
    deploy(cloud, 2, scale_bundle(tmp_path, 3))
    assert "is not signed" in cloud.wait_report(2, "FAILED")["error"]
    assert len(cloud.ranges()) == fetched
    assert serving.scale() == 2


def test_a_model_that_answers_nan_to_real_requests_is_rolled_back(
    serving: Device, cloud: Cloud, tmp_path: Path
) -> None:
    watch = {"minRequests": 10, "errorRate": 0.1}
    deploy(cloud, 2, scale_bundle(tmp_path, 3), configuration={"watch": watch})
    cloud.wait_report(2, "SUCCEEDED")
    huge = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [3e38, 0, 0, 0]}
    for _ in range(12):  # three times as much is infinite
        serving.request("POST", "/v2/models/scale/infer", json={"inputs": [huge]})
    report = cloud.wait_report(2, "FAILED")
    assert report["state"] == "ROLLED_BACK"
    assert "requests failed or were answered with NaN" in report["error"]
    assert [each["version"] for each in report["running"]] == ["1.0.0"]
    assert serving.scale() == 2
    serving.kill()
    cloud.stop()
    serving.start().wait_ready()
    assert serving.scale() == 2
    cloud.start()
    deploy(cloud, 3, scale_bundle(tmp_path, 3))
    assert "was refused before" in cloud.wait_report(3, "FAILED")["error"]
