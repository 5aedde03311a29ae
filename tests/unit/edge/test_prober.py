import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from model_delivery_edge.errors import DeploymentError, ProbeError
from model_delivery_edge.probe import prober
from model_delivery_edge.probe.limits import Limits
from model_delivery_engine.process_tree import tree_of

from tests.edge_device import scale_bundle


def run(archive: Path, work: Path, **configuration: Any) -> dict[str, Any]:
    limits = Limits.of({"probe": configuration})
    return asyncio.run(prober.probe(archive, "scale 1.0.0", limits, work))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_measures_what_passes(tmp_path: Path, work: Path) -> None:
    result = run(scale_bundle(tmp_path, 2), work, runs=5)
    assert result["runs"] == 5
    assert 0 < result["median_ms"] <= result["worst_ms"]
    assert result["peak_bytes"] > 1 << 20
    assert result["versions"]["onnxruntime"]
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("factor", "configuration", "why"),
    [
        (float("nan"), {}, "answers NaN or infinity in its output 'y'"),
        (float("inf"), {}, "answers NaN or infinity"),
        (2, {"memoryBytes": 1}, "MiB of memory while it was probed"),
        (2, {"seconds": 0.01}, "was not probed within 0.01 s"),
        (2, {"latencyMs": 1e-9}, "ms a run on this device"),
    ],
)
def test_refuses(
    tmp_path: Path, work: Path, factor: float, configuration: dict[str, Any], why: str
) -> None:
    before = set(tree_of(os.getpid()))  # other tests' servers may be among them
    with pytest.raises(ProbeError, match=why):
        run(scale_bundle(tmp_path, factor), work, **configuration)
    assert list(work.iterdir()) == []
    assert set(tree_of(os.getpid())) <= before


def test_a_model_that_ends_its_process_is_refused(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(pids: Any) -> int:
        os.kill(pids[0], signal.SIGSEGV)
        return 0

    monkeypatch.setattr(prober, "memory_of", crash)
    with pytest.raises(ProbeError, match="signal 11"):
        run(scale_bundle(tmp_path, 2), work)


@pytest.mark.parametrize(
    "given", [["x"], {"later": 1}, {"seconds": 0}, {"runs": True}, {"allowNonFinite": 1}]
)
def test_wrong_limits_are_refused_by_name(given: Any) -> None:
    with pytest.raises(DeploymentError, match=r"configuration\.probe"):
        Limits.of({"probe": given})
