"""Compiled models beside plain ONNX Runtime and OpenVINO, and the memory that compiling takes.

Seven models (`compilation/models.py`) are compiled with the options that users get by default, for
any machine of the architecture: in fp32; in int8, the fastest form whatever it costs in accuracy;
and with int8 allowed under a bound on accuracy, of which the best is chosen. Then, in one process
that has OpenVINO too, the source on plain ONNX Runtime, the three forms and OpenVINO are timed in
turns with the same number of threads: latency of one sample with one thread, throughput of a batch
with all cores. Ratios are medians over rounds of the same run.

OpenVINO is there three times: in fp32; as it comes, which on a processor with bfloat16 computes in
that, to three digits instead of seven; and in int8 as NNCF quantises for it. It runs with its hint
for latency, and for throughput with the one for that too, several runs under way at once; beside
that, ours and plain ONNX Runtime run so as well.

Three quarters of each model's samples go to the compiler and to NNCF. Accuracy is that on the rest.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from model_delivery_engine.archive import extract_archive
from model_delivery_engine.bundle import Bundle, open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.compile.candidates import Evidence, Workbench
from model_delivery_engine.compile.contest import load_model
from model_delivery_engine.frameworks import to_onnx
from model_delivery_engine.golden import draw_inputs
from model_delivery_engine.graph import prepare_graph
from model_delivery_engine.optimise import unoptimised_options
from model_delivery_engine.options import parse_compiler_options
from model_delivery_engine.quantize.samples import load_samples
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.shapes import parse_data_input_config
from model_delivery_engine.targets import Target, resolve_target
from model_delivery_engine.weights import size_of

from benchmarks.compilation.figures import (
    CHOSEN,
    FP32,
    INT8,
    LATENCY,
    MAX_DROP,
    NNCF,
    OPENVINO,
    OPENVINO_DEFAULT,
    ROUNDS,
    THROUGHPUT,
    Timed,
    goals,
    measures,
    note,
)
from benchmarks.compilation.models import SEED, Case, archive_of_size, make_cases
from benchmarks.record import Measure, write

MEGABYTES, MEMORY_GOAL = 100, 4.0
HELD_OUT = 4  # one sample of so many is kept from every compiler
PACKAGES = ("onnxruntime", "onnx", "numpy")
HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / "build" / "bench-compile"
ONLY = "BENCH_COMPILE_ONLY"  # a model by its name, to try the benchmark out


def main() -> Path:
    python = _environment()
    packages = next((ENVIRONMENT / "lib").glob("python*/site-packages"))
    only = os.environ.get(ONLY)
    with tempfile.TemporaryDirectory(prefix="bench-compile-") as name:
        folder = Path(name)
        archive = archive_of_size(folder / "large", MEGABYTES)
        memory = [_memory(archive, precision) for precision in ("fp32", "int8")]
        timed: list[Timed] = []
        for case in make_cases(folder / "cases", packages):
            if only not in (None, case.name):
                continue
            timed.append(_time(case, folder / "timed" / case.name.replace(" ", "-"), python))
            print(f"{case.name}: {note(timed[-1], LATENCY)}", file=sys.stderr)
            # It takes minutes a model: what is known is there, also if the next one is cut off.
            path = write("compile", [*measures(timed), *goals(timed), *memory], PACKAGES)
    return path


def _environment() -> Path:
    """Return the Python of OpenVINO's environment, made where its pins are not installed yet."""
    requirements = HERE / "compilation" / "requirements.txt"
    pins = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp, python = ENVIRONMENT / "installed-from", ENVIRONMENT / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != pins:
        uv = str(Path(sys.executable).with_name("uv"))
        making = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)]
        subprocess.run(making, check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps",
             "--require-hashes", "-r", str(requirements)],
            check=True,
        )  # fmt: skip
        stamp.write_text(pins)
    return python


def _time(case: Case, folder: Path, python: Path) -> Timed:
    folder.mkdir(parents=True)
    plain = _plain(case, folder)
    tuning, held_out = _parted(case.samples, folder)
    fp32 = _compiled(case, folder / "fp32", {"precision": "fp32"})
    int8, failed = _int8(plain, folder / "int8", tuning)
    uri = "s3://bench/samples.npz"
    options = {"precision": "int8", "samples": uri, "max_accuracy_drop": MAX_DROP}
    files = {uri: tuning}
    if "/" in case.metric:
        files["s3://bench/metric.onnx"] = Path(case.metric)
        options["metric"] = "s3://bench/metric.onnx"
    chosen = _compiled(case, folder / "chosen", options, files)
    paths = {"plain": plain, FP32: fp32.model_path, CHOSEN: chosen.model_path}
    if int8:
        paths[INT8] = int8
    openvino: dict[str, tuple[Path, str | None]] = {
        OPENVINO: (plain, "f32"),
        OPENVINO_DEFAULT: (plain, None),
    }
    quantised = folder / "nncf" / "model.xml"
    if why := _quantised_by_nncf(python, plain, tuning, quantised):
        failed[NNCF] = why
    else:
        openvino[NNCF] = (quantised, None)
    output = next(spec.name for spec in fp32.manifest.outputs if spec.dtype.startswith("FP"))
    task = {
        "files": {name: str(path) for name, path in paths.items()},
        "openvino": {name: (str(path), hint) for name, (path, hint) in openvino.items()},
        "rounds": ROUNDS,
        "held_out": str(held_out),
        "output": output,
    }
    times = {}
    answers = folder / "answers.npz"
    for setting, batch, threads, extra in (
        (LATENCY, 1, 1, {"answers": str(answers)}),
        (THROUGHPUT, case.batch, os.cpu_count() or 1, {}),
    ):
        found = _timed(task | extra, fp32, tuning, folder, python, batch, threads)
        times[setting] = found["times"]
        failed |= found["failed"]
    accuracy, count = _accuracy(case, answers, held_out)
    return Timed(case, chosen, size_of(plain), times, accuracy, count, failed)


