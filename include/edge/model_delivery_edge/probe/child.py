"""The probing process: loads a bundle's model, asks it, and writes what it measured.

``python -m model_delivery_edge.probe.child ARCHIVE FOLDER RUNS ALLOW_NON_FINITE``: extracts into
FOLDER and leaves FOLDER/result.json: the measurements, or why the model is refused. Whatever the
model does to this process, no other notices.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from model_delivery_engine.bundle import open_bundle
from model_delivery_engine.errors import DiskFullError, EngineError, MemoryShortError
from model_delivery_engine.latency import describe_machine
from model_delivery_engine.runtime import Model, check_golden
from model_delivery_engine.tensors import Array

from model_delivery_edge import __version__

RESULT = "result.json"
_NO_FAULT_OF_THE_MODEL = (DiskFullError, MemoryShortError)


def main(argv: list[str]) -> int:
    """Probe once; the exit code is 0 where a result was written."""
    archive, folder, runs, allow = Path(argv[0]), Path(argv[1]), int(argv[2]), argv[3] == "1"
    # What the kernel shall end first, if memory runs out: not the model that serves.
    Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        result = _probe(archive, folder / "bundle", runs, allow)
    except (EngineError, OSError) as error:
        own = isinstance(error, EngineError) and not isinstance(error, _NO_FAULT_OF_THE_MODEL)
        result = {"error": str(error), "refused": own}
    (folder / RESULT).write_text(json.dumps(result))
    return 0


def _probe(archive: Path, folder: Path, runs: int, allow_non_finite: bool) -> dict[str, Any]:
    bundle = open_bundle(archive, folder)
    begun = time.perf_counter()
    model = Model.load(bundle)
    loaded = time.perf_counter()
    if not allow_non_finite and (name := _non_finite(model.run(bundle.golden_inputs))):
        why = f"model {model.name!r} answers NaN or infinity in its output {name!r}"
        return {"error": f"{why}; keep the model that runs", "refused": True}
    check_golden(model, bundle)
    first = time.perf_counter()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        model.run(bundle.golden_inputs)
        times.append((time.perf_counter() - started) * 1000)
    return {
        "load_ms": (loaded - begun) * 1000,
        "first_ms": (first - loaded) * 1000,
        "median_ms": statistics.median(times),
        "worst_ms": max(times),
        "runs": runs,
        "peak_bytes": _peak_bytes(),
        "machine": describe_machine(),
        "versions": {"agent": __version__, "onnxruntime": onnxruntime.__version__},
        "model_digest": bundle.manifest.model_digest,
    }


def _non_finite(outputs: Mapping[str, Array]) -> str | None:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return name
    return None


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
