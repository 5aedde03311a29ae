"""Compile one archive and say how much memory its processes took: `python -m ... ARCHIVE WIDTH`."""

import json
import resource
import sys
import tempfile
from pathlib import Path

from model_delivery_engine.compile import CompilationRequest, compile_model
from model_delivery_engine.settings import CompilerSettings
from model_delivery_engine.targets import resolve_target


def peak(who: int) -> int:
    """Return the highest resident memory so far, in bytes."""
    return resource.getrusage(who).ru_maxrss * 1024


def main() -> None:
    """Print the bytes that are taken before, and at the most while it compiles."""
    archive, width = Path(sys.argv[1]), sys.argv[2]
    before = peak(resource.RUSAGE_SELF)
    request = CompilationRequest(
        "ONNX", f'{{"x": [-1, {width}]}}', resolve_target("ml_c5", None), "large", "s3://b/m.tar.gz"
    )
    with tempfile.TemporaryDirectory() as folder:
        compile_model(
            archive,
            Path(folder) / "bundle.tar.gz",
            request,
            settings=CompilerSettings(environments=Path(folder)),
        )
    figures = {
        "before": before,
        "peak": peak(resource.RUSAGE_SELF),
        "children": peak(resource.RUSAGE_CHILDREN),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
