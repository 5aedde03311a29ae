"""Lower precision on a real network: a convolutional classifier of the UCI digits."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.compile.selection import by_preference, by_size, mark_dominated
from model_delivery_engine.errors import OptionsError
from model_delivery_engine.manifest import Manifest
from model_delivery_engine.measurements import Candidate
from model_delivery_engine.options import parse_compiler_options
from model_delivery_engine.quantize.metric import drop_between, make_metric
from model_delivery_engine.quantize.samples import Samples, load_samples
from model_delivery_engine.runtime import Model, check_golden, open_session, session_options
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import TensorSpec
from onnx import TensorProto, helper
from sklearn.datasets import load_digits

from tests.unit.engine.conftest import save_graph, save_linear

Digits = tuple[Any, Any]
Compile = Callable[..., Manifest]
CALIBRATION, SAMPLES = "s3://b/calibration.npz", "s3://b/samples.npz"
INPUTS = (TensorSpec("image", "FP32", (-1, 1, 8, 8)),)


@pytest.fixture(scope="module")
def digits() -> Digits:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """Write a network with random convolutions and a trained last layer; 97 % and more are right.

    The second convolution has one channel a thousand times the size of the others: 8 bits for all
    channels' activations leave the others nothing, so quantising it costs accuracy.
    """
    generator = np.random.default_rng(0)
    images, labels = digits
    first = generator.normal(size=(32, 1, 3, 3)).astype(np.float32)
    second = (generator.normal(size=(48, 32, 3, 3)) / 17).astype(np.float32)
    second[0] *= 1000
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    last, bias = np.zeros((48 * 16, 10), np.float32), np.zeros(10, np.float32)
    _save(path, first, second, last, bias)
    features = Model(_session(path), "features").run({"image": images})["features"]
    scale = features.std(axis=0) + 1e-6
    scaled = np.c_[features / scale, np.ones(len(features))]
    ridge = scaled.T @ scaled + 3.0 * np.eye(scaled.shape[1])
    solved = np.linalg.solve(ridge, scaled.T @ np.eye(10)[labels]).astype(np.float32)
    last, bias = solved[:-1] / scale[:, None], solved[-1]
    _save(path, first, second, last.astype(np.float32), bias)
    return path


def _session(path: Path) -> Any:
    return open_session(path, session_options())


def _save(path: Path, first: Any, second: Any, last: Any, bias: Any) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["features"]),
        helper.make_node("Gemm", ["features", "last", "bias"], ["scores"]),
    ]
    constants = {"first": first, "second": second, "last": last, "bias": bias}
    outputs = {
        "scores": (TensorProto.FLOAT, ["n", 10]),
        "features": (TensorProto.FLOAT, ["n", 768]),
    }
    if last.any():
        del outputs["features"]
    image = {"image": (TensorProto.FLOAT, ["n", 1, 8, 8])}
    save_graph(path, nodes, image, outputs, constants)


@pytest.fixture
def quantise(
    tmp_path: Path, target: Target, network: Path, digits: Digits
) -> Callable[..., Manifest]:
    """Compile the network with options; the bundle is `tmp_path / "bundle.tar.gz"`."""
    images, labels = digits
    np.savez(tmp_path / "calibration.npz", image=images[:100])
    np.savez(tmp_path / "samples.npz", image=images[-400:], labels=labels[-400:])
    files = {CALIBRATION: tmp_path / "calibration.npz", SAMPLES: tmp_path / "samples.npz"}

    def _quantise(more: dict[str, Path] | None = None, **options: Any) -> Manifest:
        pack_archive(network.parent, tmp_path / "model.tar.gz")
        config = '{"image": [-1, 1, 8, 8]}'
        request = CompilationRequest(
            "ONNX", config, target, "digits", "s3://b/m.tar.gz", json.dumps(options)
        )
        bundle = tmp_path / "bundle.tar.gz"
        return compile_model(
            tmp_path / "model.tar.gz", bundle, request, files={**files, **(more or {})}
        )

    return _quantise


def named(manifest: Manifest) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in manifest.candidates}


def test_int8_is_smaller_and_its_difference_is_recorded(quantise: Compile) -> None:
    found = named(quantise(precision="int8", calibration=CALIBRATION, min_snr_db=-20))
    assert set(found) >= {"source", "fp32", "fp16", "int8-dynamic", "int8-static"}
    sizes = {name: candidate.size_bytes or 0 for name, candidate in found.items()}
    assert sizes["int8-static"] < sizes["fp16"] < sizes["fp32"]
    assert (found["fp16"].snr_db or 0) > 40
    assert (found["int8-static"].snr_db or 100) < (found["fp16"].snr_db or 0)
    assert [each.status for each in found.values()].count("chosen") == 1


def test_the_smallest_is_chosen_where_size_is_the_objective(
    tmp_path: Path, quantise: Compile
) -> None:
    manifest = quantise(precision="int8", calibration=CALIBRATION, min_snr_db=-20, objective="size")
    chosen = next(each for each in manifest.candidates if each.status == "chosen")
    fast = [
        each
        for each in manifest.candidates
        if each.status != "rejected" and min(each.speedup or 0, each.throughput or 0) >= 1
    ]
    assert chosen.size_bytes is not None
    assert all(chosen.size_bytes <= 1.02 * (each.size_bytes or 0) for each in fast)
    assert manifest.quantisation == (chosen.name if chosen.precision != "fp32" else "none")
    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    check_golden(Model.load(bundle), bundle)


def test_an_accuracy_bound_reverts_the_operator_that_breaks_it(quantise: Compile) -> None:
    unbounded = named(quantise(precision="int8", int8="static", samples=SAMPLES))["int8-static"]
    assert (unbounded.drop or 0) > 0.05
    bounded = quantise(precision="int8", int8="static", samples=SAMPLES, max_accuracy_drop=0.01)
    found = named(bounded)["int8-static"]
    assert found.drop is not None
    assert found.drop <= 0.01
    assert found.reverted
    assert found.drop_low is not None
    assert found.drop_high is not None
    assert found.drop_low <= found.drop <= found.drop_high
    # A quarter of 400 calibrated, half of the rest was searched on.
    assert (found.samples, found.part) == (150, "held out")
    assert found.drop_high > 0.01
    assert "more samples say more" in (found.reason or "") or found.status == "dominated"
    assert bounded.metric == "accuracy"
    assert 0.9 < (named(bounded)["source"].metric or 0) <= 1


def test_a_bound_that_nothing_holds_keeps_the_best_found_and_delivers_fp32(
    quantise: Compile, digits: Digits, tmp_path: Path
) -> None:
    images, _ = digits
    exact = tmp_path / "exact.npz"
    manifest = quantise(precision="fp32")
    assert manifest.quantisation == "none"
    opened = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "fp32")
    # The model's own answers as targets: any rounding moves away from them.
    labels = Model(_session(opened.model_path), "m").run({"image": images[-400:]})["scores"]
    np.savez(exact, image=images[-400:], labels=labels)
    manifest = quantise(
        {"s3://b/exact.npz": exact},
        precision="int8", int8="static", samples="s3://b/exact.npz", metric="mae",
        max_accuracy_drop=0.0,
    )  # fmt: skip
    found = named(manifest)["int8-static"]
    assert found.status in ("rejected", "dominated")
    assert found.drop is not None
    assert manifest.quantisation == "none"


def test_the_ort_format_for_small_devices(tmp_path: Path, quantise: Compile) -> None:
    manifest = quantise(format="ort", precision="int8", calibration=CALIBRATION)
    assert manifest.format == "ort"
    assert "source" not in named(manifest)
    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    assert bundle.model_path.name == "model.ort"
    assert bundle.model_path.read_bytes()[4:8] == b"ORTM"
    check_golden(Model.load(bundle), bundle)


def test_a_metric_of_the_users_own(tmp_path: Path, quantise: Compile) -> None:
    nodes = [
        helper.make_node("ArgMax", ["outputs"], ["best"], axis=1, keepdims=0),
        helper.make_node("Equal", ["best", "labels"], ["right"]),
        helper.make_node("Cast", ["right"], ["score"], to=TensorProto.FLOAT),
    ]
    path = save_graph(
        tmp_path / "metric" / "metric.onnx",
        nodes,
        {"outputs": (TensorProto.FLOAT, ["n", 10]), "labels": (TensorProto.INT64, ["n"])},
        {"score": (TensorProto.FLOAT, ["n"])},
    )
    own = quantise({"s3://b/metric.onnx": path}, samples=SAMPLES, metric="s3://b/metric.onnx")
    named_one = quantise(samples=SAMPLES, metric="accuracy")
    assert own.metric == "s3://b/metric.onnx"
    assert named(own)["source"].metric == named(named_one)["source"].metric


def test_a_model_that_cannot_be_quantised_stays_fp32(
    tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> None:
    archive = pack(save_linear(tmp_path / "m" / "model.onnx"))
    request = CompilationRequest(
        "ONNX", '{"features": [-1, 4]}', target, "m", "s3://b/m", '{"precision": "int8"}'
    )
    manifest = compile_model(archive, tmp_path / "bundle.tar.gz", request)
    assert sum(each.status == "chosen" for each in manifest.candidates) == 1
    assert all(each.reason for each in manifest.candidates if each.status == "rejected")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"precision": "int4"}, 'precision is "int4"; use one of fp32, fp16, int8'),
        ({"max_accuracy_drop": 0.1}, "needs labelled samples"),
        ({"max_accuracy_drop": True, "samples": SAMPLES}, "max_accuracy_drop is true"),
        ({"max_accuracy_drop": 2, "samples": SAMPLES}, "from 0 to 1"),
        ({"max_accuracy_drop": -1, "samples": SAMPLES}, "from 0 up"),
        ({"precision": "int8", "int8": "static"}, "needs data to calibrate on"),
        ({"mattr": ["+neon"]}, "'mattr', which steers Neo's own code generator"),
        ({"gpu-code": "sm_72"}, "option of an accelerator's compiler"),
        ({"colour": "red"}, "'colour', which is unknown; the options are precision"),
        ({"samples": ""}, 'samples is ""; give a text'),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionsError) as caught:
        parse_compiler_options(json.dumps(options))
    assert why in str(caught.value)


def test_an_error_may_be_bounded_in_its_own_unit() -> None:
    options = {"max_accuracy_drop": 50, "samples": SAMPLES, "metric": "mae"}
    assert parse_compiler_options(json.dumps(options)).max_accuracy_drop == 50


def test_neos_own_data_types_are_understood() -> None:
    assert parse_compiler_options('{"dtype": "long"}').dtype == "int64"
    assert parse_compiler_options(None).dtype == "float32"


def test_what_the_options_name_must_have_been_fetched(quantise: Compile) -> None:
    with pytest.raises(OptionsError, match=r"s3://b/elsewhere\.npz, which was not fetched"):
        quantise(precision="int8", calibration="s3://b/elsewhere.npz")


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"picture": np.zeros((4, 1, 8, 8), np.float32)}, "no array for input 'image'"),
        ({"image": np.zeros((4, 8, 8), np.float32)}, "has shape [4, 8, 8]"),
        ({"image": np.zeros((4, 1, 9, 8), np.float32)}, "sample of 'image' has shape [1, 9, 8]"),
        ({"image": np.zeros((0, 1, 8, 8), np.float32), "labels": np.zeros(0)}, "or none"),
        ({"image": np.full((4, 1, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"image": np.zeros((4, 1, 8, 8), np.complex64)}, "complex64"),
        ({"image": np.zeros((4, 1, 8, 8), np.float32)}, "no array 'labels'"),
        (
            {"image": np.zeros((4, 1, 8, 8), np.float32), "labels": np.zeros(3)},
            "different numbers of samples",
        ),
        ({"image": np.array([{}], dtype=object)}, "without pickles"),
    ],
)
def test_samples_that_do_not_fit_are_named(
    tmp_path: Path, arrays: dict[str, Any], why: str
) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(OptionsError) as caught:
        load_samples(tmp_path / "s.npz", INPUTS, "labels")
    assert why in str(caught.value)


def test_samples_of_a_model_without_one_batch_are_refused_with_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 64)), state=np.zeros((4, 2, 1, 32)))
    inputs = [TensorSpec("x", "FP32", (1, 64)), TensorSpec("state", "FP32", (2, 1, 32))]
    with pytest.raises(OptionsError, match=r"first dimension.*\{'x': 1, 'state': 2\}"):
        load_samples(tmp_path / "s.npz", inputs)


def test_batches_are_of_the_models_size() -> None:
    samples = Samples({"x": np.arange(70)})
    assert [len(batch["x"]) for batch in samples.batches(None)] == [32, 32, 6]
    assert [len(batch["x"]) for batch in samples.batches(20)] == [20, 20, 20]


def test_the_interval_of_a_drop_narrows_with_samples() -> None:
    generator = np.random.default_rng(0)
    widths = []
    for count in (100, 10_000):
        reference = np.ones(count)
        scores = (generator.random(count) > 0.03).astype(float)
        drop = drop_between(reference, scores)
        assert drop.low <= 0.03 <= drop.high
        widths.append(drop.high - drop.low)
    assert widths[1] < widths[0] / 5


def test_each_sample_lost_moves_the_interval_up_from_the_first() -> None:
    reference = np.ones(100)
    drops = []
    for lost in range(4):
        scores = reference.copy()
        scores[:lost] = 0
        drops.append(drop_between(reference, scores))
    ends = [each.high for each in drops]
    # Tango's interval, as its paper's method gives it: z² / (n + z²) where nothing changed.
    assert ends == sorted(ends)
    assert ends == pytest.approx([0.0370, 0.0545, 0.0700, 0.0845], abs=1e-4)
    assert drops[0].low == -drops[0].high
    assert all(-0.04 < each.low < each.value for each in drops)


def test_what_is_gained_elsewhere_widens_the_interval() -> None:
    reference = np.r_[np.zeros(20), np.ones(80)]
    scores = np.r_[np.ones(5), np.zeros(15), np.zeros(7), np.ones(73)]
    drop = drop_between(reference, scores)
    assert drop.value == pytest.approx(0.02)
    assert (drop.low, drop.high) == pytest.approx((-0.0537, 0.0943), abs=2e-3)
    every = drop_between(np.ones(9), np.zeros(9))
    assert (every.value, every.high) == (1.0, 1.0)


def test_an_unknown_metric_or_output_is_named() -> None:
    outputs = (TensorSpec("scores", "FP32", (-1, 10)),)
    with pytest.raises(OptionsError, match="metric 'bleu' is unknown; use one of accuracy"):
        make_metric("bleu", None, None, outputs)
    with pytest.raises(OptionsError, match="output 'loss' is none of the model's"):
        make_metric("accuracy", None, "loss", outputs)


def candidate(name: str, size: int, speedup: float, snr: float | None) -> Candidate:
    return Candidate(
        name, "int8", "kept", size_bytes=size, speedup=speedup, snr_db=snr, throughput=speedup
    )


def test_the_front_of_size_speed_and_accuracy() -> None:
    candidates = [
        candidate("source", 100, 1.0, None),
        candidate("static", 25, 2.0, 20.0),
        candidate("worse", 26, 1.9, 15.0),
        candidate("small", 20, 0.5, 30.0),
        dataclasses.replace(candidate("bad", 1, 9.0, 1.0), status="rejected", reason="noise"),
    ]
    marked = {each.name: each for each in mark_dominated(candidates)}
    assert [n for n, each in marked.items() if each.status == "kept"] == [
        "source",
        "static",
        "small",
    ]
    assert marked["worse"].reason == "static is no larger, no slower and as accurate"
    assert [each.name for each in by_preference(list(marked.values()), "latency")] == [
        "static",
        "source",
        "small",
    ]
    # What is smallest is still no choice while it is slower than plain ONNX Runtime.
    assert by_preference(list(marked.values()), "size")[0].name == "static"


def test_times_of_another_architecture_decide_nothing() -> None:
    candidates = [
        Candidate("source", "fp32", "kept", size_bytes=100, speedup=1.0, throughput=1.0),
        Candidate("fp32", "fp32", "kept", size_bytes=120, speedup=3.0, throughput=3.0),
        Candidate("fp16", "fp16", "kept", size_bytes=20, speedup=0.3, throughput=0.3, snr_db=60.0),
        candidate("static", 30, 0.5, 20.0),
        candidate("dense", 30, 0.4, 25.0),
        candidate("dynamic", 40, 2.0, 22.0),
    ]
    marked = mark_dominated(candidates, timed=False)
    reasons = {each.name: each.reason for each in marked if each.status == "dominated"}
    assert reasons == {
        "static": "dense is no larger and as accurate",
        "dynamic": "dense is no larger and as accurate",
    }
    assert [each.name for each in by_size(candidates, "latency")] == [
        "dense", "static", "dynamic", "fp32", "source", "fp16",
    ]  # fmt: skip
    assert by_size(candidates, "size")[0].name == "fp16"


def test_what_is_slower_on_every_core_comes_after_the_source() -> None:
    alone = dataclasses.replace(candidate("alone", 25, 2.0, 20.0), throughput=0.64)
    source, other = candidate("source", 100, 1.0, None), candidate("other", 90, 1.1, 20.0)
    order = by_preference([source, alone, other], "latency")
    assert [each.name for each in order] == ["other", "source", "alone"]
    crowd = dataclasses.replace(candidate("crowd", 90, 1.0, 20.0), throughput=1.5)
    assert by_preference([source, other, crowd], "throughput")[0].name == "crowd"
    assert by_preference([source, other, crowd], "latency")[0].name == "other"


def test_equal_speeds_go_to_the_more_accurate() -> None:
    candidates = [candidate("rough", 10, 1.01, 20.0), candidate("exact", 40, 1.0, None)]
    assert by_preference(candidates, "latency")[0].name == "exact"


def test_a_cached_compilation_comes_back_under_its_new_name(
    tmp_path: Path, target: Target, network: Path
) -> None:
    settings = CompilerSettings(tmp_path / "environments", cache=tmp_path / "cache")
    pack_archive(network.parent, tmp_path / "model.tar.gz")

    def run(name: str, options: str | None = None) -> Manifest:
        request = CompilationRequest(
            "ONNX", '{"image": [-1, 1, 8, 8]}', target, name, f"s3://b/{name}", options
        )
        bundle = tmp_path / f"{name}.bundle"
        return compile_model(tmp_path / "model.tar.gz", bundle, request, settings=settings)

    first, again = run("first"), run("again")
    assert (again.name, again.source.uri) == ("again", "s3://b/again")
    assert again.latency == first.latency
    assert open_bundle(tmp_path / "again.bundle", tmp_path / "opened").manifest == again
    assert run("other", '{"objective": "size"}').latency != first.latency
    for kept in (tmp_path / "cache").iterdir():
        kept.write_bytes(kept.read_bytes()[:-10])
    assert run("third").latency != first.latency


def test_the_profile_adds_up(tmp_path: Path, quantise: Compile) -> None:
    profile = quantise().profile
    assert profile is not None
    assert 3 <= len(profile.inference_ms) <= 20
    assert min(profile.inference_ms) > 0
    assert profile.cold_load_ms > 0
    assert profile.peak_memory_bytes > 100_000
    assert {"Conv", "Gemm"} & {
        operator.type.removeprefix("Fused") for operator in profile.operators
    }
    assert sum(each.share for each in profile.operators) == pytest.approx(1.0)
    assert set(profile.kinds.values()) <= {"measured", "proxy"}
    assert profile.versions["onnxruntime"]


def test_the_graph_of_a_quantised_model_computes_in_integers(
    tmp_path: Path, quantise: Compile
) -> None:
    quantise(precision="int8", calibration=CALIBRATION, min_snr_db=-20, objective="size")
    opened = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    if opened.manifest.quantisation.startswith("int8"):
        operators = {node.op_type for node in onnx.load(opened.model_path).graph.node}
        assert any("Q" in each or "Integer" in each or "Quantize" in each for each in operators)


def test_a_model_behind_an_operator_that_onnx_infers_nothing_of(
    tmp_path: Path, target: Target
) -> None:
    """As scikit-learn's pipelines are written: a scaler of ai.onnx.ml, then products."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0]),
        helper.make_node("MatMul", ["s", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {
        "w": rng.normal(size=(64, 256)).astype(np.float32),
        "v": rng.normal(size=(256, 8)).astype(np.float32),
    }
    save_graph(
        tmp_path / "model" / "model.onnx",
        nodes,
        {"x": (TensorProto.FLOAT, ["n", 64])},
        {"y": (TensorProto.FLOAT, ["n", 8])},
        constants,
        {"": 18, "ai.onnx.ml": 3},
    )
    pack_archive(tmp_path / "model", tmp_path / "model.tar.gz")
    np.savez(tmp_path / "c.npz", x=rng.random((32, 64), np.float32))
    options = json.dumps({"precision": "int8", "calibration": CALIBRATION})
    request = CompilationRequest("ONNX", '{"x": [-1, 64]}', target, "m", "s3://b/m", options)
    files = {CALIBRATION: tmp_path / "c.npz"}
    manifest = compile_model(
        tmp_path / "model.tar.gz", tmp_path / "bundle.tar.gz", request, files=files
    )
    found = named(manifest)
    assert {"fp16", "int8-dynamic", "int8-static", "int8-static-weighted"} <= set(found)
    assert all(each.size_bytes is not None for each in manifest.candidates), manifest.candidates
    assert (found["int8-static"].size_bytes or 0) < (found["fp32"].size_bytes or 0) / 2
    # No convolution has groups that could be left out, and nothing is measured twice.
    weighted, dense = found["int8-static-weighted"], found["int8-static-dense"]
    assert (dense.speedup, dense.throughput) == (weighted.speedup, weighted.throughput)
    assert "it is the same model as int8-static" in (dense.reason or "")


def test_a_bound_on_a_model_without_weights(tmp_path: Path, target: Target) -> None:
    nodes = [helper.make_node("Floor", ["x"], ["f"]), helper.make_node("Mul", ["f", "f"], ["y"])]
    save_graph(
        tmp_path / "model" / "model.onnx",
        nodes,
        {"x": (TensorProto.FLOAT, ["n", 6])},
        {"y": (TensorProto.FLOAT, ["n", 6])},
    )
    pack_archive(tmp_path / "model", tmp_path / "model.tar.gz")
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32) * 10
    np.savez(tmp_path / "s.npz", x=x, labels=np.floor(x) ** 2)
    options = {"precision": "int8", "samples": SAMPLES, "metric": "mae", "max_accuracy_drop": 0.001}
    request = CompilationRequest(
        "ONNX", '{"x": [-1, 6]}', target, "m", "s3://b/m", json.dumps(options)
    )
    files = {SAMPLES: tmp_path / "s.npz"}
    manifest = compile_model(
        tmp_path / "model.tar.gz", tmp_path / "bundle.tar.gz", request, files=files
    )
    chosen = next(each for each in manifest.candidates if each.status == "chosen")
    # No sample changed, which says nothing of the size of an error on others.
    assert (chosen.drop, chosen.drop_high, chosen.reason) == (0.0, 0.0, None)


def test_calibration_falls_back_to_the_labelled_samples(quantise: Compile) -> None:
    manifest = quantise(precision="int8", int8="static", samples=SAMPLES)
    assert named(manifest)["int8-static"].size_bytes is not None
