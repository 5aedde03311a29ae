import dataclasses
import gzip
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_delivery_engine import latency
from model_delivery_engine.archive import pack_archive
from model_delivery_engine.bundle import Manifest, open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model, contest
from model_delivery_engine.digest import digest_file
from model_delivery_engine.errors import (
    ArchiveError,
    CompilationError,
    DataInputError,
    InferenceError,
    ParityError,
    Reason,
    one_line,
)
from model_delivery_engine.graph import load_graph, newest_operator_set
from model_delivery_engine.latency import machine_arch
from model_delivery_engine.optimise import optimise
from model_delivery_engine.parity import measure_parity
from model_delivery_engine.runtime import Model, check_golden, open_session, session_options
from model_delivery_engine.targets import Target, resolve_target
from onnx import TensorProto, helper

from tests.unit.engine.conftest import WEIGHTS, linear, save_graph, save_linear

Compiled = Callable[..., tuple[Manifest, Path]]
OPEN = '{"features": [-1, 4]}'


def request_for(target: Target, **changes: Any) -> CompilationRequest:
    base = CompilationRequest("ONNX", OPEN, target, "linear", "s3://bucket/model.tar.gz")
    return dataclasses.replace(base, **changes)


def test_a_compiled_model_answers_as_its_source(tmp_path: Path, compiled: Compiled) -> None:
    manifest, archive = compiled(save_linear(tmp_path / "model" / "model.onnx"), OPEN)
    bundle = open_bundle(archive, tmp_path / "opened")
    model = Model.load(bundle)
    check_golden(model, bundle)
    features = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_allclose(
        model.run({"features": features})["scores"], linear(features), rtol=1e-4
    )
    assert manifest == bundle.manifest


def test_the_manifest_says_what_was_compiled(
    tmp_path: Path, compiled: Compiled, target: Target
) -> None:
    manifest, _ = compiled(save_linear(tmp_path / "model" / "model.onnx"), OPEN)
    archive = tmp_path / "model-model.tar.gz"
    assert dataclasses.astuple(manifest.source) == (
        "s3://bucket/model.tar.gz",
        digest_file(archive),
        "ONNX",
    )
    assert manifest.target == target
    assert manifest.toolchain["onnx"] == onnx.__version__
    assert dataclasses.astuple(manifest.inputs[0]) == ("features", "FP32", (-1, 4))
    assert dataclasses.astuple(manifest.outputs[0]) == ("scores", "FP32", (-1, 3))
    assert manifest.golden.count == 4
    assert manifest.parity is not None
    assert (manifest.parity.argmax_agreement, manifest.parity.samples) == (1.0, 4)
    assert 0 <= manifest.parity.max_abs < 1e-5
    assert manifest.latency is not None
    assert manifest.latency.source_ms > 0
    assert manifest.latency.compiled_ms > 0
    assert manifest.latency.machine


