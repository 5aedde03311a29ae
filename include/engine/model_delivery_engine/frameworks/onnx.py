"""ONNX: the archive holds exactly one ``.onnx`` file, at any depth."""

from pathlib import Path

from model_delivery_engine.errors import CompilationError


def find_model(folder: Path) -> Path:
    """Return the one ``.onnx`` file below a folder; CompilationError for none or several."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".onnx" and p.is_file())
    # What the Finder of macOS adds to an archive beside each file carries the same suffix.
    found = [path for path in found if not path.name.startswith("._")]
    if not found:
        raise CompilationError(
            "the archive has no .onnx file; pack one: tar -czf model.tar.gz -C folder model.onnx"
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
        raise CompilationError(
            f"the archive has {len(found)} .onnx files ({names}); pack one model in one archive"
        )
    return found[0]
