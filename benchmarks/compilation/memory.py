"""Compile one archive and say how much memory its processes took.

`python -m benchmarks.compilation.memory ARCHIVE WIDTH PRECISION`
"""

import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.targets import resolve_target

LASTING = 8
SAMPLES = 64
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Return the resident memory of a process and of all it started, in bytes."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * PAGE + sum(resident(int(child)) for child in children)


def watch(seen: list[int], done: threading.Event) -> None:
    """Note the memory every 10 ms: ru_maxrss would keep what a parent had before."""
    while not done.wait(0.01):
        seen.append(resident(os.getpid()))


def main() -> None:
    """Print the bytes that are taken before, and at the most while it compiles."""
    archive, width, precision = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    before = resident(os.getpid())
    seen, done = [before], threading.Event()
    threading.Thread(target=watch, args=(seen, done), daemon=True).start()
    options, uri = {"precision": precision}, "s3://b/calibration.npz"
    if precision == "int8":
        options["calibration"] = uri
    request = CompilationRequest(
        "ONNX", f'{{"x": [-1, {width}]}}', resolve_target("ml_c5", None), "large",
        "s3://b/m.tar.gz", json.dumps(options),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "calibration.npz"
        np.savez(samples, x=np.random.default_rng(1).normal(size=(SAMPLES, int(width))))
        compile_model(
            archive,
            Path(folder) / "bundle.tar.gz",
            request,
            settings=CompilerSettings(environments=Path(folder)),
            files={uri: samples},
        )
    done.set()
    # A child that was forked and has not started its program yet shows its parent's memory again.
    lasting = [min(seen[n : n + LASTING]) for n in range(max(1, len(seen) - LASTING))]
    print(json.dumps({"before": before, "peak": max(lasting)}))


if __name__ == "__main__":
    main()
