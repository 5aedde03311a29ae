"""TensorFlow Lite: one ``.tflite`` flatbuffer, through tf2onnx."""

from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason
from model_delivery_engine.frameworks.conversion import (
    Conversion,
    Converted,
    only,
    with_shapes,
    with_suffix,
)
from model_delivery_engine.frameworks.tensorflow import convert_with_tf2onnx, given_names

ENVIRONMENT = "tensorflow"
EIGHT_BITS = True  # some models compute in integers
_SAVE = "pack one .tflite file: tar -czf model.tar.gz -C folder model.tflite"
_IDENTIFIER = b"TFL3"  # of the flatbuffer's schema, at its bytes 4 to 8


def find(folder: Path) -> Path:
    """Return the one ``.tflite`` file below a folder."""
    path = only(with_suffix(folder, ".tflite"), folder, ".tflite file", _SAVE)
    with path.open("rb") as file:
        if file.read(8)[4:] != _IDENTIFIER:
            raise ConversionError(
                f"{path.name} is no TensorFlow Lite model; {_SAVE}",
                reason=Reason.FRAMEWORK_MISMATCH,
            )
    return path


def convert(task: Conversion) -> Converted:
    """Convert inside the environment."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(task.source))
    own = {_plain(each["name"]): _shape(each) for each in interpreter.get_input_details()}
    task = with_shapes(task, own)
    tensors = interpreter.get_tensor_details()
    refuse_sparse(task.source.name, tensors)
    convert_with_tf2onnx(["--tflite", str(task.source)], task, _SAVE)
    quantised = any(tensor["quantization_parameters"]["scales"].size for tensor in tensors)
    return Converted(_runner(task, interpreter), quantised=quantised)


def refuse_sparse(name: str, tensors: list[dict[str, Any]]) -> None:
    """Refuse weights in TensorFlow Lite's own sparse form, by name.

    :param tensors: as the interpreter tells them
    """
    sparse = [each["name"] for each in tensors if each["sparsity_parameters"]]
    if sparse:
        raise ConversionError(
            f"{name} keeps weights in TensorFlow Lite's sparse form ({sparse[0]!r}), which tf2onnx "
            "does not read; pack the model with dense weights",
            reason=Reason.TENSOR_UNSUPPORTED,
        )


def _runner(task: Conversion, interpreter: Any) -> Any:
    details = interpreter.get_input_details()
    names = given_names(task)

    def run(arrays: list[Any]) -> list[Any]:
        given = dict(zip(names, arrays, strict=True))
        for detail in details:
            array = _for_tensor(detail["name"], given)
            interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail in details:
            interpreter.set_tensor(detail["index"], _for_tensor(detail["name"], given))
        interpreter.invoke()
        return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]

    return run


def _plain(name: str) -> str:
    return name.partition(":")[0].removeprefix("serving_default_")


def _shape(detail: dict[str, Any]) -> list[int]:
    """Return an input's dimensions, -1 for an open one."""
    return [int(size) for size in detail["shape_signature"]]


def _for_tensor(name: str, given: dict[str, Any]) -> Any:
    plain = name.partition(":")[0]
    for candidate in (name, plain, _plain(name)):
        if candidate in given:
            return given[candidate]
    raise ConversionError(
        f"DataInputConfig lacks the model's input {plain!r}; it names {', '.join(given)}",
        reason=Reason.DATA_INPUT_INVALID,
    )
