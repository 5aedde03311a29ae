"""Compiled models beside plain ONNX Runtime and OpenVINO, and the memory that compiling takes.

Seven models (`compilation/models.py`) are compiled twice for this machine's own target: in fp32,
and with int8 allowed under a bound on accuracy. Then, in one process that has OpenVINO too, the
source on plain ONNX Runtime, the fp32 bundle, the chosen one and OpenVINO are timed in turns with
the same number of threads: latency of one sample with one thread, throughput of a batch with all
cores. Ratios are medians over rounds of the same run.

OpenVINO is there twice: in fp32, and as it comes, which on a processor with bfloat16 computes in
that, to three digits instead of seven.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from model_delivery_engine.archive import extract_archive
from model_delivery_engine.bundle import Bundle, open_bundle
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.frameworks import to_onnx
from model_delivery_engine.graph import prepare_graph
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.shapes import parse_data_input_config
from model_delivery_engine.targets import resolve_target
from model_delivery_engine.weights import size_of

from benchmarks.compilation.models import Case, archive_of_size, make_cases
from benchmarks.record import Measure, write

ROUNDS = 7
MAX_DROP = 0.01
MEGABYTES = 100
NEURAL_GOAL, SLOWEST_GOAL, OPENVINO_GOAL, MEMORY_GOAL = 1.5, 1 / 1.02, 0.9, 4.0
PACKAGES = ("onnxruntime", "onnx", "numpy")
HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / "build" / "bench-compile"
SETTINGS = ("latency", "throughput")


@dataclass(frozen=True)
class Timed:
    """A case with its two bundles, and seconds a run by setting, runner and round."""

    case: Case
    fp32: Bundle
    chosen: Bundle
    source_bytes: int
    times: Mapping[str, Mapping[str, list[float]]]
    failed: Mapping[str, str]

    def ratio(self, setting: str, runner: str, over: str = "plain") -> float | None:
        """Return how often `runner` runs while `over` runs once, the median of the rounds."""
        times = self.times[setting]
        if runner not in times or over not in times:
            return None
        return statistics.median(b / a for a, b in zip(times[runner], times[over], strict=True))


def main() -> Path:
    python = _environment()
    packages = next((ENVIRONMENT / "lib").glob("python*/site-packages"))
    with tempfile.TemporaryDirectory(prefix="bench-compile-") as name:
        folder = Path(name)
        memory = _memory(folder / "large")
        timed: list[Timed] = []
        for case in make_cases(folder / "cases", packages):
            timed.append(_time(case, folder / "timed" / case.name.replace(" ", "-"), python))
            print(f"{case.name}: {_note(timed[-1], 'latency')}", file=sys.stderr)
            # It takes minutes a model: what is known is there, also if the next one is cut off.
            path = write("compile", [*_measures(timed), *_goals(timed), memory], PACKAGES)
    return path


def _measures(timed: list[Timed]) -> list[Measure]:
    return [_measure(each, setting) for setting in SETTINGS for each in timed]


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
    fp32 = _compiled(case, folder / "fp32", {"precision": "fp32"})
    uri = "s3://bench/samples.npz"
    options = {"precision": "int8", "samples": uri, "max_accuracy_drop": MAX_DROP}
    files = {uri: case.samples}
    if "/" in case.metric:
        files["s3://bench/metric.onnx"] = Path(case.metric)
        options["metric"] = "s3://bench/metric.onnx"
    chosen = _compiled(case, folder / "chosen", options, files)
    paths = {"plain": plain, "fp32": fp32.model_path, "chosen": chosen.model_path}
    times, failed = {}, {}
    for setting, batch, threads in (
        ("latency", 1, 1),
        ("throughput", case.batch, os.cpu_count() or 1),
    ):
        found = _timed(case, chosen, folder, python, paths, batch, threads)
        times[setting], failed = found["times"], found["failed"]
    return Timed(case, fp32, chosen, size_of(plain), times, failed)


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
    target = resolve_target(None, {"Os": "LINUX", "Arch": "X86_64"})
    request = CompilationRequest(
        case.framework, case.config, target, case.name, "s3://bench/model.tar.gz",
        json.dumps({**options, "optimise_for": "host"}),
    )  # fmt: skip
    bundle = folder / "bundle.tar.gz"
    compile_model(
        case.archive, bundle, request, settings=CompilerSettings.from_environment(), files=files
    )
    return open_bundle(bundle, folder / "opened")


def _timed(
    case: Case, bundle: Bundle, folder: Path, python: Path, paths: Mapping[str, Path],
    batch: int, threads: int,
) -> dict[str, Any]:  # fmt: skip
    inputs = folder / f"inputs-{batch}-{threads}.npz"
    with np.load(case.samples) as file:
        given = {spec.name: file[spec.name][:batch] for spec in bundle.manifest.inputs}
    np.savez(inputs, **given)
    task = folder / "task.json"
    task.write_text(
        json.dumps(
            {
                "files": {name: str(path) for name, path in paths.items()},
                "inputs": str(inputs),
                "threads": threads,
                "rounds": ROUNDS,
            }
        )
    )
    script = HERE / "compilation" / "timing.py"
    done = subprocess.run(
        [str(python), str(script), str(task)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(timed: Timed, setting: str) -> Measure:
    """Return a case's figure: milliseconds of a sample, or samples a second."""
    times = timed.times[setting]
    latency = setting == "latency"

    def figures(runner: str) -> list[float]:
        return [s * 1000 if latency else timed.case.batch / s for s in times[runner]]

    ours = figures("chosen")
    ratio = timed.ratio(setting, "chosen")
    assert ratio is not None
    threads = 1 if latency else os.cpu_count()
    what = "latency of one sample" if latency else f"throughput, {timed.case.batch} in a run"
    return Measure(
        what=f"{timed.case.name}: {what}, {threads} threads",
        unit="ms" if latency else "samples/s",
        better="lower" if latency else "higher",
        ours=statistics.median(ours),
        peer=statistics.median(figures("plain")),
        peer_name="plain ONNX Runtime",
        limit=statistics.median(figures("openvino")) if "openvino" in times else None,
        limit_name="OpenVINO on the source, fp32" if "openvino" in times else None,
        goal="no slower than plain ONNX Runtime by more than 2 %",
        rounds=ROUNDS,
        spread=(min(ours), max(ours)),
        note=_note(timed, setting),
        passed=ratio >= SLOWEST_GOAL,
    )


