"""From a framework's archive to one ONNX file; a file a framework."""

from pathlib import Path

from model_delivery_engine.errors import CompilationError
from model_delivery_engine.frameworks.onnx import find_model

_CONVERTERS = {"ONNX": find_model}
_EXPORT_WITH = {
    "DARKNET": "a Darknet-to-ONNX converter",
    "KERAS": "model.export(..., format='onnx')",
    "MXNET": "mxnet.onnx.export_model",
    "PYTORCH": "torch.onnx.export",
    "SKLEARN": "skl2onnx.to_onnx(..., options={'zipmap': False})",
    "TENSORFLOW": "tf2onnx",
    "TFLITE": "tf2onnx with --tflite",
    "XGBOOST": "onnxmltools.convert_xgboost",
}


def model_file(framework: str, folder: Path) -> Path:
    """Return the ONNX file of an extracted archive.

    :param framework: a Framework of CreateCompilationJob; ONNX is the one compiled here
    :param folder: the extracted archive
    :raises CompilationError: another framework (says what to export instead), no model, or several
    """
    converter = _CONVERTERS.get(framework)
    if converter is not None:
        return converter(folder)
    if framework in _EXPORT_WITH:
        raise CompilationError(
            f"Framework {framework} is not compiled here: export the model to ONNX with "
            f"{_EXPORT_WITH[framework]} and set Framework to ONNX"
        )
    known = ", ".join(sorted([*_CONVERTERS, *_EXPORT_WITH]))
    raise CompilationError(f"Framework {framework!r} is unknown; use one of {known}")
