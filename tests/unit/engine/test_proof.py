"""What a compilation is held to: probes of every kind, sound weights, labels read as meant."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine import probes
from model_delivery_engine.agreement import CONVERTED, QUANTISED, REWRITTEN, agree
from model_delivery_engine.bundle import Manifest
from model_delivery_engine.compile import CompilationRequest, compile_model, pipeline
from model_delivery_engine.compile.candidates import Trial
from model_delivery_engine.compile.evidence import Evidence
from model_delivery_engine.errors import (
    CompilationError,
    ConversionError,
    InferenceError,
    OptionsError,
    ParityError,
    Reason,
)
from model_delivery_engine.frameworks.pytorch import in_order
from model_delivery_engine.measurements import Candidate
from model_delivery_engine.options import CompilerOptions
from model_delivery_engine.probes import Probe, Run, answer_probe
from model_delivery_engine.quantize.metric import make_metric
from model_delivery_engine.quantize.samples import Samples, part
from model_delivery_engine.ranking import Ranked, Ranking, ranking_of
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import TensorSpec
from onnx import TensorProto, helper

from tests.unit.engine.conftest import save_graph, save_linear

Compiled = Callable[..., tuple[Manifest, Path]]
ROWS = (TensorSpec("x", "FP32", (-1, 6)),)
OPEN = '{"features": [-1, 4]}'


def of(function: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a model of one input and one output."""
    return lambda inputs: {"y": np.asarray(function(inputs["x"]))}


def probed(function: Callable[[Any], Any], specs: Any = ROWS) -> list[Probe]:
    """Return what a model answers to every distribution that it has answers to."""
    found = [answer_probe(name, specs, of(function)) for name in probes.DISTRIBUTIONS]
    return [each for each in found if isinstance(each, Probe)]


def single(values: Any) -> Any:
    return np.asarray(values, np.float32)


def softmax(x: Any) -> Any:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def log_sigmoid(x: Any) -> Any:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


WEIGHTS = np.random.default_rng(0).normal(size=(6, 5))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda x: np.floor(x / 0.3), lambda x: np.trunc(x / 0.3)),
        (lambda x: np.round(x), lambda x: np.floor(x + 0.5)),
        (lambda x: np.sign(x), lambda x: np.where(x >= 0, 1.0, -1.0)),
        (log_sigmoid, lambda x: np.log(1 / (1 + np.exp(-x)))),
        (lambda x: np.abs(x), lambda x: x),
        (lambda x: np.minimum(x, 100), lambda x: x),
    ],
    ids=["floor", "halves", "sign of zero", "log of a sigmoid", "abs", "clip"],
)
def test_what_differs_outside_the_golden_inputs_is_found(
    right: Callable[[Any], Any], wrong: Callable[[Any], Any]
) -> None:
    expected = probed(lambda x: single(right(x)))
    agree(of(lambda x: single(right(x))), expected, CONVERTED)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ParityError, match=r"is expected, a difference|rounded another way"),
    ):
        agree(of(lambda x: single(wrong(x))), expected, CONVERTED)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ WEIGHTS.astype(x.dtype),
        lambda x: softmax(x @ WEIGHTS.astype(x.dtype) * 5),
        lambda x: np.floor(x / x.dtype.type(0.3)),
        lambda x: (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + x.dtype.type(1e-5)),
        lambda x: (x @ WEIGHTS.astype(x.dtype)).argmax(axis=1),
        lambda x: np.sin(x * x.dtype.type(1000)),
    ],
    ids=["product", "softmax", "floor", "norm", "argmax", "chaos"],
)
def test_rounding_alone_is_no_fault(function: Callable[[Any], Any]) -> None:
    """The same model in single and in double precision."""
    expected = probed(lambda x: function(x.astype(np.float32)))
    answer = of(lambda x: function(x.astype(np.float64)))

    def rounded(inputs: dict[str, Any]) -> dict[str, Any]:
        answers = answer(inputs)["y"]
        return {"y": answers.astype(np.float32) if answers.dtype.kind == "f" else answers}

    parity = agree(rounded, expected, CONVERTED)
    assert set(parity.proved) == set(probes.DISTRIBUTIONS)