def test_every_figure_of_a_target_that_this_machine_is_not_is_marked_proxy(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    archive = pack(save_linear(tmp_path / "model" / "model.onnx"))
    kinds = {}
    for name, target in (
        ("here", resolve_target(None, {"Os": "LINUX", "Arch": machine_arch()})),
        ("there", resolve_target("rasp4b" if machine_arch() == "X86_64" else "ml_c5", None)),
        ("alike", resolve_target("x86_win64", None)),
    ):
        manifest = compile_model(archive, tmp_path / "b.tar.gz", request_for(target))
        assert manifest.latency is not None
        assert manifest.parity is not None
        assert manifest.profile is not None
        found = {manifest.latency.kind, manifest.parity.kind, *manifest.profile.kinds.values()}
        found |= {each.kind or "" for each in manifest.candidates}
        (kinds[name],) = found
    assert kinds == {"here": "measured", "there": "proxy", "alike": "proxy"}


@pytest.mark.parametrize(
    ("device", "hardware", "kind"),
    [
        ("ml_c5", "c5.2xlarge", "measured"),
        ("ml_c5", "m5.2xlarge", "proxy"),
        ("ml_c5", "", "proxy"),
        ("lambda", "c5.2xlarge", "proxy"),
        ("rasp4b", "Raspberry Pi 4 Model B Rev 1.4", "measured"),
        ("rasp4b", "Raspberry Pi 5 Model B Rev 1.0", "proxy"),
    ],
)
def test_a_machine_is_a_device_where_its_hardware_says_so(
    monkeypatch: pytest.MonkeyPatch, device: str, hardware: str, kind: str
) -> None:
    target = resolve_target(device, None)
    monkeypatch.setattr(latency, "hardware", lambda: hardware)
    monkeypatch.setattr(latency, "machine_arch", lambda: target.arch)
    assert latency.kind_for(target) == kind
    monkeypatch.setattr(latency, "machine_arch", lambda: "another")
    assert latency.kind_for(target) == "proxy"


class Slow:
    """A model that takes its time, by a clock of its own."""

    batch_size = None

    def __init__(self, clock: list[float]) -> None:
        self.runs = 0
        self._clock = clock

    def run(self, inputs: Any) -> dict[str, Any]:
        self.runs += 1
        self._clock[0] += 10.0
        return {}


def test_a_slow_model_is_run_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    for name in ("monotonic", "perf_counter", "thread_time"):
        monkeypatch.setattr(time, name, lambda: clock[0])
    models: Any = [Slow(clock), Slow(clock)]
    times = latency.interleave(models, {})
    assert times == [[10_000.0] * 3] * 2  # 60 s are over after the third round
    assert latency.relative_throughput(*models, {}) == 1.0
    assert [model.runs for model in models] == [2 + 3 + 2 + 2 * 3] * 2
    looks = []

    def look() -> float:
        clock[0] += 60.0
        looks.append(1.5)
        return 1.5

    assert contest._middle_look(look) == 1.5
    assert len(looks) == 1


def test_an_input_may_have_any_name(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("MatMul", ["file", "weights"], ["y"])],
        {"file": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 3])},
        {"weights": WEIGHTS},
    )
    manifest, _ = compiled(model, '{"file": [-1, 4]}')
    assert manifest.profile is not None


def test_constants_are_folded_ahead_of_time(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Mul", ["x", "sum"], ["y"]),
    ]
    model = save_graph(
        tmp_path / "model.onnx",
        nodes,
        {"x": (TensorProto.FLOAT, ["n", 2])},
        {"y": (TensorProto.FLOAT, ["n", 2])},
        {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)},
    )
    optimise(model, tmp_path / "folded.onnx", "fold")
    graph = onnx.load(tmp_path / "folded.onnx").graph
    assert [node.op_type for node in graph.node] == ["Mul"]


@pytest.mark.parametrize("batch", ["batch", None, 2])
def test_a_given_batch_size_is_fixed(
    tmp_path: Path, compiled: Compiled, batch: int | str | None
) -> None:
    model = save_linear(tmp_path / "model" / "model.onnx", batch)
    manifest, archive = compiled(model, '{"features": [2, 4]}')
    assert (manifest.inputs[0].shape, manifest.outputs[0].shape) == ((2, 4), (2, 3))
    assert Model.load(open_bundle(archive, tmp_path / "opened")).batch_size == 2


def test_a_symbol_shared_by_two_inputs_takes_one_size(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"a": (TensorProto.FLOAT, ["n", "k"]), "b": (TensorProto.FLOAT, ["n", "k"])},
        {"y": (TensorProto.FLOAT, ["n", "k"])},
    )
    manifest, _ = compiled(model, '{"a": [-1, 5], "b": [-1, 5]}')
    assert manifest.outputs[0].shape == (-1, 5)
    with pytest.raises(DataInputError, match=r"input 'b': the model takes \[n, k\].*\[-1, 6\]"):
        compiled(model, '{"a": [-1, 5], "b": [-1, 6]}')


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.INT64, "INT64"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.DOUBLE, "FP64"),
    ],
)
def test_inputs_of_other_types(tmp_path: Path, compiled: Compiled, kind: int, dtype: str) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        {"x": (kind, ["n", 3])},
        {"y": (TensorProto.FLOAT, ["n", 3])},
    )
    manifest, archive = compiled(model, '{"x": [-1, 3]}')
    assert manifest.inputs[0].dtype == dtype
    bundle = open_bundle(archive, tmp_path / "opened")
    check_golden(Model.load(bundle), bundle)


def test_token_ids_stay_inside_a_small_vocabulary(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        {"ids": (TensorProto.INT64, ["n", 3])},
        {"y": (TensorProto.FLOAT, ["n", 3, 5])},
        {"table": np.ones((2, 5), np.float32)},
    )
    assert compiled(model, '{"ids": [-1, 3]}')[0].outputs[0].shape == (-1, 3, 5)


