"""Latency: source and compiled model timed in turns, so that a busy machine slows both alike."""

import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from model_delivery_engine.manifest import Latency
from model_delivery_engine.runtime import Model
from model_delivery_engine.targets import Target
from model_delivery_engine.tensors import Array

ROUNDS = 15
THREADS = 1
_ROUND_SECONDS = 0.01
_MAX_RUNS = 200
_ARCHITECTURES = {"x86_64": "X86_64", "AMD64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}


def measure_latency(
    source: Model, compiled: Model, inputs: Mapping[str, Array], target: Target
) -> Latency:
    """Time both models on the same inputs, with one thread each.

    A round runs each model for about 10 ms, at least once; the first runs are warm-up and not
    counted. The figure is marked measured on a machine of the target's architecture, otherwise
    proxy.

    :param source: the model as it came, on ONNX Runtime's default settings
    :returns: medians over 15 rounds, in milliseconds
    """
    runs = [_runs_a_round(model, inputs) for model in (source, compiled)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for model, count, into in zip((source, compiled), runs, times, strict=True):
            into.append(_seconds(model, inputs, count) / count * 1000)
    here = _ARCHITECTURES.get(platform.machine())
    return Latency(
        source_ms=statistics.median(times[0]),
        compiled_ms=statistics.median(times[1]),
        rounds=ROUNDS,
        batch_size=max((len(array) for array in inputs.values() if array.ndim), default=1),
        threads=THREADS,
        machine=describe_machine(),
        kind="measured" if here == target.arch else "proxy",
    )


def _runs_a_round(model: Model, inputs: Mapping[str, Array]) -> int:
    model.run(inputs)
    once = _seconds(model, inputs, 1)
    return max(1, min(_MAX_RUNS, int(_ROUND_SECONDS / max(once, 1e-9))))


def _seconds(model: Model, inputs: Mapping[str, Array], runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        model.run(inputs)
    return time.perf_counter() - start


def describe_machine() -> str:
    """Return the processor's name, its logical cores and the operating system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"