def one_wrong(name: str, wrong: float, moved: int, dtype: Any = np.float32) -> None:
    """Hold 3000 rows of which one is wrong, and some move with the last bits of the inputs."""
    inputs = {"x": np.random.default_rng(0).normal(size=(3000, 1)).astype(np.float32)}
    want = np.floor(inputs["x"] * 3).astype(dtype)
    noise = np.zeros(want.shape)
    noise[:moved] = 1.0
    got = want.copy()
    got[2000] += wrong
    agree(lambda _: {"y": got}, [Probe(name, (Run(inputs, {"y": want}, {"y": noise}),))], CONVERTED)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_one_wrong_value_among_many_is_found(dtype: Any) -> None:
    one_wrong("signed", 1, 5, dtype)  # a near-tie as those five
    for name, wrong, moved in (
        ("signed", 1, 0), ("unit", 1, 5), ("samples", 1, 5),
    ):  # fmt: skip
        with pytest.raises(ParityError, match="1 of 3000 values are off"):
            one_wrong(name, wrong, moved, dtype)


def test_no_wrong_value_is_further_off_than_the_original_moves() -> None:
    with pytest.raises(ParityError, match="a difference of 1e"):
        one_wrong("signed", 1e6, 5)


def test_a_large_channel_does_not_hide_a_small_one() -> None:
    """Boxes in pixels beside scores."""
    rng = np.random.default_rng(0)
    want = np.c_[rng.uniform(0, 640, (80, 4)), rng.random((80, 8))].astype(np.float32)
    got = want.copy()
    got[7, 6] += 0.3

    def hold(got: Any, want: Any) -> None:
        run = Run({"x": want}, {"y": want}, {"y": np.zeros(want.shape)})
        agree(lambda _: {"y": got}, [Probe("signed", (run,))], CONVERTED)

    hold(want + np.float32(2e-4), want)
    for axes in ((0, 1), (1, 0)):  # channels last, and second
        each, right = (np.ascontiguousarray(a.transpose(axes)[None]) for a in (got, want))
        with pytest.raises(ParityError, match=r"a difference of 0\.3"):
            hold(each, right)


def test_an_original_without_a_finite_answer_proves_nothing() -> None:
    nothing = single([[np.nan, -np.inf]])
    run = Run({"x": nothing}, {"y": nothing}, {"y": np.zeros(nothing.shape)})
    for name in ("unit", "samples"):
        with pytest.raises(ParityError, match="no finite value, so that nothing") as caught:
            agree(lambda _: {"y": nothing}, [Probe(name, (run,))], CONVERTED)
        assert caught.value.reason is Reason.OUTPUT_NAN
    parity = agree(lambda _: {"y": nothing}, [Probe("large", (run,))], CONVERTED)
    assert parity.proved == ()
    assert "large: output 'y' of the original has no finite value" in parity.left_out


def test_an_output_that_is_empty_each_time_is_said() -> None:
    want = {"y": single([[1.0]]), "boxes": np.zeros((0, 6), np.float32)}
    parity = agree(lambda _: want, [Probe("unit", (Run({}, want),))], CONVERTED)
    assert parity.left_out == ("output 'boxes': it was empty each time",)


def test_a_model_that_answers_infinities_alone_is_refused(
    tmp_path: Path, compiled: Compiled
) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [
            helper.make_node("Exp", ["features"], ["raised"]),
            helper.make_node("Pow", ["large", "raised"], ["y"]),
        ],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        {"large": np.float32(3e38) * np.ones(1, np.float32)},
    )
    with pytest.raises(CompilationError, match="infinite on all golden inputs") as caught:
        compiled(model, OPEN)
    assert caught.value.reason is Reason.OUTPUT_NAN


def test_a_wrong_value_among_the_users_samples_is_found_and_their_rounding_is_limited() -> None:
    inputs = {"x": np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)}
    want = {"y": inputs["x"] * 2}
    noise = {"y": np.full((50, 1), 10.0)}
    exact = [Probe("samples", (Run(inputs, want, {"y": np.zeros((50, 1))}),))]
    with pytest.raises(ParityError, match=r"on the user's samples output 'y': .* 50 of 50"):
        agree(of(lambda x: x * 3), exact, CONVERTED)
    coarse = [Probe("samples", (Run(inputs, want, noise),))]
    with pytest.raises(ParityError, match="last bits of its inputs in single precision"):
        agree(of(lambda x: x * 3), coarse, CONVERTED)
    drawn = [Probe("large", (Run(inputs, want, noise),))]
    assert agree(of(lambda x: x * 3), drawn, CONVERTED).proved == ("large",)