def test_string_inputs_are_refused(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("StringNormalizer", ["x"], ["y"])],
        {"x": (TensorProto.STRING, [3])},
        {"y": (TensorProto.STRING, [3])},
    )
    with pytest.raises(CompilationError, match="'x' takes strings"):
        compiled(model, '{"x": [3]}')


def test_a_sequence_as_input_is_refused(tmp_path: Path, compiled: Compiled) -> None:
    path = tmp_path / "model" / "model.onnx"
    graph = helper.make_graph(
        [helper.make_node("SequenceLength", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [])],
    )
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    with pytest.raises(DataInputError, match="'x' is no plain tensor but a sequence_type"):
        compiled(path, '{"x": [1]}')


def test_a_list_of_dictionaries_as_output_is_refused(tmp_path: Path, compiled: Compiled) -> None:
    path = tmp_path / "model" / "model.onnx"
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, floats))
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_value_info("y", maps)],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    with pytest.raises(CompilationError, match=r"'y' has the type seq.*zipmap=False"):
        compiled(path, '{"x": [-1, 2]}')


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("{'features': [1, 4]}", "not JSON"),
        ("[1, 4]", "names no input"),
        ('{"features": [1, 4], "features": [2, 4]}', "'features' twice"),
        ('{"features": 4}', "not a list of whole numbers"),
        ('{"features": [1, 4.0]}', "not a list of whole numbers"),
        ('{"features": [true, 4]}', "not a list of whole numbers"),
        ('{"features": [1, -1]}', "dimension -1 at position 1"),
        ('{"features": [-2, 4]}', "dimension -2 at position 0"),
        ('{"features": [0, 4]}', "dimension 0 at position 0"),
        ('{"features": [999999999, 4]}', "the limit is"),
        ('{"image": [1, 4]}', r"'features' is missing.*features: \[batch, 4\]"),
        ('{"features": [1, 4], "z": [1]}', "'z' is no input of the model"),
        ('{"features": [1, 5]}', r"'features': the model takes \[batch, 4\].*gives \[1, 5\]"),
        ('{"features": [4]}', r"takes \[batch, 4\].*gives \[4\]"),
    ],
)
def test_a_wrong_data_input_config_is_refused(
    tmp_path: Path, compiled: Compiled, config: str, why: str
) -> None:
    model = save_linear(tmp_path / "model" / "model.onnx")
    with pytest.raises(DataInputError, match=why):
        compiled(model, config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [None, "", "{}"])
def test_shapes_that_the_model_says_need_not_be_given(
    tmp_path: Path, compiled: Compiled, config: str | None
) -> None:
    for name, batch, shape in (("open", "batch", (-1, 4)), ("fixed", 2, (2, 4))):
        model = save_linear(tmp_path / name / "model.onnx", batch=batch)
        manifest, _ = compiled(model, config)
        assert [spec.shape for spec in manifest.inputs] == [shape]


def test_shapes_that_the_model_leaves_open_have_to_be_given(
    tmp_path: Path, compiled: Compiled
) -> None:
    node = helper.make_node("Relu", ["image"], ["y"])
    image = (TensorProto.FLOAT, ["batch", 3, "height", 8])
    model = save_graph(tmp_path / "m" / "model.onnx", [node], {"image": image}, {"y": image})
    says = r"input 'image'.*DataInputConfig has to.*image: \[batch, 3, height, 8\]"
    with pytest.raises(DataInputError, match=says):
        compiled(model, None)


def test_an_open_batch_needs_a_model_that_leaves_it_open(
    tmp_path: Path, compiled: Compiled
) -> None:
    model = save_linear(tmp_path / "model" / "model.onnx", batch=1)
    with pytest.raises(DataInputError, match=r"takes \[1, 4\], DataInputConfig gives \[-1, 4\]"):
        compiled(model, OPEN)


def test_a_shape_that_the_graph_cannot_take_is_blamed_on_the_config(
    tmp_path: Path, compiled: Compiled
) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", "k"])},
        {"y": (TensorProto.FLOAT, ["m", 8])},
        {"shape": np.array([-1, 8])},
    )
    with pytest.raises(CompilationError, match=r"Reshape|DataInputConfig"):
        compiled(model, '{"x": [1, 7]}')