def _note(timed: Timed, setting: str) -> str:
    manifest = timed.chosen.manifest
    chosen = next(each for each in manifest.candidates if each.status == "chosen")
    integers = [c for c in manifest.candidates if c.precision == "int8" and c.speedup is not None]
    parts = [
        f"chosen: {chosen.name}",
        f"speed to plain ONNX Runtime: chosen {timed.ratio(setting, 'chosen'):.2f}, "
        f"fp32 {timed.ratio(setting, 'fp32'):.2f}",
    ]
    over = timed.ratio(setting, "chosen", "openvino")
    if over is not None:
        only = timed.ratio(setting, "fp32", "openvino")
        parts.append(f"to OpenVINO in fp32: chosen {over:.2f}, fp32 {only:.2f}")
        default = timed.ratio(setting, "chosen", "openvino default")
        parts.append(f"to OpenVINO as it comes: chosen {default:.2f}")
    else:
        parts.append(f"OpenVINO: {timed.failed.get('openvino', 'not timed')}")
    if integers:
        best = max(integers, key=lambda each: each.speedup or 0.0)
        parts.append(f"best int8 at compilation: {best.name} {best.speedup:.2f} ({best.status})")
    parts.append(
        f"size: {timed.source_bytes} to {chosen.size_bytes} bytes; {timed.case.labelled}: "
        f"{chosen.metric:.4f}, lost {chosen.drop:.4f} "
        f"({chosen.drop_low:.4f} to {chosen.drop_high:.4f}, n = {chosen.samples})"
    )
    return "; ".join(parts)


def _goals(timed: list[Timed]) -> list[Measure]:
    every = [(each, setting) for each in timed for setting in SETTINGS]
    ratios = [ratio for each, s in every if (ratio := each.ratio(s, "chosen")) is not None]
    neural = [
        ratio
        for each in timed
        if each.case.neural and (ratio := each.ratio("latency", "chosen")) is not None
    ]
    beside = [ratio for each, s in every if (ratio := each.ratio(s, "chosen", "openvino"))]
    plain = [ratio for each, s in every if (ratio := each.ratio(s, "fp32", "openvino"))]
    default = [ratio for each, s in every if (ratio := each.ratio(s, "chosen", "openvino default"))]
    names = ", ".join(each.case.name for each in timed)
    return [
        _goal("slowest of all models and settings, against plain ONNX Runtime", min(ratios),
              SLOWEST_GOAL, ratios, "none slower than plain ONNX Runtime beyond 2 %", names),
        _goal("median of the neural models' latency, int8 allowed", statistics.median(neural),
              NEURAL_GOAL, neural, "at least 1.5 times plain ONNX Runtime",
              f"accuracy may drop by {MAX_DROP}"),
        _goal("median against OpenVINO, latency and throughput", statistics.median(beside),
              OPENVINO_GOAL, beside, "within 10 % of OpenVINO or better",
              f"OpenVINO runs the source in fp32; fp32 against it: {statistics.median(plain):.2f}"),
        _goal("median against OpenVINO as it comes, latency and throughput",
              statistics.median(default), OPENVINO_GOAL, default,
              "within 10 % of OpenVINO or better",
              "it takes bfloat16 where the processor has it; ONNX Runtime has no such kernels"),
    ]  # fmt: skip


def _goal(
    what: str, ours: float, bound: float, all_of: list[float], goal: str, note: str
) -> Measure:
    return Measure(
        what=what, unit="ratio", better="higher", ours=ours, peer=1.0, peer_name="the other",
        limit=None, limit_name=None, goal=goal, rounds=ROUNDS, spread=(min(all_of), max(all_of)),
        note=note or "medians over interleaved rounds of one run", passed=ours >= bound,
    )  # fmt: skip


def _memory(folder: Path) -> Measure:
    archive = archive_of_size(folder, MEGABYTES)
    size = (folder / "model" / "model.onnx").stat().st_size
    command = [sys.executable, "-m", "benchmarks.compilation.memory", str(archive), "1024"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    taken = json.loads(done.stdout.splitlines()[-1])
    most = taken["peak"]
    ours = (most - taken["before"]) / size
    return Measure(
        what=f"memory of compiling an ONNX model of {size / 1e6:.0f} MB, by its size",
        unit="ratio", better="lower", ours=ours, peer=None, peer_name=None, limit=None,
        limit_name=None, goal="at most 4 times its size", rounds=1, spread=(ours, ours),
        note=f"highest resident memory {most / 1e6:.0f} MB, of which {taken['before'] / 1e6:.0f} "
        "MB are Python and its packages before the model is read; no peer compiles so",
        passed=ours <= MEMORY_GOAL,
    )  # fmt: skip