def test_labels_of_classes_that_tie_may_be_either() -> None:
    scores = single([[0.5, 0.5], [0.9, 0.1]])
    run = Run({"x": scores}, {"label": np.array([0, 0]), "scores": scores})
    tied = {"label": np.array([1, 0]), "scores": scores}
    agree(lambda _: tied, [Probe("unit", (run,))], CONVERTED)
    wrong = {"label": np.array([0, 1]), "scores": scores}
    with pytest.raises(ParityError, match="output 'label': 1 where 0 is expected"):
        agree(lambda _: wrong, [Probe("unit", (run,))], CONVERTED)


# What a TopK of the four best saw, in which 2, 5 and 7 are equal, and 1 and 9.
SEEN = single([[0.0, 0.1, 0.5, 0.0, 0.9, 0.5, 0.0, 0.5, 0.0, 0.1]])
PLACES = np.array([[4, 2, 7, 1]])


def ranked(shown: bool) -> Ranking:
    return lambda _: {"places": Ranked(SEEN, axis=-1, shown=shown)}


def held(want: Any, got: Any, name: str, ranking: Ranking | None) -> None:
    run = Run({"x": SEEN}, {"places": want})
    agree(lambda _: {"places": got}, [Probe(name, (run,))], CONVERTED, ranking=ranking)


@pytest.mark.parametrize(
    ("got", "right"),
    [
        ([4, 2, 7, 1], True),  # as expected
        ([4, 7, 2, 1], True),  # two equal ones in another order
        ([4, 2, 7, 9], True),  # another last one, as good
        ([4, 2, 5, 1], True),  # another one in the middle, as good
        ([4, 2, 7, 8], False),  # another last one that is not
        ([2, 4, 7, 1], False),  # in another order, and not equal
        ([4, 2, 2, 1], False),  # one of them twice
        ([4, 2, 7, 11], False),  # none of them
        ([4, 2, 7, -9], False),
    ],
)
def test_places_of_equal_scores_may_be_either(got: list[int], right: bool) -> None:
    if right:
        held(PLACES, np.array([got]), "unit", ranked(shown=True))
    else:
        with pytest.raises(ParityError, match="output 'places'"):
            held(PLACES, np.array([got]), "unit", ranked(shown=True))


def test_scores_that_nobody_sees_excuse_nothing_on_golden_inputs() -> None:
    """They may be alike because they are wrong."""
    got = np.array([[4, 2, 7, 9]])
    held(PLACES, got, "wide", ranked(shown=False))
    with pytest.raises(ParityError, match="output 'places'"):
        held(PLACES, got, "unit", ranked(shown=False))
    with pytest.raises(ParityError, match="output 'places'"):
        held(PLACES, got, "wide", None)


def save_best(path: Path, outputs: dict[str, Any], kind: int = TensorProto.INT64) -> Path:
    """Write the four best of a relu of features · weights, and where they stand."""
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["product"]),
        helper.make_node("Relu", ["product"], ["scores"]),
        helper.make_node("TopK", ["scores", "four"], ["best", "at"], axis=-1),
        helper.make_node("Cast", ["at"], ["places"], to=kind),
        helper.make_node("ArgMax", ["scores"], ["first"], axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["names", "first"], ["row"],
                         domain="ai.onnx.ml"),
        helper.make_node("Reshape", ["row", "flat"], ["label"]),
    ]  # fmt: skip
    constants = {
        "weights": np.linspace(-2, 1, 24, dtype=np.float32).reshape(4, 6),
        "four": np.array([4]), "flat": np.array([-1]), "names": np.arange(10, 16),
    }  # fmt: skip
    features = {"features": (TensorProto.FLOAT, ["n", 4])}
    return save_graph(path, nodes, features, outputs, constants, {"": 18, "ai.onnx.ml": 3})


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_the_scores_behind_places_and_labels_are_the_models_own(tmp_path: Path, kind: int) -> None:
    best = {"best": (TensorProto.FLOAT, ["n", 4]), "places": (kind, ["n", 4])}
    features = {"features": single([[0.1, 0.2, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]])}
    ranking = ranking_of(save_best(tmp_path / "best.onnx", best, kind))
    assert ranking is not None
    (found,) = ranking(features).values()
    assert (found.shown, found.label, found.scores.shape) == (True, False, (2, 6))
    label = {"label": (TensorProto.INT64, ["n"])}
    ranking = ranking_of(save_best(tmp_path / "label.onnx", label))
    assert ranking is not None
    (found,) = ranking(features).values()
    assert (found.shown, found.label) == (False, True)
    want = np.array([10, 10])
    # All of the first row are zero behind the relu; of the second the first is alone.
    assert found.as_good(np.array([11, 11]), want, 1e-3).tolist() == [True, False]
    assert ranking_of(save_linear(tmp_path / "linear.onnx")) is None