@pytest.mark.parametrize(
    ("framework", "why"),
    [
        ("PYTORCH", r"no PyTorch file.*torch\.jit\.save"),
        ("MXNET", "export the model to ONNX with mxnet"),
        ("DARKNET", "export the model to ONNX"),
        ("CAFFE", "'CAFFE' is unknown"),
    ],
)
def test_another_framework_is_told_what_to_export(
    tmp_path: Path, pack: Callable[[Path], Path], target: Target, framework: str, why: str
) -> None:
    archive = pack(save_linear(tmp_path / "model" / "model.onnx"))
    with pytest.raises(CompilationError, match=why):
        compile_model(archive, tmp_path / "b", request_for(target, framework=framework))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('{"dtype": "int64"}', "ONNX knows its data types"),
        ('{"signature_def_key": "other"}', "ONNX has no signatures"),
        ('{"optimise_for": "host"}', "the target is ARM64"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    tmp_path: Path, pack: Callable[[Path], Path], target: Target, options: str, says: str
) -> None:
    archive = pack(save_linear(tmp_path / "model" / "model.onnx"))
    if "host" in options:
        other = "X86_64" if machine_arch() == "ARM64" else "ARM64"
        target, says = dataclasses.replace(target, arch=other), f"the target is {other}"
    with pytest.raises(CompilationError, match=says):
        compile_model(archive, tmp_path / "b", request_for(target, compiler_options=options))


def test_what_is_no_tensor_of_ours_is_called_so(
    tmp_path: Path, compiled: Callable[..., tuple[Manifest, Path]]
) -> None:
    kinds = {"x": (TensorProto.BFLOAT16, ["n", 2])}
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = save_graph(
        tmp_path / "half" / "m.onnx", nodes, kinds, {"y": (TensorProto.BFLOAT16, ["n", 2])}
    )
    with pytest.raises(CompilationError, match=r"bfloat16.*; cast it to float32 in") as caught:
        compiled(model, '{"x": [-1, 2]}')
    assert caught.value.reason is Reason.TENSOR_UNSUPPORTED
    assert "standard operators" not in str(caught.value)


def test_a_format_that_is_too_new_and_a_graph_without_answers_say_so(
    tmp_path: Path, compiled: Callable[..., tuple[Manifest, Path]]
) -> None:
    path = save_linear(tmp_path / "new" / "m.onnx")
    model = onnx.load(path)
    model.ir_version = onnx.IR_VERSION
    onnx.save(model, path)
    newest = _newest_format()
    if newest < onnx.IR_VERSION:
        with pytest.raises(CompilationError, match=f"ir_version={newest} or lower") as caught:
            compiled(path, '{"features": [-1, 4]}')
        assert caught.value.reason is Reason.OPSET_TOO_NEW
    del model.graph.output[:]
    onnx.save(model, path)
    with pytest.raises(CompilationError, match="has no output") as caught:
        compiled(path, '{"features": [-1, 4]}')
    assert caught.value.reason is Reason.MODEL_INVALID


