"""The device wire as a real agent process speaks it, with the faults that devices meet."""

import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_delivery_engine.digest import digest_file

from tests.edge_device import (
    API_TOKEN,
    DEVICE_KEY,
    ONE_TIME_TOKEN,
    Cloud,
    Device,
    component,
    scale_bundle,
    wait_until,
)

MIB_OF_NOISE = 65536


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud().start()
    yield cloud
    cloud.stop()


@pytest.fixture
def device(tmp_path: Path, cloud: Cloud) -> Iterator[Device]:
    device = Device(tmp_path / "device", cloud.url)
    yield device
    device.kill()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {factor: scale_bundle(folder, factor) for factor in (2, 3, 4)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scale_bundle(tmp_path_factory.mktemp("large"), 5, padding=4 * MIB_OF_NOISE)


@pytest.fixture
def serving(device: Device, cloud: Cloud, bundles: dict[int, Path]) -> Device:
    """Give a device that serves scale 1.0.0, which doubles."""
    cloud.deploy(1, (bundles[2], "scale", "1.0.0"))
    device.start().wait_ready()
    cloud.wait_report(1, "SUCCEEDED")
    assert device.scale() == 2
    return device


def test_registers_once_and_keeps_its_key_to_itself(serving: Device, cloud: Cloud) -> None:
    key = serving.home / "device.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert serving.stop() == 0
    serving.env = {"MODEL_DELIVERY_EDGE_API_TOKEN": API_TOKEN}
    cloud.reports.clear()
    serving.start().wait_ready()
    wait_until(lambda: cloud.reports, "a report of the restarted agent")
    assert [kind for kind, _ in cloud.requests].count("registration") == 1
    assert not any(secret in serving.log for secret in (API_TOKEN, ONE_TIME_TOKEN, DEVICE_KEY))


def test_reports_what_runs(serving: Device, cloud: Cloud, bundles: dict[int, Path]) -> None:
    report = cloud.wait_report(1, "SUCCEEDED")
    digest = digest_file(bundles[2])
    assert report["running"][0]["digest"] == digest
    assert (report["running"][0]["name"], report["running"][0]["version"]) == ("scale", "1.0.0")
    assert report["running"][0]["model_digest"].startswith("sha256:")
    assert report["deployment_id"] == "deployment-1"
    assert report["endpoint"] == serving.url
    cloud.reports.clear()
    heartbeat = cloud.wait_report(1, "SUCCEEDED", seconds=13)
    assert heartbeat["running"] == report["running"]


def test_newer_generation_replaces_and_older_artifacts_go(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    cloud.deploy(2, (bundles[3], "scale", "2.0.0"))
    cloud.wait_report(2, "SUCCEEDED")
    assert serving.scale() == 3
    kept = {entry.name for entry in (serving.home / "artifacts").iterdir()}
    assert kept == {digest_file(bundles[n]).replace(":", "-") for n in (2, 3)}
    cloud.deploy(3, (bundles[4], "scale", "3.0.0"))
    cloud.wait_report(3, "SUCCEEDED")
    wait_until(
        lambda: (
            {e.name for e in (serving.home / "artifacts").iterdir()}
            == {digest_file(bundles[n]).replace(":", "-") for n in (3, 4)}
        ),
        "current and previous artifact are kept, no other",
    )


def test_same_bundle_under_newer_generation_is_not_fetched_again(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    fetched = len(cloud.ranges())
    cloud.deploy(2, (bundles[2], "scale", "1.0.0"))
    cloud.wait_report(2, "SUCCEEDED")
    assert len(cloud.ranges()) == fetched


def test_nothing_desired_serves_nothing(serving: Device, cloud: Cloud) -> None:
    cloud.deploy(2)
    assert cloud.wait_report(2, "SUCCEEDED")["running"] == []
    assert serving.request("GET", "/v2/models/scale").status_code == 404


def test_cut_download_is_resumed(serving: Device, cloud: Cloud, large: Path) -> None:
    cloud.cut_after, cloud.cuts = 1_500_000, 2
    cloud.deploy(2, (large, "scale", "2.0.0"))
    cloud.wait_report(2, "SUCCEEDED")
    assert serving.scale() == 5
    offsets = [int(r.removeprefix("bytes=").removesuffix("-")) for r in cloud.ranges() if r]
    assert len(offsets) == 2
    assert 0 < offsets[0] < offsets[1]


def test_changed_artifact_starts_over(serving: Device, cloud: Cloud, large: Path) -> None:
    cloud.stall_after = 1_500_000
    cloud.deploy(2, (large, "scale", "2.0.0"))
    wait_until(lambda: list(serving.home.glob("downloads/*.part")), "the download begins")
    wait_until(
        lambda: next(serving.home.glob("downloads/*.part")).stat().st_size > 0, "bytes arrive"
    )
    cloud.stop()
    cloud.stall_after, cloud.etag_suffix = 0, "-changed"
    cloud.start()
    cloud.wait_report(2, "SUCCEEDED")
    assert serving.scale() == 5


def _fails(serving: Device, cloud: Cloud, generation: int = 2) -> str:
    """Return why the update failed; the device still serves what it had."""
    report = cloud.wait_report(generation, "FAILED")
    assert [r["version"] for r in report["running"]] == ["1.0.0"]
    assert serving.scale() == 2
    assert "\n" not in report["error"]
    return str(report["error"])


def test_corrupted_artifact_fails(serving: Device, cloud: Cloud, bundles: dict[int, Path]) -> None:
    digest = digest_file(bundles[3])
    data = bytearray(bundles[3].read_bytes())
    data[len(data) // 2] ^= 1
    cloud.served[digest] = bytes(data)
    cloud.desire(2, [component(bundles[3], "scale", "2.0.0")])
    assert f"artifact {digest} arrived with another digest" in _fails(serving, cloud)
    assert not list(serving.home.glob("downloads/*"))


def test_shorter_artifact_than_announced_fails(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    cloud.served[digest_file(bundles[3])] = bundles[3].read_bytes()[:-10]
    cloud.desire(2, [component(bundles[3], "scale", "2.0.0")])
    assert "bytes at the cloud" in _fails(serving, cloud)


def test_golden_mismatch_fails_and_is_not_tried_again(
    serving: Device, cloud: Cloud, tmp_path: Path, bundles: dict[int, Path]
) -> None:
    cloud.deploy(2, (scale_bundle(tmp_path, 3, off_by=0.5), "scale", "2.0.0"))
    assert "does not reproduce its golden outputs" in _fails(serving, cloud)
    assert serving.stop() == 0
    fetched = len(cloud.ranges())
    cloud.reports.clear()
    serving.start().wait_ready()
    assert "golden" in _fails(serving, cloud)
    assert len(cloud.ranges()) == fetched
    assert not any(r["status"] == "IN_PROGRESS" for r in cloud.reports)
    cloud.deploy(3, (bundles[4], "scale", "3.0.0"))
    cloud.wait_report(3, "SUCCEEDED")
    assert serving.scale() == 4


def test_one_bad_component_of_two_changes_nothing(
    serving: Device, cloud: Cloud, tmp_path: Path, bundles: dict[int, Path]
) -> None:
    bad = scale_bundle(tmp_path, 3, off_by=0.5)
    cloud.deploy(2, (bundles[4], "scale", "2.0.0"), (bad, "other", "1.0.0"))
    assert "golden" in _fails(serving, cloud)
    assert serving.request("GET", "/v2/models/other").status_code == 404


def test_full_disk_fails_before_a_byte_is_fetched(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    fetched = len(cloud.ranges())
    cloud.desire(2, [component(bundles[3], "scale", "2.0.0", size=1 << 60)])
    assert "MiB are free" in _fails(serving, cloud)
    assert len(cloud.ranges()) == fetched


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": "sha256:../../etc/passwd"}, "is no sha256"),
        ({"path": "http://elsewhere.example/edge/v1/artifacts/a"}, "not on this cloud"),
        ({"path": "/edge/v1/artifacts/sha256:0"}, "404"),
        ({"size": 0}, "0 bytes"),
    ],
)
def test_impossible_component_fails(
    serving: Device, cloud: Cloud, bundles: dict[int, Path], changes: dict[str, str], reason: str
) -> None:
    cloud.desire(2, [component(bundles[3], "scale", "2.0.0", **changes)])
    assert reason in _fails(serving, cloud)


def test_newer_generation_supersedes_a_stalled_download(
    serving: Device, cloud: Cloud, large: Path, bundles: dict[int, Path]
) -> None:
    cloud.stall_after = 1_000_000
    cloud.deploy(2, (large, "scale", "2.0.0"))
    cloud.wait_report(2, "IN_PROGRESS")
    wait_until(lambda: list(serving.home.glob("downloads/*.part")), "the download begins")
    cloud.deploy(3, (bundles[4], "scale", "3.0.0"))
    cloud.wait_report(3, "SUCCEEDED", seconds=10)
    assert serving.scale() == 4
    assert not any(r["generation"] == 2 and r["status"] != "IN_PROGRESS" for r in cloud.reports)


def test_killed_in_a_download_it_serves_offline_and_then_resumes(
    serving: Device, cloud: Cloud, large: Path
) -> None:
    cloud.stall_after = 2_000_000
    cloud.deploy(2, (large, "scale", "2.0.0"))
    wait_until(lambda: list(serving.home.glob("downloads/*.part")), "the download begins")
    part = next(serving.home.glob("downloads/*.part"))
    wait_until(lambda: part.stat().st_size >= 1_000_000, "bytes arrive")
    serving.kill()
    cloud.stop()
    have = part.stat().st_size
    serving.start().wait_ready()
    assert serving.scale() == 2
    cloud.stall_after = 0
    cloud.start()
    cloud.wait_report(2, "SUCCEEDED")
    assert serving.scale() == 5
    assert f"bytes={have}-" in cloud.ranges()


def test_killed_anywhere_in_an_update_it_serves_old_or_new(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    delays = random.Random(8)
    was = 2.0
    for generation in range(2, 8):
        will = 3 if generation % 2 == 0 else 4
        cloud.reports.clear()
        cloud.deploy(generation, (bundles[will], "scale", f"{generation}.0.0"))
        cloud.wait_report(generation, "IN_PROGRESS")
        time.sleep(delays.uniform(0, 0.12))
        serving.kill()
        cloud.stop()
        serving.start().wait_ready()
        assert serving.scale() in (was, will), generation
        cloud.start()
        cloud.wait_report(generation, "SUCCEEDED")
        assert serving.scale() == will
        was = will


def test_damaged_current_artifact_falls_back_and_heals(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    cloud.deploy(2, (bundles[3], "scale", "2.0.0"))
    cloud.wait_report(2, "SUCCEEDED")
    assert serving.stop() == 0
    cloud.stop()
    name = digest_file(bundles[3]).replace(":", "-")
    artifact = serving.home / "artifacts" / name / "bundle.tar.gz"
    artifact.write_bytes(artifact.read_bytes()[:-1])
    serving.start().wait_ready()
    assert serving.scale() == 2
    cloud.reports.clear()
    cloud.start()
    wait_until(lambda: serving.scale() == 3, "the artifact is fetched again")


def test_model_that_ends_the_agent_is_given_up(
    serving: Device, cloud: Cloud, bundles: dict[int, Path]
) -> None:
    assert serving.stop() == 0
    outcome = '{"generation": 2, "deployment_id": "d", "status": "IN_PROGRESS", "probes": 3}'
    (serving.home / "state" / "outcome.json").write_text(outcome)
    cloud.deploy(2, (bundles[3], "scale", "2.0.0"))
    serving.start().wait_ready()
    assert "ended 3 times" in _fails(serving, cloud)


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"MODEL_DELIVERY_EDGE_TOKEN": "wrong"}, "make a new one-time token"),
        ({}, "set MODEL_DELIVERY_EDGE_TOKEN or --token-file"),
        ({"MODEL_DELIVERY_EDGE_API_TOKEN": " "}, "MODEL_DELIVERY_EDGE_API_TOKEN is empty"),
    ],
)
def test_cannot_start(device: Device, env: dict[str, str], reason: str) -> None:
    device.env = env
    device.start()
    assert device.process is not None
    assert device.process.wait(20) == 1
    last = device.log.strip().splitlines()[-1]
    assert last.startswith("model-delivery-edge: ")
    assert reason in last
    assert "Traceback" not in device.log


def test_port_in_use_and_home_in_use(serving: Device, tmp_path: Path) -> None:
    second = Device(tmp_path / "second", serving.cloud, port=serving.port).start()
    assert second.process is not None
    assert second.process.wait(20) == 1
    assert f"cannot listen on 127.0.0.1:{serving.port}" in second.log
    third = Device(serving.home, serving.cloud).start()
    assert third.process is not None
    assert third.process.wait(20) == 1
    assert "another agent uses this folder" in third.log


def test_api_token_is_made_when_none_is_given(device: Device) -> None:
    device.env = {"MODEL_DELIVERY_EDGE_TOKEN": ONE_TIME_TOKEN}
    device.start().wait_ready()
    path = device.home / "api.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text().strip()
    assert device.request("GET", "/v2", token=token).status_code == 200
    assert device.request("GET", "/v2").status_code == 401
    assert token not in device.log


def test_resident_memory(serving: Device) -> None:
    assert serving.process is not None
    status = Path(f"/proc/{serving.process.pid}/status").read_text()
    resident = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS:"))
    assert resident / 1024 < 120, f"{resident / 1024:.0f} MiB resident"