def test_the_users_samples_outrank_what_is_drawn() -> None:
    """A conversion that is wrong on negative numbers alone, which the user never has."""
    near = np.random.default_rng(0).random((64, 1)).astype(np.float32)
    drawn = {"unit": near[:4], "signed": near - 0.5, "missing": near - 0.5}
    given = {**drawn, "samples": near}
    asked = [Probe(n, (Run({"x": x}, {"y": x * 2}),)) for n, x in given.items()]
    wrong = of(lambda x: np.abs(x) * 2)
    with pytest.raises(ParityError, match="on inputs drawn 'signed'"):
        agree(wrong, asked, CONVERTED)
    found = agree(wrong, asked, CONVERTED, ("signed", "missing"))
    assert found.proved == ("unit", "samples")
    assert found.left_out[0].startswith("signed: not proved, on inputs drawn 'signed' output 'y'")
    with pytest.raises(ParityError, match="the user's samples"):
        agree(of(lambda x: x * 3), asked[1:], CONVERTED, ("signed", "missing"))


def test_truths_are_no_integers_of_eight_bits() -> None:
    want = {"y": np.array([True, False, True])}
    with pytest.raises(ParityError, match="2 of 3 values are off"):
        agree(
            lambda _: {"y": np.array([False, True, True])},
            [Probe("unit", (Run({}, want),))],
            QUANTISED,
        )


def test_what_single_precision_cannot_hold_is_infinite_in_it() -> None:
    want = {"y": np.array([[1.5e44], [-1e39], [2.0]])}
    probe = [Probe("large", (Run({}, want, {"y": np.zeros((3, 1))}),))]
    agree(lambda _: {"y": single([[np.inf], [-np.inf], [2.0]])}, probe, CONVERTED)
    with pytest.raises(ParityError, match="output 'y': inf where -inf is expected"):
        agree(lambda _: {"y": single([[np.inf], [np.inf], [2.0]])}, probe, CONVERTED)


def test_a_functions_own_step_is_no_fault_and_more_is() -> None:
    """A sigmoid that is as good as zero on golden inputs, and flushed to zero."""
    want = single(np.geomspace(1e-9, 2e-6, 64)).reshape(-1, 1)

    def hold(got: Any, elsewhere: float) -> None:
        other = np.full(want.shape, np.float32(elsewhere))
        probes = [
            Probe(name, (Run({"x": array}, {"y": array}, {"y": np.zeros(want.shape)}),))
            for name, array in (("unit", want), ("wide", other))
        ]
        agree(lambda i: {"y": got if i["x"] is want else other}, probes, CONVERTED)

    flushed = np.where(want < 9e-8, single(0), want)
    hold(flushed, 1.0)
    with pytest.raises(ParityError, match=r"0 where 2e-06 is expected"):
        hold(np.where(want > 2e-7, single(0), want), 1.0)
    with pytest.raises(ParityError, match="e-08 is expected"):
        hold(flushed, 1e-6)  # an output of that range


def test_longer_texts_are_not_cut_to_the_expected_length() -> None:
    run = Run({}, {"label": np.array(["cat"])})
    with pytest.raises(ParityError, match="caterpillar where cat is expected"):
        agree(lambda _: {"label": np.array(["caterpillar"], object)}, [Probe("unit", (run,))],
              CONVERTED)  # fmt: skip


