import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_delivery_engine.archive import extract_archive, pack_archive
from model_delivery_engine.bundle import Bundle, Manifest, open_bundle, write_bundle
from model_delivery_engine.digest import digest_bytes, digest_file
from model_delivery_engine.errors import BundleError, InferenceError, ParityError
from model_delivery_engine.parity import tolerance_for
from model_delivery_engine.runtime import Model, check_golden

from tests.unit.engine.conftest import linear, save_linear


@pytest.fixture
def archive(tmp_path: Path, compiled: Callable[..., tuple[Manifest, Path]]) -> Path:
    model = save_linear(tmp_path / "model" / "model.onnx")
    return compiled(model, '{"features": [-1, 4]}')[1]


def rewritten(archive: Path, change: Callable[[Path], None]) -> Path:
    """Return the same bundle after a change to its extracted files."""
    folder = archive.parent / "rewritten"
    extract_archive(archive, folder)
    change(folder)
    pack_archive(folder, archive.parent / "changed.tar.gz")
    return archive.parent / "changed.tar.gz"


def edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**data, **changes}))

    return edit


def test_a_digest_is_sha256_in_hex(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_file(tmp_path / "abc") == digest_bytes(b"abc") == expected


def test_a_bundle_opens_as_it_was_written(archive: Path, tmp_path: Path) -> None:
    bundle = open_bundle(archive, tmp_path / "opened")
    assert bundle.manifest == Manifest.from_json(bundle.manifest.to_json())
    assert bundle.manifest.model_digest == digest_file(bundle.model_path)
    assert bundle.golden_inputs["features"].shape == (4, 4)
    expected = linear(bundle.golden_inputs["features"])
    np.testing.assert_allclose(bundle.golden_outputs["scores"], expected, rtol=1e-5)


def test_writing_twice_gives_the_same_bytes(linear_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bundle(
            tmp_path / name,
            model=linear_bundle.model_path,
            manifest=linear_bundle.manifest,
            golden_inputs=linear_bundle.golden_inputs,
            golden_outputs=linear_bundle.golden_outputs,
        )
    assert digest_file(tmp_path / "one") == digest_file(tmp_path / "two")


def test_string_outputs_are_kept_without_a_pickle(linear_bundle: Bundle, tmp_path: Path) -> None:
    manifest = linear_bundle.manifest
    label = dataclasses.replace(manifest.outputs[0], name="label", dtype="BYTES", shape=(-1,))
    write_bundle(
        tmp_path / "strings.tar.gz",
        model=linear_bundle.model_path,
        manifest=dataclasses.replace(manifest, outputs=(label,)),
        golden_inputs=linear_bundle.golden_inputs,
        golden_outputs={"label": np.array(["cat", "dög"], dtype=object)},
    )
    opened = open_bundle(tmp_path / "strings.tar.gz", tmp_path / "strings")
    assert opened.golden_outputs["label"].tolist() == ["cat", "dög"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"other"), "model.onnx has the digest"),
        (lambda folder: (folder / "golden/inputs.npz").write_bytes(b"x"), "golden has the digest"),
        (lambda folder: (folder / "golden/outputs.npz").unlink(), "'golden/outputs.npz' is miss"),
        (lambda folder: (folder / "extra.so").write_bytes(b"x"), "'extra.so' is missing or does"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a JSON object"),
        (edit_manifest(schema_version=2), "schema_version 2"),
        (edit_manifest(name=None), "'name' has the wrong type"),
        (edit_manifest(surprise=1), "'surprise' is missing or unknown"),
        (edit_manifest(source={"uri": "s3://b/k"}), "source: field 'digest'"),
        (edit_manifest(inputs=[{"name": "x", "dtype": "FP99", "shape": [1]}]), "unknown dtype"),
        (edit_manifest(outputs=[]), "golden outputs: 'scores'"),
    ],
)
def test_an_altered_bundle_is_refused_and_not_left_behind(
    archive: Path, tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    with pytest.raises(BundleError, match=why):
        open_bundle(rewritten(archive, change), tmp_path / "opened")
    assert not (tmp_path / "opened").exists()


def test_golden_arrays_must_be_the_manifests(linear_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="golden inputs: 'features'"):
        write_bundle(
            tmp_path / "b.tar.gz",
            model=linear_bundle.model_path,
            manifest=linear_bundle.manifest,
            golden_inputs={},
            golden_outputs=linear_bundle.golden_outputs,
        )
    assert not (tmp_path / "b.tar.gz").exists()


def test_the_model_answers_and_reproduces_its_golden_samples(linear_bundle: Bundle) -> None:
    model = Model.load(linear_bundle, threads=1)
    check_golden(model, linear_bundle)
    features = np.eye(4, dtype=np.float32)
    answers = model.run({"features": features})
    np.testing.assert_allclose(answers["scores"], linear(features), rtol=1e-5)
    assert model.batch_size is None


@pytest.mark.parametrize("wrong", [0.1, np.nan])
def test_another_answer_than_the_golden_one_is_noticed(linear_bundle: Bundle, wrong: float) -> None:
    outputs = {"scores": linear_bundle.golden_outputs["scores"].copy()}
    outputs["scores"][2, 1] += wrong
    bundle = dataclasses.replace(linear_bundle, golden_outputs=outputs)
    with pytest.raises(ParityError, match=r"'linear' does not reproduce .* output 'scores'"):
        check_golden(Model.load(bundle), bundle)


@pytest.mark.parametrize("size", [1e-3, 3e-5, 1e-8])
@pytest.mark.parametrize("quantisation", ["none", "int8-dynamic"])
def test_zeros_are_not_the_answers_however_small_these_are(
    linear_bundle: Bundle, size: float, quantisation: str
) -> None:
    answers = linear_bundle.golden_outputs["scores"] * np.float32(size)
    golden = linear_bundle.manifest.golden
    if quantisation != "none":
        tolerance = tolerance_for("int8", {"scores": answers})
        golden = dataclasses.replace(golden, atol=tolerance.atol, rtol=tolerance.rtol)
    manifest = dataclasses.replace(linear_bundle.manifest, golden=golden, quantisation=quantisation)
    bundle = dataclasses.replace(
        linear_bundle, manifest=manifest, golden_outputs={"scores": answers}
    )
    check_golden(_Answering(answers * np.float32(1.0005)), bundle)
    with pytest.raises(ParityError, match="output 'scores'"):
        check_golden(_Answering(np.zeros_like(answers)), bundle)


def test_what_sums_lose_at_one_is_no_difference(linear_bundle: Bundle) -> None:
    """Small differences of large numbers, and zeros, which have no size."""
    answers = linear_bundle.golden_outputs["scores"]
    for golden, lost in ((answers * np.float32(1e-3), 8e-7), (answers * 0, 2e-6)):
        bundle = dataclasses.replace(linear_bundle, golden_outputs={"scores": golden})
        check_golden(_Answering(golden + np.float32(lost)), bundle)
        with pytest.raises(ParityError, match="output 'scores'"):
            check_golden(_Answering(golden + np.float32(2e-4)), bundle)


class _Answering:
    """Stands for a device that answers so."""

    name = "linear"

    def __init__(self, scores: Any) -> None:
        self._scores = scores

    def run(self, inputs: Any) -> Any:
        return {"scores": self._scores}


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({}, "input 'features' is missing"),
        ({"features": np.ones((1, 4), np.float32), "x": np.ones(1)}, "'x' is missing or unknown"),
        ({"features": np.ones((1, 4))}, "takes FP32, got float64"),
        ({"features": np.ones((1, 5), np.float32)}, r"takes shape \[-1, 4\].*got \[1, 5\]"),
        ({"features": np.ones(4, np.float32)}, r"got \[4\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    linear_bundle: Bundle, inputs: dict[str, Any], why: str
) -> None:
    with pytest.raises(InferenceError, match=why):
        Model.load(linear_bundle).run(inputs)


def test_a_model_that_cannot_be_loaded_is_named(linear_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    bundle = dataclasses.replace(linear_bundle, model_path=tmp_path / "broken.onnx")
    with pytest.raises(InferenceError, match=r"broken\.onnx: ONNX Runtime .* cannot load"):
        Model.load(bundle)
