"""Latency and throughput: source and compiled model timed in turns.

Latency is the processor time of one thread. A model of one thread runs in the thread that asks; its
processor time is what the clock on the wall shows on an idle machine, and on a busy one it leaves
out what other processes took of the core, which would decide between candidates by chance. What
they take of caches and memory slows both alike.

Throughput is that of a batch on every core, by the clock on the wall: threads that wait for each
other are what it is about. There the fastest run counts. Whatever else the machine does takes one
core from two threads and stops both; it makes no run faster.

A model of which one run takes long is run less often: rounds end after a minute, though not before
the third. Such a model's figures vary little, and a job has other candidates to look at.
"""

import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from model_delivery_engine.cores import usable_cores
from model_delivery_engine.measurements import MEASURED, PROXY, Latency
from model_delivery_engine.runtime import Model
from model_delivery_engine.targets import DEVICES, Target
from model_delivery_engine.tensors import Array

ROUNDS = 15
THREADS = 1
CORES = usable_cores()
BATCH = 8  # samples in a run of the throughput, where the batch is open
SECONDS = 60.0  # for the rounds of one figure
_LEAST_ROUNDS = 3
_ROUND_SECONDS = 0.01
_MAX_RUNS = 200
_LEAST_RUNS = 2  # of a throughput: the first may meet threads of the other model still spinning
_SYSTEMS = {"Linux": "LINUX", "Windows": "WINDOWS"}
# What the hardware of a device is called by itself: EC2's instances by their types.
_HARDWARE = {
    "ml_m5": ("m5.", "m5d."),
    "ml_m6g": ("m6g.", "m6gd."),
    "ml_c5": ("c5.", "c5d."),
    "ml_c6g": ("c6g.", "c6gd."),
    "rasp4b": ("Raspberry Pi 4 Model B",),
}
_VECTOR_FLAGS = (
    "sse", "ssse", "avx", "fma", "f16c", "bmi", "amx",  # x86
    "asimd", "sve", "sme", "i8mm", "bf16", "fphp", "dotprod",  # ARM
)  # fmt: skip
_ARCHITECTURES = {"x86_64": "X86_64", "AMD64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}


def measure_latency(
    source: Model, compiled: Model, inputs: Mapping[str, Array], target: Target
) -> Latency:
    """Time both models on the same inputs, with one thread each.

    A round runs each model for about 10 ms, at least once; the first runs are warm-up and not
    counted. `kind_for` says what the figure is for the target.

    :param source: the model as it came, on ONNX Runtime's default settings
    :param compiled: opened with one thread, as the source is
    :returns: medians over 15 rounds (fewer of a slow model), in milliseconds of processor time
    """
    times = interleave((source, compiled), inputs)
    return Latency(
        source_ms=statistics.median(times[0]),
        compiled_ms=statistics.median(times[1]),
        rounds=len(times[0]),
        batch_size=max((len(array) for array in inputs.values() if array.ndim), default=1),
        threads=THREADS,
        machine=describe_machine(),
        kind=kind_for(target),
    )


def interleave(
    models: Sequence[Model], inputs: Mapping[str, Array], rounds: int = ROUNDS
) -> list[list[float]]:
    """Return each model's times of one run, milliseconds, a figure for each round.

    :param models: opened with one thread
    :param rounds: most of them; a slow model has fewer
    """
    runs = [_runs_a_round(model, inputs) for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in _rounds(rounds):
        for model, count, into in zip(models, runs, times, strict=True):
            into.append(_seconds(model, inputs, count) / count * 1000)
    return times


def _rounds(most: int) -> Iterator[int]:
    """Yield the rounds of a figure until it has taken its time."""
    until = time.monotonic() + SECONDS
    for number in range(most):
        if number >= _LEAST_ROUNDS and time.monotonic() >= until:
            break
        yield number


def relative_throughput(source: Model, compiled: Model, inputs: Mapping[str, Array]) -> float:
    """Return how many samples the compiled model answers while the source answers one.

    Both run in turns, a few runs each, in 15 rounds (fewer of a slow model); the fastest run of
    each counts.

    :param source: opened with a thread for each core, as the compiled one is
    :param inputs: from `batch_of`
    """
    models = (source, compiled)
    runs = [max(_LEAST_RUNS, _runs_a_round(model, inputs)) for model in models]
    fastest = [float("inf"), float("inf")]
    for _ in _rounds(ROUNDS):
        for number, model in enumerate(models):
            for _ in range(runs[number]):
                started = time.perf_counter()
                model.run(inputs)
                fastest[number] = min(fastest[number], time.perf_counter() - started)
    return fastest[0] / fastest[1]


def batch_of(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs for a throughput: eight samples where the model leaves its batch open."""
    if model.batch_size is not None or not all(array.ndim for array in inputs.values()):
        return dict(inputs)
    return {name: np.resize(array, (BATCH, *array.shape[1:])) for name, array in inputs.items()}


def speedup(times: Sequence[Sequence[float]]) -> float:
    """Return how often the second model runs while the first runs once: a median over rounds."""
    return float(statistics.median(one / other for one, other in zip(*times, strict=True)))


def kind_for(target: Target) -> str:
    """Return what a figure taken on this machine is for a target: measured or proxy.

    A triple names any machine of its system and architecture. A device names hardware, and a
    machine is that only where its hardware says so of itself: two processors of one architecture
    differ by more than what any figure here is about.
    """
    if machine_arch() != target.arch or target.accelerator is not None:
        return PROXY
    if target.name not in DEVICES:
        return MEASURED if _SYSTEMS.get(platform.system()) == target.os else PROXY
    names = _HARDWARE.get(target.name, ())
    return MEASURED if names and hardware().startswith(names) else PROXY


def hardware() -> str:
    """Return what this machine's hardware calls itself, empty where it does not say."""
    for place in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        try:
            return Path(place).read_text(errors="replace").strip(" \0\n")
        except OSError:
            continue
    return ""


def machine_arch() -> str | None:
    """Return this machine's architecture as TargetPlatform spells it, None if it lacks it."""
    return _ARCHITECTURES.get(platform.machine())


def _runs_a_round(model: Model, inputs: Mapping[str, Array]) -> int:
    model.run(inputs)
    once = _seconds(model, inputs, 1)
    return max(1, min(_MAX_RUNS, int(_ROUND_SECONDS / max(once, 1e-9))))


def _seconds(model: Model, inputs: Mapping[str, Array], runs: int) -> float:
    start = time.thread_time()
    for _ in range(runs):
        model.run(inputs)
    return time.thread_time() - start


def describe_machine() -> str:
    """Return the processor's name, its logical cores and the operating system."""
    name = _cpuinfo("model name") or platform.processor() or "unknown processor"
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def has_vnni() -> bool:
    """Return whether this processor multiplies 8-bit integers without an intermediate overflow."""
    return bool({"avx512_vnni", "avx_vnni"} & set(instruction_sets()))


def instruction_sets() -> tuple[str, ...]:
    """Return this processor's instructions on vectors, by their flags: what kernels are chosen by.

    A virtual machine may lack some of them that others of the same processor's name have.
    """
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return tuple(sorted({flag for flag in flags if flag.startswith(_VECTOR_FLAGS)}))


def _cpuinfo(field: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == field:
                return value.strip()
    return ""