def test_what_a_model_has_no_answer_to_is_left_out_and_whole_numbers_are_narrowed() -> None:
    def table(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["ids"].min() < 0 or inputs["ids"].max() > 1:
            raise IndexError("index out of range in self")
        return {"y": inputs["ids"] * 1.0 + inputs["x"]}

    specs = (TensorSpec("ids", "INT64", (-1, 3)), TensorSpec("x", "FP32", (-1, 3)))
    found = answer_probe("signed", specs, table)
    assert isinstance(found, Probe)
    assert found.distribution == "signed (whole numbers 0 and 1)"
    assert found.runs[0].inputs["x"].min() < 0
    only = answer_probe("wide", specs[:1], lambda i: table({**i, "x": np.zeros((1, 3))}))
    assert only == "IndexError: index out of range in self"
    assert answer_probe("edges", ROWS, of(lambda x: x * np.nan)) == "output 'y' is not finite"


def test_probes_are_the_same_each_time_and_cover_what_they_say() -> None:
    for name in probes.DISTRIBUTIONS:
        first, again = (probes.draw(name, ROWS)[0]["x"] for _ in range(2))
        np.testing.assert_array_equal(first, again)
    drawn = {name: probes.draw(name, ROWS)[0]["x"] for name in probes.DISTRIBUTIONS}
    assert drawn["signed"].min() < -1
    assert np.abs(drawn["large"]).max() > 1e4
    assert (drawn["whole"] == np.round(drawn["whole"])).all()
    assert (drawn["halves"] % 1 == 0.5).all()
    edges = drawn["edges"]
    assert {0.0, 1.0, -1.0} <= set(edges.ravel().tolist())
    assert (np.signbit(edges) & (edges == 0)).any()
    (closed, *more) = probes.draw("signed", (TensorSpec("x", "FP32", (1, 4)),))
    assert closed["x"].shape == (1, 4)
    assert len(more) == 7


def test_a_refusal_where_the_original_answers_is_recorded_not_hidden() -> None:
    def refusing(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["x"].min() < 0:
            raise InferenceError("indices must be positive")
        return {"y": inputs["x"]}

    parity = agree(refusing, probed(lambda x: x), CONVERTED)
    assert parity.proved == ("unit",)
    assert any(each == "signed: indices must be positive" for each in parity.left_out)
    with pytest.raises(ParityError, match="it fails on inputs drawn 'signed': indices must"):
        agree(refusing, probed(lambda x: x), CONVERTED, may_refuse=False)


def test_the_manifest_says_what_was_proved(tmp_path: Path, compiled: Compiled) -> None:
    manifest, _ = compiled(save_linear(tmp_path / "model" / "model.onnx"), OPEN)
    assert manifest.parity is not None
    assert set(manifest.parity.proved) == set(probes.DISTRIBUTIONS)
    assert manifest.parity.left_out == ()


def test_a_model_with_an_input_of_rank_zero(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 4]), "factor": (TensorProto.FLOAT, [])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
    )
    manifest, _ = compiled(model, '{"x": [-1, 4], "factor": []}')
    assert [spec.shape for spec in manifest.inputs] == [(-1, 4), ()]


WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def hidden(path: Path, weight: Any) -> Path:
    """Write argmax(features · weight): what the weight has is not seen in the answer."""
    nodes = [
        helper.make_node("MatMul", ["features", "weight"], ["product"]),
        helper.make_node("ArgMax", ["product"], ["best"], axis=1),
    ]
    return save_graph(
        path,
        nodes,
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"best": (TensorProto.INT64, ["n", 1])},
        {"weight": weight},
    )


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_weights_that_are_no_numbers_are_found_behind_integers(
    tmp_path: Path, compiled: Compiled, value: float, word: str
) -> None:
    weight = WEIGHT.astype(np.float32)
    weight[2, 1] = value
    with pytest.raises(CompilationError, match=f"weight 'weight' has {word} values") as caught:
        compiled(hidden(tmp_path / "model" / "model.onnx", weight), OPEN)
    assert caught.value.reason is Reason.WEIGHTS_NOT_FINITE


def test_an_infinite_mask_is_no_weight(tmp_path: Path, compiled: Compiled) -> None:
    nodes = [
        helper.make_node("Add", ["features", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"], axis=-1),
    ]
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        nodes,
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        {"mask": np.array([0, 0, -np.inf, -np.inf], np.float32)},
    )
    assert compiled(model, OPEN)[0].quantisation == "none"


def test_a_model_that_draws_random_numbers_is_refused(tmp_path: Path, compiled: Compiled) -> None:
    nodes = [
        helper.make_node("RandomUniformLike", ["features"], ["noise"], name="sampling"),
        helper.make_node("Add", ["features", "noise"], ["y"]),
    ]
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        nodes,
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
    )
    with pytest.raises(CompilationError, match="node sampling draws random numbers") as caught:
        compiled(model, OPEN)
    assert caught.value.operator == "RandomUniformLike"