def _parted(samples: Path, folder: Path) -> tuple[Path, Path]:
    """Part the samples by chance: what the compilers are given, and what they are held to."""
    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    count = len(next(iter(arrays.values())))
    order = np.random.default_rng(SEED).permutation(count)
    parts = order[count // HELD_OUT :], order[: count // HELD_OUT]
    paths = folder / "tuning.npz", folder / "held-out.npz"
    for path, rows in zip(paths, parts, strict=True):
        np.savez(path, **{name: array[np.sort(rows)] for name, array in arrays.items()})
    return paths


def _int8(plain: Path, folder: Path, tuning: Path) -> tuple[Path | None, dict[str, str]]:
    """Return the fastest int8 form that the compiler builds, also where it would not deliver it."""
    reference = load_model(plain, unoptimised_options())
    golden = draw_inputs(reference.inputs)
    evidence = Evidence(
        golden=golden,
        expected=reference.run(golden),
        calibration=load_samples(tuning, reference.inputs),
    )
    options = {"precision": "int8", "calibration": "s3://bench/tuning.npz", "min_snr_db": -20}
    folder.mkdir()
    workbench = Workbench(
        plain, folder, parse_compiler_options(json.dumps(options)), _target(), evidence
    )
    trials = [each for each in workbench.trials() if each.record.precision == "int8"]
    fast = [each for each in trials if each.record.speedup is not None]
    if fast:
        return max(fast, key=lambda each: each.record.speedup or 0.0).path, {}
    return None, {INT8: "; ".join(f"{t.record.name}: {t.record.reason}" for t in trials)[:300]}


def _quantised_by_nncf(python: Path, model: Path, samples: Path, into: Path) -> str | None:
    """Quantise for OpenVINO; return why it cannot be done, None where it was."""
    into.parent.mkdir()
    script = HERE / "compilation" / "int8_peer.py"
    command = [str(python), "-W", "ignore", str(script), str(model), str(samples), str(into)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or ["no message"])[-1][:200]


def _plain(case: Case, folder: Path) -> Path:
    """Return the model as ONNX with its shapes fixed: what anyone would run without a compiler."""
    shapes = parse_data_input_config(case.config, case.framework)
    extract_archive(case.archive, folder / "archive")
    settings = CompilerSettings.from_environment()
    imported = to_onnx(case.framework, folder / "archive", shapes, folder / "imported", settings)
    prepare_graph(imported.model, shapes, folder / "plain.onnx")
    return folder / "plain.onnx"


def _compiled(
    case: Case, folder: Path, options: Mapping[str, Any], files: Mapping[str, Path] | None = None
) -> Bundle:
    folder.mkdir()
    request = CompilationRequest(
        case.framework, case.config, _target(), case.name, "s3://bench/model.tar.gz",
        json.dumps(options),
    )  # fmt: skip
    bundle = folder / "bundle.tar.gz"
    compile_model(
        case.archive, bundle, request, settings=CompilerSettings.from_environment(), files=files
    )
    return open_bundle(bundle, folder / "opened")


def _target() -> Target:
    return resolve_target(None, {"Os": "LINUX", "Arch": "X86_64"})


def _timed(
    task: Mapping[str, Any], bundle: Bundle, samples: Path, folder: Path, python: Path,
    batch: int, threads: int,
) -> dict[str, Any]:  # fmt: skip
    inputs = folder / f"inputs-{batch}-{threads}.npz"
    with np.load(samples) as file:
        given = {spec.name: file[spec.name][:batch] for spec in bundle.manifest.inputs}
    np.savez(inputs, **given)
    path = folder / "task.json"
    path.write_text(json.dumps({**task, "inputs": str(inputs), "threads": threads}))
    script = HERE / "compilation" / "timing.py"
    done = subprocess.run([str(python), str(script), str(path)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"timing {folder.name} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _accuracy(case: Case, answers: Path, held_out: Path) -> tuple[dict[str, float], int]:
    """Score what each model answered to the held-out samples."""
    with np.load(held_out) as file:
        labels = file["labels"]
    with np.load(answers) as file:
        found = {name: file[name] for name in file.files}
    if "/" not in case.metric:
        return {n: float((a.argmax(-1) == labels).mean()) for n, a in found.items()}, len(labels)
    metric = onnxruntime.InferenceSession(case.metric, providers=["CPUExecutionProvider"])
    scores = {
        name: metric.run(None, {"outputs": array, "labels": labels})[0].mean()
        for name, array in found.items()
    }
    return {name: float(score) for name, score in scores.items()}, len(labels)


def _memory(archive: Path, precision: str) -> Measure:
    size = (archive.parent / "model" / "model.onnx").stat().st_size
    command = [sys.executable, "-m", "benchmarks.compilation.memory", str(archive), "1024",
               precision]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    taken = json.loads(done.stdout.splitlines()[-1])
    most = taken["peak"]
    ours = (most - taken["before"]) / size
    return Measure(
        what=f"memory of compiling an ONNX model of {size / 1e6:.0f} MB to {precision}, by its "
        "size",
        unit="ratio", better="lower", ours=ours, peer=None, peer_name=None, limit=None,
        limit_name=None, goal="at most 4 times its size", rounds=1, spread=(ours, ours),
        note=f"highest resident memory {most / 1e6:.0f} MB, of which {taken['before'] / 1e6:.0f} "
        "MB are Python and its packages before the model is read; no peer compiles so",
        passed=ours <= MEMORY_GOAL,
    )  # fmt: skip
