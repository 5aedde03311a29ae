"""A model's profile, taken in a process of its own: `python -m model_delivery_engine.profiling`.

What it is modelled on: the profile job's record of Qualcomm AI Hub. The process imports ONNX
Runtime and nothing of the compiler, so that loading and memory are the model's.
"""

import bisect
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from model_delivery_engine.arrays import read_arrays, write_arrays
from model_delivery_engine.errors import CompilationError
from model_delivery_engine.heap import give_back
from model_delivery_engine.tensors import Array

RUNS = 20
LISTED_OPERATORS = 25
_RUN_SECONDS = 3.0  # a slow model is run less often, though at least three times
_LEAST_RUNS = 3
_PROCESS_SECONDS = 600
_ort: Any = onnxruntime


def profile_model(model: Path, inputs: Mapping[str, Array], threads: int) -> dict[str, Any]:
    """Profile a model file in a fresh process.

    :returns: the figures of `measurements.Profile` that are taken in the process
    :raises CompilationError: the model crashed the process, or took longer than 10 minutes
    :raises MemoryShortError: it has too little memory for the model
    """
    # The process itself imports nothing of the engine's.
    from model_delivery_engine.runtime import refuse_memory

    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        arrays = Path(folder) / "inputs.npz"
        write_arrays(arrays, inputs)
        command = [sys.executable, "-m", __name__, str(model), str(arrays), str(threads), folder]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_PROCESS_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise CompilationError(
                f"the model was not profiled within {_PROCESS_SECONDS} s; give smaller dimensions"
            ) from error
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            refuse_memory(" ".join(last), model.name)
            raise CompilationError(
                f"the model ended a process of its own with code {done.returncode} "
                f"({last[0][:300] if last else 'no message'}); report this model"
            )
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def _main() -> None:
    model, arrays, threads, folder = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    inputs = read_arrays(Path(arrays))
    _reset_peak()
    before = _memory("VmRSS")
    _drop_from_page_cache(model)
    session, cold = _load(model, threads)
    first = _run(session, inputs)
    times: list[float] = []
    deadline = time.perf_counter() + _RUN_SECONDS
    while len(times) < RUNS and (len(times) < _LEAST_RUNS or time.perf_counter() < deadline):
        times.append(_run(session, inputs))
    peak = _memory("VmHWM") - before
    del session
    give_back()
    session, warm = _load(model, threads)
    del session
    give_back()
    operators, others = _operators(model, threads, inputs, folder)
    figures = {
        "cold_load_ms": cold,
        "warm_load_ms": warm,
        "first_inference_ms": first,
        "inference_ms": times,
        "peak_memory_bytes": max(peak, 0),
        "operators": operators,
        "other_operators_ms": others,
    }
    print(json.dumps(figures))


def _options(threads: int) -> Any:
    options = _ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return options


def _load(model: Path, threads: int, options: Any = None) -> tuple[Any, float]:
    started = time.perf_counter()
    chosen = options or _options(threads)
    session = _ort.InferenceSession(str(model), chosen, providers=["CPUExecutionProvider"])
    return session, (time.perf_counter() - started) * 1000


def _run(session: Any, inputs: Mapping[str, Array]) -> float:
    started = time.perf_counter()
    session.run(None, dict(inputs))
    return (time.perf_counter() - started) * 1000


def _operators(
    model: Path, threads: int, inputs: Mapping[str, Array], folder: str
) -> tuple[list[dict[str, Any]], float]:
    """Return the slowest operators of one run, and the time of all others."""
    options = _options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder) / "trace")
    session, _ = _load(model, threads, options)
    runs = 1 + _LEAST_RUNS
    for _ in range(runs):
        session.run(None, dict(inputs))
    events = json.loads(Path(session.end_profiling()).read_text())
    spent: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * runs)
    for run, path, kind, ms in _kernel_times(events):
        spent[path, kind][run] += ms
    # The first run of the session pays for allocations, so each operator counts by its median.
    medians = {key: float(np.median(times)) for key, times in spent.items()}
    total = sum(medians.values()) or 1.0
    ordered = sorted(medians.items(), key=lambda item: -item[1])
    listed = [
        {"name": name, "type": kind, "ms": ms, "share": ms / total}
        for (name, kind), ms in ordered[:LISTED_OPERATORS]
    ]
    return listed, sum(ms for _, ms in ordered[LISTED_OPERATORS:])


def _kernel_times(events: list[dict[str, Any]]) -> Iterator[tuple[int, str, str, float]]:
    """Yield for each time that an operator ran its run, path, type and own time, milliseconds.

    An operator of a loop's or a branch's body runs while the one that holds the body does: its path
    is that one's and its name, and what the body takes is not the holder's own time.
    """
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    inside: list[_Kernel] = []
    for event in sorted(kernels, key=lambda each: (each["ts"], -each["dur"])):
        while inside and event["ts"] >= inside[-1].end:
            yield inside.pop().told()
        name = event["name"].removesuffix("_kernel_time")
        path = f"{inside[-1].path}/{name}" if inside else name
        if inside:
            inside[-1].own -= event["dur"]
        run = bisect.bisect_right(starts, event["ts"]) - 1
        end, kind = event["ts"] + event["dur"], event["args"].get("op_name", "")
        inside.append(_Kernel(run, path, kind, end, event["dur"]))
    yield from (each.told() for each in inside)


@dataclass
class _Kernel:
    """An operator that ran; times in microseconds."""

    run: int
    path: str
    kind: str
    end: int
    own: int

    def told(self) -> tuple[int, str, str, float]:
        return self.run, self.path, self.kind, max(self.own, 0) / 1000


def _drop_from_page_cache(path: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _reset_peak() -> None:
    """Have the highest memory counted from now on: importing took its share before."""
    if Path("/proc/self/clear_refs").exists():
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    """Return a figure of this process's memory in bytes, 0 where the system has none."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    _main()