def test_a_loop_without_end_on_some_inputs_leaves_them_out(
    tmp_path: Path, compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubled while the smallest is negative."""
    monkeypatch.setattr(probes, "SECONDS", 2.0)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "v"], ["v_out"]),
            helper.make_node("ReduceMin", ["v_out"], ["least"], keepdims=0),
            helper.make_node("Less", ["least", "zero"], ["again"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("v", TensorProto.FLOAT, ["n", 4])],
        [value("again", TensorProto.BOOL, []), value("v_out", TensorProto.FLOAT, ["n", 4])],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceMin", ["features"], ["first"], keepdims=0),
        helper.make_node("Less", ["first", "zero"], ["start"]),
        helper.make_node("Loop", ["", "start", "features"], ["y"], body=body),
    ]
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        nodes,
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        {"zero": np.zeros((), np.float32)},
    )
    parity = compiled(model, OPEN)[0].parity
    assert parity is not None
    assert parity.proved == ("unit",)
    assert len(parity.left_out) == len(probes.DISTRIBUTIONS) - 1


def test_inputs_go_by_the_models_own_names_in_any_order() -> None:
    assert in_order(["beta", "alpha"], ["alpha", "beta"]) == ["alpha", "beta"]
    assert in_order(["image", "mask"], ["alpha", "beta"]) == ["image", "mask"]
    assert in_order(["alpha", "mask"], ["alpha", "beta"]) == ["alpha", "mask"]
    with pytest.raises(ConversionError, match="'alpha' stands where another input is"):
        in_order(["mask", "alpha"], ["alpha", "beta"])
    with pytest.raises(ConversionError, match=r"gives 1 inputs, the model takes 2 \(alpha, beta\)"):
        in_order(["alpha"], ["alpha", "beta"])


def metric_of(outputs: Any, labels: Any, name: str = "accuracy") -> float:
    """Return the mean score of a model's answers."""
    dtype = {"f": "FP32", "i": "INT64", "U": "BYTES", "O": "BYTES"}[outputs.dtype.kind]
    specs = (TensorSpec("y", dtype, (-1, *outputs.shape[1:])),)
    metric = make_metric(name, None, None, specs).fitted(outputs, labels)
    return float(metric.scores(outputs, labels).mean())


def test_one_score_is_a_class_by_its_threshold() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    wrong = rng.random(400) < 0.1
    scores = np.where(labels.astype(bool) ^ wrong, 0.8, 0.3)
    expected = float(1 - wrong.mean())
    assert metric_of(single(scores[:, None]), labels) == pytest.approx(expected)
    assert metric_of(single(scores), labels * 2 - 1) == pytest.approx(expected)
    logits = np.log(scores / (1 - scores))
    assert metric_of(single(logits[:, None]), labels.astype(bool)) == pytest.approx(expected)


def test_labels_are_held_against_a_classifiers_own() -> None:
    names = np.array(["cat", "dog", "eel"])
    answers = names[np.arange(90) % 3]
    assert metric_of(answers.astype(object), answers) == 1.0
    specs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3)))
    assert make_metric("accuracy", None, None, specs).output == "label"
    assert make_metric("accuracy", None, "probabilities", specs).output == "probabilities"
    assert make_metric("top5", None, None, specs).output == "probabilities"


SCORES = np.eye(4, dtype=np.float32)[np.arange(80) % 4]
RIGHT = np.arange(80) % 4
ALWAYS = np.tile(np.linspace(1, 0, 8, dtype=np.float32), (80, 1))  # the first class


