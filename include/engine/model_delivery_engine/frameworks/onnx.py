"""ONNX: one ``.onnx`` file at any depth, with the files of external weights that it names."""

from pathlib import Path

from model_delivery_engine.frameworks.conversion import only, with_suffix

ENVIRONMENT = None


def find(folder: Path) -> Path:
    """Return the one ``.onnx`` file below a folder."""
    how = "pack one: tar -czf model.tar.gz -C folder model.onnx"
    return only(with_suffix(folder, ".onnx"), folder, ".onnx file", how)
