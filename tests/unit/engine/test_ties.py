"""Detectors that take their best boxes themselves: what only chooses between equals is right."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine import probes
from model_delivery_engine.agreement import CONVERTED, agree
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.compile.evidence import Evidence, answer_itself
from model_delivery_engine.compile.settled import Settler
from model_delivery_engine.errors import ParityError
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.parity import measure_parity
from model_delivery_engine.probes import Probe, Run
from model_delivery_engine.runtime import Model, open_session, session_options
from model_delivery_engine.targets import Target
from model_delivery_engine.ties import Ties
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph

GRID, CLASSES, BEST = 20, 3, 50
PLACES = GRID * GRID
node = helper.make_node


def detector(
    path: Path, kind: str, seed: int = 0, *, scores: float = 4.0, lost: int | None = None
) -> Path:
    """Write a detector of 3 classes: boxes and scores of 400 places, of which it answers the best.

    :param kind: "gather" (TopK and Gather), "elements" (TopK over classes too, GatherElements, one
        output of boxes, scores and labels), "nd" (GatherND), "nms"
    :param scores: factor of the scores' weights
    :param lost: a class that it never finds
    """
    rng = np.random.default_rng(seed)
    last = rng.normal(size=(4 + CLASSES, 16, 3, 3)) / 12
    last[4:] *= scores
    bias = np.zeros(4 + CLASSES)
    if lost is not None:
        last[4 + lost], bias[4 + lost] = 0, -20
    nodes = [
        node("Conv", ["x", "first"], ["hidden"], pads=[1] * 4),
        node("Relu", ["hidden"], ["relu"]),
        node("Conv", ["relu", "last", "bias"], ["map"], pads=[1] * 4),
        node("Reshape", ["map", "flat"], ["rows"]),
        node("Slice", ["rows", "zero", "four", "one"], ["edges"]),
        node("Slice", ["rows", "four", "all", "one"], ["logits"]),
        node("Sigmoid", ["logits"], ["scores"]),
        node("Transpose", ["edges"], ["boxes"], perm=[0, 2, 1]),
    ]
    constants = {
        "first": (rng.normal(size=(16, 3, 3, 3)) / 5).astype(np.float32),
        "last": last.astype(np.float32),
        "bias": bias.astype(np.float32),
        "flat": np.array([1, 4 + CLASSES, PLACES]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array(2),
        "four": np.array([4]),
        "all": np.array([4 + CLASSES]),
        "best": np.array([BEST]),
    }
    floats: dict[str, list[int | str | None]] = {"y": [1, BEST, 4]}
    if kind == "nms":
        nodes += [
            node("NonMaxSuppression", ["boxes", "scores", "twenty", "iou", "least"], ["chosen"]),
            node("Gather", ["chosen", "two"], ["at"], axis=1),
            node("Gather", ["boxes", "at"], ["y"], axis=1),
        ]
        constants |= {
            "twenty": np.array([20]),
            "iou": np.array([0.5], np.float32),
            "least": np.array([0.3], np.float32),
        }
        floats = {"y": [1, "found", 4]}
    elif kind == "elements":
        nodes += [
            node("Transpose", ["scores"], ["by_place"], perm=[0, 2, 1]),
            node("Reshape", ["by_place", "whole"], ["every"]),
            node("TopK", ["every", "best"], ["top", "at"], axis=1),
            node("Div", ["at", "classes"], ["place"]),
            node("Mod", ["at", "classes"], ["label"]),
            node("Unsqueeze", ["place", "minus"], ["column"]),
            node("Expand", ["column", "shape"], ["wide"]),
            node("GatherElements", ["boxes", "wide"], ["taken"], axis=1),
            node("Unsqueeze", ["top", "minus"], ["score"]),
            node("Cast", ["label"], ["number"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["number", "minus"], ["named"]),
            node("Concat", ["taken", "score", "named"], ["y"], axis=2),
        ]
        constants |= {
            "whole": np.array([1, -1]),
            "classes": np.array(CLASSES),
            "minus": np.array([-1]),
            "shape": np.array([1, BEST, 4]),
        }
        floats = {"y": [1, BEST, 6]}
    else:
        nodes += [
            node("ReduceMax", ["scores", "one"], ["highest"], keepdims=0),
            node("TopK", ["highest", "best"], ["top", "at"], axis=1),
        ]
        if kind == "gather":
            nodes += [
                node("Squeeze", ["at", "zero"], ["place"]),
                node("Gather", ["boxes", "place"], ["y"], axis=1),
            ]
        else:
            nodes += [
                node("Unsqueeze", ["at", "minus"], ["place"]),
                node("GatherND", ["boxes", "place"], ["y"], batch_dims=1),
            ]
            constants["minus"] = np.array([-1])
        floats["top"] = [1, BEST]
    used = {name for each in nodes for name in each.input}
    return save_graph(
        path,
        nodes,
        {"x": (TensorProto.FLOAT, [1, 3, GRID, GRID])},
        {name: (TensorProto.FLOAT, shape) for name, shape in floats.items()},
        {name: value for name, value in constants.items() if name in used},
    )


KINDS = ("gather", "elements", "nd", "nms")


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_detectors_are_compiled(
    kind: str, calibrated: bool, tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> None:
    model = detector(tmp_path / "src" / "model.onnx", kind)
    options, files = None, {}
    if calibrated:
        samples = tmp_path / "samples.npz"
        images = np.random.default_rng(1).normal(size=(64, 3, GRID, GRID))
        np.savez(samples, x=images.astype(np.float32))
        options, files = '{"calibration": "s3://b/samples.npz"}', {"s3://b/samples.npz": samples}
    request = CompilationRequest("ONNX", None, target, "detector", "s3://b/m.tar.gz", options)

    manifest = compile_model(pack(model), tmp_path / "bundle.tar.gz", request, files=files)

    assert {each.name: each.status for each in manifest.candidates}["fp32"] != "rejected"
    assert manifest.parity is not None
    assert set(manifest.parity.proved) >= {"unit", "signed", "halves"}


def opened(path: Path, *, plain: bool = False) -> Model:
    return Model(open_session(path, session_options() if plain else unoptimised_options()), "m")


def evidence_of(path: Path) -> Evidence:
    source = opened(path)
    golden = probes.draw(probes.UNIT, source.inputs)[0]
    found, left_out = answer_itself(source, {})
    return Evidence(golden, source.run(golden), found, left_out, settler=Settler(path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_never_another_model_than_itself(kind: str, tmp_path: Path) -> None:
    for seed in range(3):
        path = detector(tmp_path / f"{seed}.onnx", kind, seed)

        evidence_of(path).hold(opened(path, plain=True).run)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_chosen_otherwise_is_wrong_where_it_does_not_tie(kind: str, tmp_path: Path) -> None:
    evidence = evidence_of(detector(tmp_path / "model.onnx", kind))
    without_a_class = opened(detector(tmp_path / "lost.onnx", kind, lost=1))
    source = opened(tmp_path / "model.onnx", plain=True)

    def swapped(inputs: dict[str, Any]) -> dict[str, Any]:
        found = source.run(inputs)
        edges = [1, 0, *range(2, found["y"].shape[-1])]
        return {**found, "y": found["y"][..., edges]}

    def reversed_(inputs: dict[str, Any]) -> dict[str, Any]:
        found = source.run(inputs)
        return {**found, "y": found["y"][:, ::-1]}

    for wrong in (without_a_class.run, swapped, reversed_):
        with pytest.raises(ParityError):
            evidence.hold(wrong)


def test_a_conversion_may_choose_as_its_framework_and_no_otherwise(tmp_path: Path) -> None:
    """Scores that no output shows excuse nothing on golden inputs: they may be wrong themselves."""
    path = detector(tmp_path / "model.onnx", "gather")
    model = opened(path)
    inputs = probes.draw("halves", model.inputs)
    ours = [model.run(each) for each in inputs]
    theirs = [opened(path, plain=True).run(each) for each in inputs]
    assert any(abs(o["y"] - t["y"]).max() > 1 for o, t in zip(ours, theirs, strict=True))

    def hold(name: str, answers: list[dict[str, Any]], source: Path = path) -> None:
        runs = [Run(i, a, zeros(a)) for i, a in zip(inputs, answers, strict=True)]
        settle = Settler(source).of_conversion(CONVERTED)
        asked = [Probe(name, tuple(runs))]
        agree(
            lambda given: kept(opened(source).run(given), answers), asked, CONVERTED, settle=settle
        )

    hold("halves", theirs)
    hold("unit", theirs)
    with pytest.raises(ParityError):
        hold("halves", [{**each, "y": each["y"][..., [1, 0, 2, 3]]} for each in theirs])
    with pytest.raises(ParityError):  # the same without an output of scores
        hold("unit", [{"y": each["y"]} for each in theirs])


def kept(found: Mapping[str, Any], like: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: found[name] for name in like[0]}


def zeros(answers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.zeros(each.shape) for name, each in answers.items()}


def test_the_users_samples_outrank_what_is_drawn_of_candidates_too(tmp_path: Path) -> None:
    evidence = evidence_of(detector(tmp_path / "model.onnx", "gather"))
    source = opened(tmp_path / "model.onnx", plain=True)

    def off_where_large(inputs: dict[str, Any]) -> dict[str, Any]:
        found = source.run(inputs)
        return {**found, "y": found["y"] * (1.1 if abs(inputs["x"]).max() > 100 else 1.0)}

    with pytest.raises(ParityError, match="large"):
        evidence.hold(off_where_large)

    parity = dataclasses.replace(evidence, outranked=True).hold(off_where_large)

    assert "large" not in parity.proved
    assert any(each.startswith("large: not proved") for each in parity.left_out)


def test_nothing_found_is_no_share_of_agreement() -> None:
    nothing = {"y": np.zeros((1, 0, 4), np.float32)}

    assert measure_parity(nothing, nothing).argmax_agreement is None


@pytest.mark.parametrize("mask", [None, -100.0, -1e4, -3.4e38, -np.inf])
@pytest.mark.parametrize("count", [5, 25])
def test_what_is_masked_widens_no_tie(mask: float | None, count: int, tmp_path: Path) -> None:
    """Scores in [0, 1] of 40 places, 20 of them masked; `y` is what stands at the best."""
    rng = np.random.default_rng(1)
    hidden = np.zeros((1, 40), bool) if mask is None else rng.permutation(40)[None] < 20
    path = save_graph(
        tmp_path / "m.onnx",
        [
            node("Where", ["hidden", "mask", "x"], ["scores"]),
            node("TopK", ["scores", "k"], ["top", "at"], axis=1),
            node("Gather", ["table", "at"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [1, 40])},
        {"y": (TensorProto.FLOAT, [1, count, 3])},
        {
            "hidden": hidden, "mask": np.array(mask or 0, np.float32), "k": np.array([count]),
            "table": rng.normal(size=(40, 3)).astype(np.float32),
        },
    )  # fmt: skip
    model = opened(path, plain=True)
    scores = np.where(hidden, -1, rng.permutation(40) / 40)[0]
    best = np.argsort(-scores)
    for off, allowed in ((1e-7, True), (0.01, False)):
        inputs = {"x": scores.astype(np.float32)[None]}
        inputs["x"][0, best[2]] = inputs["x"][0, best[1]] - np.float32(off)
        own = model.run(inputs)
        other = {"y": own["y"][:, [0, 2, 1, *range(3, count)]]}
        found = Ties(path).chosen_as(inputs, own, other, 1e-5)
        chosen = own if found is None else found.answers
        assert np.array_equal(chosen["y"], other["y"] if allowed else own["y"])