@pytest.mark.parametrize(
    ("outputs", "labels", "name", "why"),
    [
        (SCORES, RIGHT + 1, "accuracy", "labels go from 1 to 4, the output has 4 scores"),
        (SCORES, np.array(list("abcd"))[RIGHT], "accuracy", "'a', 'b', 'c'"),
        (SCORES, RIGHT + 0.5, "accuracy", "position of the right one, from 0"),
        (SCORES, np.eye(4)[RIGHT], "accuracy", r"shape \[80, 4\], not one class a sample"),
        (SCORES, (RIGHT + 1) % 4, "accuracy", "reaches 0.0000 on 80 .* guessing 0.2500"),
        (SCORES[:, :1], RIGHT, "accuracy", "one score a sample, the labels are 0, 1, 2"),
        (SCORES[:, :1], 1 - (RIGHT == 0), "accuracy", "guessing 0.7500"),
        (ALWAYS, np.arange(80) % 10 // 9, "accuracy", "reaches 0.9000 on 80 .* guessing 0.9000"),
        (ALWAYS[:, 0], np.arange(80) % 10 > 0, "accuracy", "reaches 0.9000 on 80 .* guessing 0.9"),
        (RIGHT * 0, np.arange(80) % 10 // 9, "accuracy", "reaches 0.9000 on 80 .* guessing 0.9000"),
        (ALWAYS, RIGHT * 0, "accuracy", "reaches 1.0000 on 80 .* guessing 1.0000"),
        (ALWAYS, np.arange(80) % 10 // 5, "top5", "reaches 1.0000 on 80 .* guessing 1.0000"),
        (SCORES[:, :1], RIGHT % 2, "accuracy", "a loss could not be seen"),
        (SCORES.reshape(80, 2, 2), RIGHT, "accuracy", "not one score a class"),
        (SCORES, RIGHT, "top5", "any of which is in the best 5"),
        (RIGHT, np.array(list("abcd"))[RIGHT], "accuracy", "labels as the model answers them"),
        (SCORES, RIGHT, "mae", "labels of the output's shape"),
        (SCORES, np.where(SCORES > 0, np.nan, SCORES), "mse", "not finite"),
    ],
)  # fmt: skip
def test_labels_that_mean_something_else_are_refused(
    outputs: Any, labels: Any, name: str, why: str
) -> None:
    with pytest.raises(OptionsError, match=why) as caught:
        metric_of(outputs, labels, name)
    assert caught.value.reason is Reason.SAMPLES_INVALID


def test_what_judges_took_no_part() -> None:
    samples = Samples({"x": np.arange(1000)}, np.arange(1000) // 100)
    parts = part(samples, None, calibrated=False)
    assert parts.apart
    assert parts.calibration is not None
    sets = [set(parts.calibration.inputs["x"]), set(parts.search), set(parts.held_out)]
    assert [len(each) for each in sets] == [128, 436, 436]
    assert not sets[0] & sets[1] | sets[1] & sets[2] | sets[0] & sets[2]
    # A file sorted by label has every label in every part.
    assert set(samples.take(parts.held_out).labels) == set(range(10))  # type: ignore[arg-type]
    given = part(samples, 32, calibrated=True)
    assert given.calibration is None
    assert len(given.held_out) % 32 == 0
    assert not part(samples.some(12), None, calibrated=False).apart


def test_a_bound_that_so_few_samples_cannot_show_is_refused(
    tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> None:
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    archive = pack(save_linear(tmp_path / "m" / "model.onnx"))
    np.savez(tmp_path / "s.npz", features=features, labels=(features @ WEIGHT).argmax(1))
    options = {"precision": "int8", "samples": "s3://b/s.npz", "max_accuracy_drop": 0.03}
    request = CompilationRequest("ONNX", OPEN, target, "m", "s3://b/m", json.dumps(options))
    files = {"s3://b/s.npz": tmp_path / "s.npz"}
    with pytest.raises(OptionsError, match=r"15 are held out .* at least 34 must be"):
        compile_model(archive, tmp_path / "b.tar.gz", request, files=files)


def test_an_output_that_is_no_answer_to_each_sample_is_no_metrics(
    tmp_path: Path, target: Target, pack: Callable[[Path], Path]
) -> None:
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
        helper.make_node("ReduceMax", ["scores"], ["best"], keepdims=0),
        helper.make_node("Unsqueeze", ["best", "first"], ["y"]),
    ]
    model = save_graph(
        tmp_path / "m" / "model.onnx",
        nodes,
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, [1])},
        {"weights": WEIGHT, "first": np.array([0])},
    )
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "s.npz", features=features, labels=np.zeros(40, np.float32))
    options = {"samples": "s3://b/s.npz", "metric": "mae"}
    request = CompilationRequest("ONNX", OPEN, target, "m", "s3://b/m", json.dumps(options))
    files = {"s3://b/s.npz": tmp_path / "s.npz"}
    with pytest.raises(OptionsError, match="output 'y' has 2 answers to 40 samples"):
        compile_model(pack(model), tmp_path / "b.tar.gz", request, files=files)


def timed(name: str, speedup: float, size: int, **more: Any) -> Trial:
    record = Candidate(
        name, "int8" if "int8" in name else "fp32", "kept", size_bytes=size, speedup=speedup,
        throughput=speedup, latency_ms=1.0, **more,
    )  # fmt: skip
    return Trial(record, Path(name))


def test_samples_with_large_answers_are_compared_as_far_as_memory_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": np.ones((len(inputs["x"]), 250), np.float32)}

    samples = Samples({"x": np.zeros((2000, 3), np.float32)})
    few = probes.answer_samples(samples.batches(None), answer)
    assert len(few) == 512 // 32
    monkeypatch.setattr(probes, "_COMPARED_BYTES", 100_000)
    assert len(probes.answer_samples(samples.batches(None), answer)) == 4  # of 32,000 bytes each
    monkeypatch.setattr(probes, "_COMPARED_BYTES", 1)
    assert len(probes.answer_samples(samples.batches(None), answer)) == 1


def test_what_a_loser_dominated_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pipeline, "holds_its_own", lambda _, path, __: "throughput" if "int8" in str(path) else None
    )
    more = {"metric": 0.97}
    trials = [timed("source", 1.0, 1000, **more), timed("fp32", 1.5, 1000, **more),
              timed("int8", 2.0, 300, **more)]  # fmt: skip
    chosen, records = pipeline._choose(trials, Path("s"), CompilerOptions(), Evidence({}, {}))
    assert chosen.record.name == "fp32"
    assert {r.name: r.status for r in records} == {
        "source": "dominated", "fp32": "chosen", "int8": "rejected"
    }  # fmt: skip


