import asyncio
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from model_delivery_edge.artifacts import Artifacts
from model_delivery_edge.errors import DeploymentError, RequestError
from model_delivery_edge.oip_tensors import read_tensor, write_tensor
from model_delivery_edge.runtime import Candidate, Runtime, load_candidate
from model_delivery_edge.wire import Desired
from model_delivery_engine.errors import ArchiveError, ParityError
from model_delivery_engine.tensors import TensorSpec

from tests.edge_device import component, scale_bundle


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts", tmp_path / "downloads")


def candidate(artifacts: Artifacts, archive: Path, version: str) -> Candidate:
    data = {"generation": 1, "components": [component(archive, "scale", version)]}
    described = Desired.from_json(data).components[0]
    artifacts.part(described.artifact.digest).write_bytes(archive.read_bytes())
    artifacts.adopt(described.artifact.digest)
    return load_candidate(described, artifacts, archive.parent)


async def test_swaps_under_load_lose_and_mix_nothing(tmp_path: Path, artifacts: Artifacts) -> None:
    factors = (2.0, 3.0)
    candidates = [candidate(artifacts, scale_bundle(tmp_path, f), f"{f}") for f in factors]
    runtime = Runtime(threads=2)
    runtime.switch([candidates[0].served])
    done = asyncio.Event()

    async def client() -> int:
        count = 0
        while not done.is_set():
            served = runtime.find("scale")
            inputs = {"x": np.ones((1, 4), np.float32)}
            outputs = await runtime.run(lambda s=served, i=inputs: s.model.run(i))  # type: ignore[misc]
            assert float(outputs["y"][0, 0]) == float(served.version)
            count += 1
        return count

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for turn in range(50):
        chosen = candidates[(turn + 1) % 2]
        runtime.switch([chosen.served])
        await runtime.prove(chosen)
    done.set()
    assert sum(await asyncio.gather(*clients)) >= 8
    runtime.close()


async def test_retired_model_is_let_go(tmp_path: Path, artifacts: Artifacts) -> None:
    runtime = Runtime(threads=1)
    old = candidate(artifacts, scale_bundle(tmp_path, 2), "1")
    runtime.switch([old.served])
    await runtime.prove(old)
    gone = weakref.ref(old.served.model)
    del old
    runtime.switch([])
    gc.collect()
    assert gone() is None
    runtime.close()


async def test_prove_notices_who_answers(tmp_path: Path, artifacts: Artifacts) -> None:
    runtime = Runtime(threads=1)
    one = candidate(artifacts, scale_bundle(tmp_path, 2), "1")
    two = candidate(artifacts, scale_bundle(tmp_path, 3), "1")
    runtime.switch([one.served])
    with pytest.raises(DeploymentError, match="is answered for by"):
        await runtime.prove(two)
    runtime.switch([])
    with pytest.raises(RequestError, match="deploy one first"):
        await runtime.prove(two)
    runtime.close()


def test_wrong_golden_outputs_are_no_candidate(tmp_path: Path, artifacts: Artifacts) -> None:
    archive = scale_bundle(tmp_path / "bundle", 2, off_by=0.1)
    with pytest.raises(ParityError):
        candidate(artifacts, archive, "1")
    assert not [each for each in archive.parent.iterdir() if each.is_dir()]


def test_artifact_that_is_no_bundle_is_no_candidate(tmp_path: Path, artifacts: Artifacts) -> None:
    archive = tmp_path / "bundle" / "noise.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"noise")
    with pytest.raises(ArchiveError, match="corrupt"):
        candidate(artifacts, archive, "1")


def test_strings_are_read_and_written() -> None:
    spec = TensorSpec("text", "BYTES", (-1,))
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["ä", ""]}
    array = read_tensor(tensor, spec)
    assert array.dtype == object
    assert write_tensor(array, spec) == tensor
    with pytest.raises(RequestError, match="its data has integers"):
        read_tensor({**tensor, "data": ["a", 1]}, spec)


@pytest.mark.parametrize("data", [[], [[], []]])
def test_empty_tensors(data: list[object]) -> None:
    spec = TensorSpec("x", "FP32", (-1, -1))
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 0], "data": data}
    assert read_tensor(tensor, spec).shape == (2, 0)


def test_scalar() -> None:
    spec = TensorSpec("x", "INT64", ())
    tensor = {"name": "x", "datatype": "INT64", "shape": [], "data": [7]}
    assert write_tensor(read_tensor(tensor, spec), spec) == tensor
