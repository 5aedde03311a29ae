"""What a candidate of lower precision is held to, output by output."""

import dataclasses
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model, noise
from model_delivery_engine.compile.noise import Asked, ask, measure_noise
from model_delivery_engine.compile.variation import variations_of
from model_delivery_engine.errors import ParityError
from model_delivery_engine.golden import draw_inputs
from model_delivery_engine.measurements import Candidate
from model_delivery_engine.parity import tolerance_for
from model_delivery_engine.quantize.integers import quantize_dynamic, scheme_for
from model_delivery_engine.quantize.samples import Samples
from model_delivery_engine.runtime import Model, check_golden, open_session, session_options
from model_delivery_engine.targets import Target
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph, save_linear

FEATURES = 256


def weights(spread: float) -> Any:
    """Return a product's weights; with a spread one of them leaves 8 bits nothing of the others."""
    drawn = np.random.default_rng(0).normal(size=(FEATURES, 20)).astype(np.float32)
    drawn[0] += np.float32(spread)
    return drawn


def save(path: Path, outputs: str, spread: float = 3e4) -> Path:
    """Write a model of 20 scores that answers labels, a box of pixels beside scores, or both."""
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["product"])]
    values: dict[str, tuple[int, list[Any]]] = {}
    if "labels" in outputs:
        nodes.append(helper.make_node("ArgMax", ["product"], ["labels"], axis=1, keepdims=0))
        values["labels"] = (TensorProto.INT64, ["n"])
    if "scores" in outputs:
        nodes.append(helper.make_node("Softmax", ["product"], ["scores"], axis=1))
        nodes.append(helper.make_node("Mul", ["features", "pixels"], ["boxes"]))
        values["scores"] = (TensorProto.FLOAT, ["n", 20])
        values["boxes"] = (TensorProto.FLOAT, ["n", FEATURES])
    constants = {"weights": weights(spread)}
    if "scores" in outputs:
        constants["pixels"] = np.float32(640)
    inputs = {"features": (TensorProto.FLOAT, ["n", FEATURES])}
    return save_graph(path, nodes, inputs, values, constants)