def test_no_second_look_is_taken_on_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "holds_its_own", lambda *_: pytest.fail("it was timed"))
    trials = [timed("source", 1.0, 1000), timed("fp32", 1.5, 1000),
              timed("int8", 0.5, 300, snr_db=30.0, reason="few samples")]  # fmt: skip
    chosen, _ = pipeline._choose(
        trials, Path("s"), CompilerOptions(), Evidence({}, {}), timed=False
    )
    assert chosen.record.name == "int8"
    assert (chosen.record.reason or "").startswith("few samples; chosen by size and accuracy")


def test_the_source_is_delivered_where_every_other_loses_a_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "holds_its_own", lambda *_: "latency")
    trials = [timed("source", 1.0, 1000), timed("fp32", 1.05, 990),
              timed("int8", 1.3, 300, snr_db=25.0)]  # fmt: skip
    evidence = Evidence({}, {})
    chosen, records = pipeline._choose(trials, Path("s"), CompilerOptions(), evidence)
    assert chosen.record.name == "source"
    assert {r.name: r.status for r in records} == {
        "source": "chosen", "fp32": "rejected", "int8": "rejected"
    }  # fmt: skip
    assert all(r.reason and "second look" in r.reason for r in records if r.name != "source")
    chosen, records = pipeline._choose(
        trials[1:], Path("s"), CompilerOptions(format="ort"), evidence
    )
    assert chosen.record.name == "fp32"
    assert "second look" in (chosen.record.reason or "")
    assert dataclasses.asdict(chosen.record) == dataclasses.asdict(records[0])


@pytest.mark.parametrize(
    ("shape", "channels", "runs"),
    [([5], 0, 4), ([1, 8, 5], 2, 64), ([1, 2, 5, 20, 20], 2, 64), ([1, 5], 1, 8), ([64, 5], 1, 1)],
)
def test_a_constant_is_no_score_whatever_stands_around_it(
    shape: list[int], channels: int, runs: int
) -> None:
    """Beside edges of 640 a score is within a thousandth of them, whatever it is."""
    rng = np.random.default_rng(0)
    asked, answers = [], {}
    for number in range(runs):
        y = rng.normal(size=shape)
        places = np.moveaxis(y, channels, -1)
        places[..., :4] *= 640
        places[..., 4] = 1 / (1 + np.exp(-3 * places[..., 4]))
        inputs = {"x": np.full((1, 8), number, np.float32)}
        asked.append(Run(inputs, {"y": y.astype(np.float32)}))
        constant = y.astype(np.float32)
        np.moveaxis(constant, channels, -1)[..., 4] = 0.5
        answers[number] = constant

    right = {number: run.expected for number, run in enumerate(asked)}
    for closeness in (CONVERTED, REWRITTEN):
        agree(lambda each: right[int(each["x"][0, 0])], [Probe("unit", tuple(asked))], closeness)
        with pytest.raises(ParityError, match=r"0\.5 where"):
            agree(
                lambda each: {"y": answers[int(each["x"][0, 0])]},
                [Probe("unit", tuple(asked))],
                closeness,
            )
