"""What a model in halves answers where halves are computed in halves, as no processor here does."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.graph import complete_types
from model_delivery_engine.measurements import Candidate
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.quantize.floating import to_fp16
from model_delivery_engine.quantize.halves import find_overflow, round_results
from model_delivery_engine.runtime import Model, open_session
from model_delivery_engine.targets import Target
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph

PIXELS = "s3://b/pixels.npz"
WEIGHTS = (np.random.default_rng(0).normal(size=(64, 64)) * 3).astype(np.float32)
ROWS = {"x": (TensorProto.FLOAT, ["n", 64])}


def squares(path: Path) -> Path:
    """Write products whose squares are beyond 65,504 for pixels, though their answers are not."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["sums"], name="sum"),
        helper.make_node("Mul", ["sums", "sums"], ["powers"], name="square"),
        helper.make_node("Mul", ["powers", "small"], ["y"], name="scale"),
    ]
    constants = {"weights": WEIGHTS, "small": np.float32(1e-6)}
    return save_graph(path, nodes, ROWS, {"y": (TensorProto.FLOAT, ["n", 64])}, constants)


def masked(path: Path) -> Path:
    """Write attention's usual mask: what is masked has the lowest number there is added to it."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["sums"]),
        helper.make_node("Add", ["sums", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"], axis=-1),
    ]
    mask = np.where(np.arange(64) % 2, np.finfo(np.float32).min, 0).astype(np.float32)
    constants = {"weights": WEIGHTS / 20, "mask": mask}
    return save_graph(path, nodes, ROWS, {"y": (TensorProto.FLOAT, ["n", 64])}, constants)


Halved = Callable[..., Candidate]


@pytest.fixture
def halved(tmp_path: Path, target: Target, pack: Callable[[Path], Path]) -> Halved:
    """Compile a model with fp16 allowed; return that candidate."""

    def _compile(model: Path, largest: float) -> Candidate:
        samples = np.random.default_rng(1).random((64, 64)).astype(np.float32) * largest
        np.savez(tmp_path / "pixels.npz", x=samples)
        options = json.dumps({"precision": "fp16", "objective": "size", "calibration": PIXELS})
        request = CompilationRequest(
            "ONNX", '{"x": [-1, 64]}', target, "m", "s3://b/m.tar.gz", options
        )
        files = {PIXELS: tmp_path / "pixels.npz"}
        manifest = compile_model(pack(model), tmp_path / "out.tar.gz", request, files=files)
        return next(each for each in manifest.candidates if each.name == "fp16")

    return _compile


def test_results_beyond_the_range_of_halves_refuse_them(tmp_path: Path, halved: Halved) -> None:
    """ONNX Runtime widens both products here, so that the model itself answers well."""
    found = halved(squares(tmp_path / "m" / "model.onnx"), 255.0)
    assert found.status == "rejected"
    for text in ("operator 'square' (Mul) reaches", "halves end at 65,504", "scale the model's"):
        assert text in (found.reason or "")
    fine = halved(squares(tmp_path / "n" / "model.onnx"), 1.0)
    assert fine.status != "rejected", fine.reason


def test_a_mask_beyond_the_range_is_no_fault(tmp_path: Path, halved: Halved) -> None:
    found = halved(masked(tmp_path / "m" / "model.onnx"), 1.0)
    assert found.status != "rejected", found.reason
    assert (found.snr_db or 0.0) > 40


def test_every_result_is_rounded(tmp_path: Path) -> None:
    typed, half, rounded = (tmp_path / f"{name}.onnx" for name in ("typed", "half", "rounded"))
    complete_types(squares(tmp_path / "model.onnx"), typed)
    to_fp16(typed, half)
    round_results(typed, half, rounded)
    x = np.random.default_rng(2).random((4, 64)).astype(np.float32)
    got = Model(open_session(rounded, unoptimised_options()), "rounded").run({"x": x})["y"]
    sums = x.astype(np.float16).astype(np.float32) @ WEIGHTS.astype(np.float16).astype(np.float32)
    powers = np.square(sums.astype(np.float16))
    wanted = (powers.astype(np.float32) * np.float32(np.float16(1e-6))).astype(np.float16)
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-7)
    assert (got == got.astype(np.float16)).all()
    assert find_overflow(typed, [{"x": x}], tmp_path / "sizes.onnx") is None
    words = find_overflow(typed, [{"x": x}, {"x": x * 255}], tmp_path / "sizes.onnx")
    assert words is not None
    assert "'square'" in words