def _newest_format() -> int:
    """Return the newest IR version that ONNX Runtime reads, as it says itself."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        *([helper.make_tensor_value_info(n, TensorProto.FLOAT, [1])] for n in "xy"),
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=99)
    with pytest.raises(InferenceError) as caught:
        open_session(model.SerializeToString(), session_options())
    return int(str(caught.value).partition("max supported IR version: ")[2].split()[0])


def test_missing_weights_are_named_without_our_folders(
    tmp_path: Path, compiled: Callable[..., tuple[Manifest, Path]]
) -> None:
    path = save_linear(tmp_path / "gone" / "m.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (path.parent / "w.bin").rename(path.parent / "other.bin")
    with pytest.raises(CompilationError, match=r"w\.bin") as caught:
        compiled(path, '{"features": [-1, 4]}')
    assert "/" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        '{"dtype": "int128"}',
        "not json",
        "[]",
        '{"mcpu": "x"}',
        '{"precision": "int8", "precision": "fp32"}',
        '{"metric": "f1"}',
        '{"labels": "y"}',
        '{"calibration": "file.npz"}',
        '{"samples": "s3:/bucket/file.npz"}',
        '{"samples": "s3://bucket/file.npz", "metric": "metrics/f1.onnx"}',
    ],
)
def test_an_unknown_compiler_option_is_refused(
    tmp_path: Path, pack: Callable[[Path], Path], target: Target, options: str
) -> None:
    archive = pack(save_linear(tmp_path / "model" / "model.onnx"))
    with pytest.raises(CompilationError, match="CompilerOptions"):
        compile_model(archive, tmp_path / "b", request_for(target, compiler_options=options))


def test_a_missing_archive_is_refused(tmp_path: Path, target: Target) -> None:
    with pytest.raises(ArchiveError, match="no such archive"):
        compile_model(tmp_path / "gone.tar.gz", tmp_path / "b", request_for(target))


def test_an_archive_with_no_model_or_two(tmp_path: Path, target: Target) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "readme").write_text("no model")
    pack_archive(folder, tmp_path / "none.tar.gz")
    with pytest.raises(CompilationError, match=r"no \.onnx file"):
        compile_model(tmp_path / "none.tar.gz", tmp_path / "b", request_for(target))
    save_linear(folder / "a.onnx")
    save_linear(folder / "sub" / "b.onnx")
    pack_archive(folder, tmp_path / "two.tar.gz")
    with pytest.raises(CompilationError, match=r"2 models \(a\.onnx, sub/b\.onnx\)"):
        compile_model(tmp_path / "two.tar.gz", tmp_path / "b", request_for(target))


@pytest.mark.parametrize("data", [b"", b"\x00\x01garbage", os.urandom(4096)])
def test_bytes_that_are_no_model(tmp_path: Path, compiled: Compiled, data: bytes) -> None:
    model = tmp_path / "model" / "model.onnx"
    model.parent.mkdir()
    model.write_bytes(data)
    with pytest.raises(CompilationError, match=r"model\.onnx (has no graph|is not a complete)"):
        compiled(model, OPEN)


def test_a_custom_operator_is_named(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Wobble", ["features"], ["y"], domain="com.acme", name="wobbler")],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        opsets={"": 18, "com.acme": 1},
    )
    with pytest.raises(CompilationError, match=r"'wobbler' is the custom operator com\.acme\.Wob"):
        compiled(model, OPEN)


def test_an_operator_that_does_not_exist_is_named(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Wobble", ["features"], ["y"])],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
    )
    with pytest.raises(CompilationError, match=r"model\.onnx is not valid ONNX.*Wobble"):
        compiled(model, OPEN)


@pytest.mark.parametrize("opset", [99, newest_operator_set() + 1])
def test_an_operator_set_too_new_is_named(tmp_path: Path, compiled: Compiled, opset: int) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Relu", ["features"], ["y"])],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        opsets={"": opset},
    )
    with pytest.raises(CompilationError, match=f"operator set {opset}, the newest known here is"):
        compiled(model, OPEN)


def test_weights_of_nan_are_blamed_on_the_source(tmp_path: Path, compiled: Compiled) -> None:
    weights = np.where(WEIGHTS > 0.9, np.nan, WEIGHTS).astype(np.float32)
    model = save_linear(tmp_path / "model" / "model.onnx", weights=weights)
    with pytest.raises(CompilationError, match="weight 'weights' has NaN values"):
        compiled(model, OPEN)


def test_answers_of_nan_are_blamed_on_the_source(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Neg", ["features"], ["n"]), helper.make_node("Sqrt", ["n"], ["scores"])],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"scores": (TensorProto.FLOAT, ["n", 4])},
    )
    with pytest.raises(CompilationError, match="'scores' of the source model is NaN") as caught:
        compiled(model, OPEN)
    assert caught.value.reason is Reason.OUTPUT_NAN


def test_weights_in_a_file_outside_the_archive_are_refused(
    tmp_path: Path, compiled: Compiled
) -> None:
    path = save_linear(tmp_path / "model" / "model.onnx")
    (tmp_path / "secret").write_bytes(b"\0" * 48)
    where = {"location": "../secret", "offset": "0", "length": "48"}
    model = with_weights_elsewhere(path, 48, where)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CompilationError, match="not a complete ONNX model"):
        compiled(path, OPEN)


def with_weights_elsewhere(path: Path, size: int, where: dict[str, str]) -> onnx.ModelProto:
    """Return a model whose first weights, of so many bytes, lie in a file beside it."""
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.dims[:] = [4, size // 16]
    weights.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        weights.external_data.add(key=key, value=value)
    return model


def test_a_model_over_the_formats_limit_says_so_before_its_weights_are_read(
    tmp_path: Path, target: Target
) -> None:
    """It is a real one of 2.25 GiB: its archive has to pass, for its model to be refused."""
    size = 9 * 2**28
    path = save_linear(tmp_path / "model.onnx")
    where = {"location": "weights.bin", "offset": "0", "length": str(size)}
    model = with_weights_elsewhere(path, size, where)
    archive = tmp_path / "large.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        for name, data, length in (
            ("model.onnx", model.SerializeToString(), None),
            ("weights.bin", None, size),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data) if data is not None else length or 0
            packed.write(member.tobuf())
            if data is not None:
                packed.write(data + bytes(-len(data) % 512))
            else:
                for _ in range(size // 2**24):
                    packed.write(bytes(2**24))
        packed.write(bytes(1024))
    with pytest.raises(CompilationError, match="over 2 GiB with its weights") as refused:
        compile_model(archive, tmp_path / "bundle.tar.gz", request_for(target))
    assert refused.value.reason is Reason.MODEL_TOO_LARGE


def test_weights_that_do_not_say_how_long_they_are_are_counted_to_the_files_end(
    tmp_path: Path,
) -> None:
    size = 9 * 2**28
    path = save_linear(tmp_path / "model.onnx")
    model = with_weights_elsewhere(path, size, {"location": "weights.bin"})
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(size)
    with pytest.raises(CompilationError, match="over 2 GiB with its weights") as refused:
        load_graph(path)
    assert refused.value.reason is Reason.MODEL_TOO_LARGE


def test_weights_in_a_file_beside_the_model_are_taken_in(
    tmp_path: Path, compiled: Compiled
) -> None:
    path = save_linear(tmp_path / "model" / "model.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    manifest, archive = compiled(path, OPEN)
    bundle = open_bundle(archive, tmp_path / "opened")
    check_golden(Model.load(bundle), bundle)
    assert manifest.golden.count == 4


def test_parity_beyond_the_tolerance_is_an_error_with_the_worst_value() -> None:
    source = {"y": np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)}
    near = {"y": source["y"] + np.float32(5e-5)}
    parity = measure_parity(near, source)
    assert parity.max_abs == pytest.approx(5e-5, rel=1e-2)
    assert parity.argmax_agreement == 1.0
    far = {"y": source["y"] + np.array([[0, 0], [0, 0.1]], np.float32)}
    with pytest.raises(ParityError, match=r"output 'y': 0\.6 where 0\.5 is expected"):
        measure_parity(far, source)


def test_argmax_agreement_is_the_share_of_samples() -> None:
    source = {"y": np.array([[0.5, 0.50001], [0, 1], [1, 0], [1, 0]], np.float32)}
    compiled = {"y": np.array([[0.50001, 0.5], [0, 1], [1, 0], [1, 0]], np.float32)}
    assert measure_parity(compiled, source).argmax_agreement == 0.75


def test_integer_outputs_must_be_equal() -> None:
    with pytest.raises(ParityError, match="1 of 3 values differ"):
        measure_parity({"label": np.array([1, 2, 4])}, {"label": np.array([1, 2, 3])})


def test_the_newest_operator_set_is_accepted(tmp_path: Path, compiled: Compiled) -> None:
    model = save_graph(
        tmp_path / "model" / "model.onnx",
        [helper.make_node("Relu", ["features"], ["y"])],
        {"features": (TensorProto.FLOAT, ["n", 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        opsets={"": newest_operator_set()},
    )
    assert compiled(model, OPEN)[0].golden.count == 4


@pytest.mark.parametrize("operator", ["Relu", "Gelu"])
def test_an_output_without_a_shape_has_the_one_that_is_inferred(
    tmp_path: Path, compiled: Compiled, operator: str
) -> None:
    """ONNX infers the one, ONNX Runtime the other, which is its own."""
    own = {"domain": "com.microsoft"} if operator == "Gelu" else {}
    node = helper.make_node(operator, ["x"], ["y"], **own)
    path = save_graph(
        tmp_path / "m" / "model.onnx",
        [node],
        {"x": (TensorProto.FLOAT, ["batch", 4])},
        {"y": (TensorProto.FLOAT, None)},
        opsets={"": 18, "com.microsoft": 1},
    )
    manifest, _ = compiled(path, '{"x": [-1, 4]}')
    assert [spec.shape for spec in manifest.outputs] == [(-1, 4)]


def test_a_message_of_another_library_stays_on_one_line() -> None:
    assert one_line("\x1b[1mcannot reshape\x1b[0m\n  it") == "cannot reshape it"
    assert one_line(ValueError("first\n   second")) == "first second"
    assert one_line(ValueError("x" * 600)) == "x" * 500 + "…"