@pytest.fixture
def candidates(
    tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> Callable[[Path], dict[str, Candidate]]:
    def _compile(model: Path, **options: Any) -> dict[str, Candidate]:
        text = json.dumps({"precision": "int8", "objective": "size", **options})
        config = f'{{"features": [-1, {FEATURES}]}}'
        request = CompilationRequest("ONNX", config, target, "m", "s3://b/m.tar.gz", text)
        manifest = compile_model(pack(model), tmp_path / "bundle.tar.gz", request)
        return {each.name: each for each in manifest.candidates}

    return _compile


def test_labels_alone_are_held_by_the_share_that_is_equal(
    tmp_path: Path, candidates: Callable[..., dict[str, Candidate]]
) -> None:
    found = candidates(save(tmp_path / "m" / "model.onnx", "labels"))["int8-dynamic"]
    assert found.status == "rejected"
    assert "its answers in output 'labels' have" in (found.reason or "")
    assert found.snr_db is not None
    assert found.snr_db < 10
    fine = candidates(save(tmp_path / "f" / "model.onnx", "labels", spread=0.0))["int8-dynamic"]
    assert fine.status != "rejected", fine.reason
    assert fine.snr_db is None or fine.snr_db >= 10


def test_a_large_output_does_not_hide_a_small_one(
    tmp_path: Path, candidates: Callable[..., dict[str, Candidate]]
) -> None:
    found = candidates(save(tmp_path / "m" / "model.onnx", "scores"))["int8-dynamic"]
    assert found.status == "rejected"
    assert "its answers in output 'scores' (place " in (found.reason or "")


def drawn(rows: int, columns: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)


def dense(path: Path, first: Any, bias: Any, second: Any, last: Any) -> Path:
    """Write two layers of rectified sums, and a product behind them."""
    nodes = [
        helper.make_node("MatMul", ["features", "first"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["q"]),
        helper.make_node("Relu", ["q"], ["s"]),
        helper.make_node("MatMul", ["s", "last"], ["y"]),
    ]
    return save_graph(
        path,
        nodes,
        {"features": (TensorProto.FLOAT, ["n", FEATURES])},
        {"y": (TensorProto.FLOAT, ["n", last.shape[1]])},
        {"first": first, "bias": bias, "second": second, "last": last},
    )


def offset(path: Path) -> Path:
    """Write a regressor around 1000, whose offset takes all that 8 bits of activations have."""
    first, second, last = drawn(FEATURES, 512, 1), drawn(512, 512, 2), drawn(512, 1, 3) * 8
    first[:, 0], second[0], second[:, 0], second[0, 0], last[0] = 0, 0, 0, 1, 1
    return dense(path, first, np.eye(512, dtype=np.float32)[0] * 1000, second, last)


def boxes_and_score(path: Path) -> Path:
    """Write a detector's head: four edges of a box in pixels and a score, in one tensor."""
    last = drawn(512, 5, 6) * np.array([640, 640, 640, 640, 1], np.float32)
    bias = np.zeros(512, np.float32)
    return dense(path, drawn(FEATURES, 512, 4), bias, drawn(512, 512, 5), last)


@pytest.mark.parametrize("model", [offset, boxes_and_score])
def test_what_does_not_vary_is_no_signal(
    model: Callable[[Path], Path], tmp_path: Path, candidates: Callable[..., dict[str, Candidate]]
) -> None:
    found = candidates(model(tmp_path / "m" / "model.onnx"))
    assert found["int8-dynamic"].status == "rejected"
    assert "a signal-to-noise ratio of" in (found["int8-dynamic"].reason or "")
    # Of a number around 1000, halves have steps of 0.5.
    assert (found["fp16"].snr_db or 0.0) > (20 if model is offset else 40)


def test_equal_answers_of_a_model_that_tells_nothing_apart_show_nothing(
    tmp_path: Path, candidates: Callable[..., dict[str, Candidate]]
) -> None:
    """One class is ahead whatever is asked."""
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("ArgMax", ["sum"], ["labels"], axis=1, keepdims=0),
    ]
    model = save_graph(
        tmp_path / "m" / "model.onnx",
        nodes,
        {"features": (TensorProto.FLOAT, ["n", FEATURES])},
        {"labels": (TensorProto.INT64, ["n"])},
        {"weights": weights(0.0), "bias": np.eye(20, dtype=np.float32)[3] * 1e6},
    )
    found = candidates(model)
    assert found["int8-dynamic"].status == found["fp16"].status == "rejected"
    assert "equal answers show nothing" in (found["int8-dynamic"].reason or "")
    assert "equal answers show nothing" not in (found["fp32"].reason or "")


def test_a_device_holds_each_output_to_its_own_magnitude(
    tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> None:
    config = f'{{"features": [-1, {FEATURES}]}}'
    request = CompilationRequest("ONNX", config, target, "m", "s3://b/m.tar.gz")
    archive = tmp_path / "bundle.tar.gz"
    compile_model(pack(save(tmp_path / "m" / "model.onnx", "scores")), archive, request)
    bundle = open_bundle(archive, tmp_path / "opened")
    outputs = dict(bundle.golden_outputs)
    golden = dataclasses.replace(
        bundle.manifest.golden, atol=tolerance_for("int8", outputs).atol, rtol=0.0
    )
    assert golden.atol > 30
    manifest = dataclasses.replace(bundle.manifest, golden=golden, quantisation="int8-dynamic")
    model = Model.load(bundle)

    def check(**more: Any) -> None:
        changed = dataclasses.replace(bundle, manifest=manifest, golden_outputs={**outputs, **more})
        check_golden(model, changed)

    check(boxes=outputs["boxes"] + np.float32(20), scores=outputs["scores"] + np.float32(0.02))
    with pytest.raises(ParityError, match="output 'scores'"):
        check(scores=np.roll(outputs["scores"], 1, axis=1))


def test_a_model_without_anything_to_quantise_has_no_such_candidate(
    tmp_path: Path, candidates: Callable[..., dict[str, Candidate]]
) -> None:
    nodes = [helper.make_node("Cos", ["features"], ["y"])]
    tensor = (TensorProto.FLOAT, ["n", FEATURES])
    model = save_graph(tmp_path / "m" / "model.onnx", nodes, {"features": tensor}, {"y": tensor})
    found = candidates(model)
    assert found["int8-dynamic"].status == "rejected"
    assert "fp32 under another name" in (found["int8-dynamic"].reason or "")


def opened(path: Path) -> Model:
    return Model(open_session(path, session_options(1)), path.name)


def test_enough_labels_are_asked_for(tmp_path: Path) -> None:
    source = opened(save(tmp_path / "m" / "model.onnx", "labels", spread=0.0))
    asked = ask(source, draw_inputs(source.inputs), None)
    answers = np.concatenate([each.expected["labels"] for each in asked])
    assert len(answers) >= 32
    assert len(set(answers.tolist())) > 1
    assert measure_noise(source, asked).db is None


def test_an_output_is_looked_at_until_it_varies_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a batch of one: 16 runs show its channels, and whether they vary is told once."""
    shape = (TensorProto.FLOAT, [1, 40, 16])
    node = helper.make_node("Softmax", ["features"], ["y"], axis=1)
    source = opened(save_graph(tmp_path / "m.onnx", [node], {"features": shape}, {"y": shape}))
    looks: list[int] = []

    def counted(answers: Any) -> Any:
        looks.append(len(answers))
        return variations_of(answers)

    monkeypatch.setattr(noise, "variations_of", counted)
    assert len(ask(source, draw_inputs(source.inputs), None)) == 1, "16 values in each place"
    assert looks == [1]
    few = (TensorProto.FLOAT, [1, 40])
    source = opened(save_graph(tmp_path / "n.onnx", [node], {"features": few}, {"y": few}))
    assert len(ask(source, draw_inputs(source.inputs), None)) == 16
    assert looks == [1, 16]


def masked(path: Path, value: float) -> Path:
    nodes = [
        helper.make_node("Less", ["features", "half"], ["low"]),
        helper.make_node("Where", ["low", "fill", "features"], ["y"]),
    ]
    return save_graph(
        path,
        nodes,
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        {"half": np.float32(0.5), "fill": np.float32(value)},
    )


def test_equal_infinities_are_no_noise_and_others_are_refused(tmp_path: Path) -> None:
    endless = opened(masked(tmp_path / "a.onnx", -np.inf))
    asked = ask(endless, draw_inputs(endless.inputs), None)
    assert measure_noise(endless, asked).db is None
    with pytest.raises(ParityError, match="output 'y' is NaN or infinite where the source's is"):
        measure_noise(opened(masked(tmp_path / "b.onnx", 0.0)), asked)


def answers(*spreads: float, offset: float = 0.0) -> Any:
    """Draw 64 runs of an output whose channels vary by so much, in [-1, 1) of that."""
    unit = np.random.default_rng(0).uniform(-1, 1, (64, 1, len(spreads)))
    return list((unit * spreads + offset).astype(np.float32))


@pytest.mark.parametrize(
    ("source", "counted"),
    [
        pytest.param(answers(1.0, offset=1000.0), [1.0], id="an offset is no signal"),
        pytest.param(answers(200.0, 0.3), [200.0, 0.3], id="two units"),
        pytest.param(answers(0.4, 1e-4, offset=0.5), [0.4, 0.04], id="a class nobody asked for"),
        pytest.param(answers(4.0, 1.0, 0.2), [4.0, 1.0, 0.4], id="one unit"),
        pytest.param(answers(100.0, 5.0, 0.4), [100.0, 10.0, 0.4], id="one between two units"),
        pytest.param(answers(4.0, 0.0), [4.0, 0.4], id="zeros beside what varies"),
    ],
)
def test_channels_count_as_varying_beside_their_unit(source: Any, counted: list[float]) -> None:
    """A uniform distribution's mean square is a third of its bound's."""
    (found,) = variations_of(source)
    assert found.varies
    assert np.sqrt(3 * found.signal) == pytest.approx(counted, rel=0.15)


def test_a_constant_vector_varies_not_and_is_held_to_its_magnitude() -> None:
    (found,) = variations_of(answers(0.0, 0.0, offset=3.0))
    assert not found.varies
    assert found.signal == pytest.approx([9.0, 9.0])


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((64, 5), [1]), ((1, 84, 8400), [1, 2]), ((1, 300, 84), [1, 2]), ((64, 1, 5), [2]),
        ((1, 84, 20, 20), [1, 3]), ((1, 3, 20, 20, 85), [1, 2, 4]), ((64, 3, 8), [1, 2]),
        ((1, 1, 32, 48), [1]), ((1, 32, 48, 1), [3]), ((64, 1), [1]), ((64,), [None]),
        ((3, 100), [None]), ((64, 5, 1, 1), [1]), ((64, 1, 1, 5), [3]), ((64, 1, 5, 1), [2]),
        ((1, 1, 100, 7), [2, 3]), ((1, 5, 100, 1), [1, 2]), ((1, 2, 8, 12, 12), [1, 2, 4]),
        ((1, 1, 8, 12, 12), [2, 4]), ((1, 0, 4), [None]), ((64, 1, 1), [1]),
    ],
)  # fmt: skip
def test_places_of_each_dimension_that_may_be_of_channels_are_held(
    shape: tuple[int, ...], axes: list[int | None]
) -> None:
    """A column of a single map is no channel, and three values show nothing of one."""
    found = variations_of([np.zeros(shape, np.float32)])
    assert [each.axis for each in found if each.held] == axes


def test_channels_are_held_where_a_map_has_fewer_columns(tmp_path: Path) -> None:
    """A head of four distances in pixels and 20 scores, which a common step takes away."""
    scales = np.array([50] * 4 + [1] * 20, np.float32).reshape(1, 24, 1, 1)

    def head(name: str, step: float) -> Model:
        nodes = [
            helper.make_node("Mul", ["features", "scales"], ["raw"]),
            helper.make_node("Div", ["raw", "step"], ["steps"]),
            helper.make_node("Round", ["steps"], ["whole"]),
            helper.make_node("Mul", ["whole", "step"], ["y"]),
        ]
        tensor = (TensorProto.FLOAT, ["n", 24, 8, 8])
        constants = {"scales": scales, "step": np.float32(step)}
        return opened(save_graph(tmp_path / name, nodes, {"features": tensor}, {"y": tensor},
                                 constants))  # fmt: skip

    source = head("source.onnx", 1e-3)
    rng = np.random.default_rng(0)
    samples = Samples({"features": rng.normal(size=(32, 24, 8, 8)).astype(np.float32)})
    found = measure_noise(head("rounded.onnx", 4.0), ask(source, {}, samples))
    assert found.db is not None
    assert found.db < 1, "the scores are all zero"
    assert "of dimension 1" in found.channel


SHAPES = [[-1, 5], [-1, 5, 1, 1], [-1, 1, 1, 5], [-1, 1, 5, 1], [-1, 5, 1], [-1, 1, 5], [5]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_lost_channel_is_seen_whatever_stands_around_it(shape: list[int], tmp_path: Path) -> None:
    """Four edges in pixels and a score that is gone: which dimensions are of one is no matter."""

    def head(name: str, scores: float) -> Model:
        nodes = [
            helper.make_node("Mul", ["features", "scales"], ["scaled"]),
            helper.make_node("Reshape", ["scaled", "shape"], ["y"]),
        ]
        scales = np.array([200, 200, 200, 200, scores], np.float32)
        batch = 1 if shape == [5] else "n"
        path = save_graph(
            tmp_path / name, nodes, {"features": (TensorProto.FLOAT, [batch, 5])},
            {"y": (TensorProto.FLOAT, None)}, {"scales": scales, "shape": np.array(shape)},
        )  # fmt: skip
        return opened(path)

    rng = np.random.default_rng(0)
    samples = Samples({"features": rng.normal(size=(64, 5)).astype(np.float32)})
    source = head("source.onnx", 0.4)
    found = measure_noise(head("lost.onnx", 0.0), ask(source, {}, samples))
    assert found.db is not None
    assert found.db < 1
    assert "(place 4 of dimension" in found.channel


LAYOUTS = [(1, 3, 5, 36), (1, 3, 9, 5, 9), (1, 64, 20), (1, 2, 8, 5, 8), (18, 17, 5)]


@pytest.mark.parametrize(
    ("shape", "axis"),
    sorted(
        {
            (found, found.index(5 if 5 in layout else 20))
            for layout in LAYOUTS
            for found in permutations(layout)
        }
    ),
    ids=str,
)
def test_a_lost_score_is_seen_in_any_layout(
    shape: tuple[int, ...], axis: int, tmp_path: Path
) -> None:
    """Edges in pixels beside a score that is gone, also where rows or columns of a map may be."""

    def head(name: str, score: float) -> Model:
        scales = np.full([1, *(n if at == axis else 1 for at, n in enumerate(shape))], 200.0)
        scales.reshape(-1)[-1] = score
        tensor = (TensorProto.FLOAT, ["n", *shape])
        nodes = [helper.make_node("Mul", ["features", "scales"], ["y"])]
        constants = {"scales": scales.astype(np.float32)}
        path = save_graph(tmp_path / name, nodes, {"features": tensor}, {"y": tensor}, constants)
        return opened(path)

    features = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    asked = ask(head("source.onnx", 0.4), {}, Samples({"features": features}))
    found = measure_noise(head("lost.onnx", 0.0), asked)
    assert found.db is not None
    assert found.db < 1
    assert f"of dimension {axis + 1})" in found.channel


def test_a_maps_edge_may_have_more_noise_than_its_middle(tmp_path: Path) -> None:
    """A column that varies less than the others, of a map of one channel, is not held by itself."""
    edge = np.ones((1, 1, 24, 32), np.float32)
    edge[..., 0] = 0.2

    def edged(name: str, off: float) -> Model:
        nodes = [
            helper.make_node("Mul", ["features", "edge"], ["map"]),
            helper.make_node("Mul", ["noise", "off"], ["some"]),
            helper.make_node("Add", ["map", "some"], ["y"]),
        ]
        tensor = (TensorProto.FLOAT, ["n", 1, 24, 32])
        constants = {"edge": edge, "off": np.float32(off)}
        path = save_graph(
            tmp_path / name, nodes, {"features": tensor, "noise": tensor}, {"y": tensor}, constants
        )
        return opened(path)

    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(2, 8, 1, 24, 32)).astype(np.float32)
    samples = Samples({"features": drawn[0], "noise": drawn[1]})
    asked = ask(edged("source.onnx", 0.0), {}, samples)
    found = measure_noise(edged("noisy.onnx", 0.1), asked)
    assert found.db == pytest.approx(20, abs=1), "not the 6 dB of the column"


def test_a_row_of_an_image_may_be_lost(tmp_path: Path) -> None:
    """Lines of text, blurred: a row of one dark pixel comes out as another."""
    rng = np.random.default_rng(0)
    pages = np.zeros((8, 1, 40, 64))
    for page in pages[:, 0]:
        page[8:14], page[22:30] = rng.random((2, 1, 64)) > 0.5
    blurred = sum(np.roll(pages, n, axis) for n in (-2, -1, 0, 1, 2) for axis in (2, 3)) / 10
    wrong = blurred.copy()
    wrong[..., 17, :] = rng.random((8, 1, 64)) * 0.2

    def answer(name: str, values: Any) -> Model:
        nodes = [
            helper.make_node("Gather", ["pages", "n"], ["page"]),
            helper.make_node("Identity", ["page"], ["y"]),
        ]
        inputs = {"n": (TensorProto.INT64, [1])}
        outputs = {"y": (TensorProto.FLOAT, [1, 1, 40, 64])}
        constants = {"pages": values.astype(np.float32)}
        return opened(save_graph(tmp_path / name, nodes, inputs, outputs, constants))

    source = answer("source.onnx", blurred)
    asked = [Asked({"n": np.array([n])}, source.run({"n": np.array([n])})) for n in range(8)]
    found = measure_noise(answer("wrong.onnx", wrong), asked)
    assert found.db is not None
    assert found.db > 10, found.channel


@pytest.mark.parametrize("count", [3, 4, 8, 15])
def test_few_samples_hide_no_channel(count: int, tmp_path: Path) -> None:
    """A score beside four edges in pixels is a constant in 8 bits."""
    source = opened(boxes_and_score(tmp_path / "m.onnx"))
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", scheme_for("X86_64", False))
    rows = np.random.default_rng(0).normal(size=(count, FEATURES)).astype(np.float32)
    asked = ask(source, {}, Samples({"features": rows}))
    if count < 4:
        with pytest.raises(ParityError, match=r"too few values .* give more samples"):
            measure_noise(opened(tmp_path / "q.onnx"), asked)
        return
    found = measure_noise(opened(tmp_path / "q.onnx"), asked)
    assert found.db is not None
    assert found.db < 10
    assert "place 4 of" in found.channel


def test_of_a_file_sorted_by_label_samples_of_every_label_are_asked(tmp_path: Path) -> None:
    source = opened(save_linear(tmp_path / "m.onnx"))
    labels = np.repeat(np.arange(10, dtype=np.float32), 100)

    asked = ask(source, {}, Samples({"features": np.stack([labels] * 4, axis=1)}))

    seen = np.concatenate([each.inputs["features"][:, 0] for each in asked])
    assert len(seen) == 64
    assert set(seen) == set(range(10))
