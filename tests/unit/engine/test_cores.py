"""A container's CPU limit counts where it is less than the cores that are seen."""

from pathlib import Path

import pytest
from model_delivery_engine import cores
from model_delivery_engine.cores import usable_cores


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)))
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_PROC", tmp_path / "cgroup")
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)],
)
@pytest.mark.parametrize("path", ["/", "/kubepods/pod7"])
@pytest.mark.parametrize("where", ["", "kubepods"])
def test_a_quota_of_version_2(
    machine: Path, quota: str, expected: int, path: str, where: str
) -> None:
    put(machine / "cgroup", f"0::{path}")
    put(machine / where / "cpu.max", quota)
    assert usable_cores() == (64 if where and path == "/" else expected)


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("250000", 3)])
@pytest.mark.parametrize("path", ["/", "/docker/7"])
def test_a_quota_of_version_1(machine: Path, quota: str, expected: int, path: str) -> None:
    put(machine / "cgroup", f"5:memory:{path}\n4:cpu,cpuacct:{path}")
    put(machine / "cpu,cpuacct" / "cpu.cfs_quota_us", quota)
    put(machine / "cpu,cpuacct" / "cpu.cfs_period_us", "100000")
    assert usable_cores() == expected


def test_where_there_are_no_cgroups(machine: Path) -> None:
    assert usable_cores() == 64
