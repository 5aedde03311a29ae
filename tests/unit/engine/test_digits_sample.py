import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_delivery_engine.batch.evaluate import evaluate
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.targets import Target

from include.samples.digits import SampleFacts, write_samples
from tests.unit.engine.batch_job import Job


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> SampleFacts:
    return write_samples(tmp_path_factory.mktemp("samples"))


def test_the_records_are_held_out_images_with_labels(facts: SampleFacts) -> None:
    records = [json.loads(line) for line in facts.records.read_text().splitlines()]
    assert len(records) == facts.held_out >= 500
    assert len({record["id"] for record in records}) == len(records)
    images = np.array([record["image"] for record in records])
    assert images.shape == (len(records), 64)
    assert {record["label"] for record in records} == set(range(10))


def test_the_compiled_model_keeps_the_accuracy_of_training(
    facts: SampleFacts, tmp_path: Path, target: Target
) -> None:
    request = CompilationRequest(
        "ONNX", facts.data_input_config, target, "digits", "s3://bucket/digits.tar.gz"
    )
    manifest = compile_model(facts.archive, tmp_path / "bundle.tar.gz", request)
    assert [spec.name for spec in manifest.outputs] == ["label", "probabilities"]
    bundle = open_bundle(tmp_path / "bundle.tar.gz", tmp_path / "opened")
    result, lines = Job(tmp_path / "job", bundle).answers(facts.records.read_bytes())
    assert (result.ok, result.errors) == (facts.held_out, 0)
    for output in ("label", "probabilities"):
        judged = evaluate(lines, output=output, label_field="label")
        assert judged.accuracy == pytest.approx(facts.accuracy, abs=1e-9)
        assert judged.accuracy > 0.95


def test_the_script_says_what_it_wrote(tmp_path: Path, facts: SampleFacts) -> None:
    script = Path(__file__).parents[3] / "include" / "samples" / "digits.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "new")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"held-out accuracy: {facts.accuracy:.4f}" in done.stdout
    assert (tmp_path / "new" / "held_out.jsonl").read_bytes() == facts.records.read_bytes()
    assert dataclasses.asdict(facts)["held_out"] == 540
