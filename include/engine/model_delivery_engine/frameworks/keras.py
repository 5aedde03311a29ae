"""Keras: ``.keras`` or ``.h5``. Images are NHWC in the model and NCHW in DataInputConfig.

The compiled model takes NCHW, as Neo's does: DataInputConfig describes the inputs of the artifact.
A model that is channels-first itself takes its inputs as they are.
"""

import tempfile
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import ConversionError, Reason, one_line
from model_delivery_engine.frameworks.conversion import (
    Conversion,
    Converted,
    only,
    with_shapes,
    with_suffix,
)
from model_delivery_engine.frameworks.tensorflow import (
    convert_with_tf2onnx,
    given_names,
    output_names,
    sort_outputs,
)

ENVIRONMENT = "tensorflow"
_SAVE = "save the whole model with model.save('model.keras') and pack that one file"
_IMAGE_RANK = 4
_READ, _ENDS = 10_000, 200  # letters of a reason: read, and shown at either end
_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
# Layers by what is before and behind their rank, and what Keras 2 wrote of them beside their own.
_OF_KERAS_2 = (
    ("DepthwiseConv", "", (1, 2), ("groups",)),
    ("Conv", "Transpose", (1, 2, 3), ("groups",)),
    ("SeparableConv", "", (1, 2), ("groups", *_KERNEL)),
)
_TO_NHWC = (0, 2, 3, 1)


def find(folder: Path) -> Path:
    """Return the one model file below a folder."""
    found = with_suffix(folder, ".keras", ".h5", ".hdf5")
    return only(found, folder, "Keras file (.keras, .h5)", _SAVE)


def convert(task: Conversion) -> Converted:
    """Convert inside the environment."""
    model = _load(task)
    names = [tensor.name for tensor in model.inputs]
    task = with_shapes(task, {tensor.name: _given(model, tensor) for tensor in model.inputs})
    images = _check_shapes(model, names, task.shapes)
    with tempfile.TemporaryDirectory() as folder:
        _export(model, folder)
        arguments = ["--saved-model", folder]
        if images:
            arguments += ["--inputs-as-nchw", ",".join(images)]
        convert_with_tf2onnx(arguments, task)
        # tf2onnx sorts outputs by name, where output_10 comes before output_2.
        sort_outputs(task)

    def run(arrays: list[Any]) -> list[Any]:
        by_name = dict(zip(given_names(task), arrays, strict=True))
        inputs = [
            by_name[name].transpose(_TO_NHWC) if name in images else by_name[name] for name in names
        ]
        answers = model(_structured(model, inputs), training=False)
        if isinstance(answers, dict):
            answers = [answers[name] for name in output_names(task)]
        answers = answers if isinstance(answers, (list, tuple)) else [answers]
        return [answer.numpy() for answer in answers]

    return Converted(run)


def _export(model: Any, folder: str) -> None:
    """Write a model as it infers; `model.export` traces augmentation as it trains."""
    import keras

    def infer(inputs: Any) -> Any:
        return model(inputs, training=False)

    archive = keras.export.ExportArchive()
    archive.track(model)
    given = keras.tree.map_structure(_described, _structured(model, model.inputs))
    archive.add_endpoint("serve", infer, [given])
    archive.write_out(folder, verbose=False)


def _described(tensor: Any) -> Any:
    import keras

    return keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _load(task: Conversion) -> Any:
    import keras

    old = {} if task.source.suffix.lower() == ".keras" else _layers_of_keras_2()
    try:
        return keras.saving.load_model(
            task.source, old, compile=False, safe_mode=not task.allow_code
        )
    except ValueError as error:
        text = one_line(error, _READ)
        if "lambda" in text.lower() and not task.allow_code:
            raise ConversionError(
                "the model has a Lambda layer, which holds code of its own; replace it by a layer "
                "of Keras, or have the owner of this machine set MODEL_DELIVERY_ALLOW_CODE=on",
                reason=Reason.UNTRUSTED_CODE,
                operator="Lambda",
            ) from error
        raise _unreadable(task, text) from error
    except Exception as error:
        raise _unreadable(task, one_line(error, _READ)) from error


def _layers_of_keras_2() -> dict[str, Any]:
    """Return what reads layers that Keras 2 wrote with arguments of another layer's.

    Its convolutions were made of one, whose arguments they wrote and never took.
    """
    import keras

    def reading(layer: Any, dropped: tuple[str, ...]) -> Any:
        class Reading(layer):  # type: ignore[misc]
            @classmethod
            def from_config(cls, config: dict[str, Any]) -> Any:
                kept = {n: value for n, value in config.items() if n not in dropped}
                # More groups than one it never had: they are refused as they were.
                return layer.from_config(kept if config.get("groups", 1) == 1 else config)

        return Reading

    return {
        f"{name}{rank}D{behind}": reading(getattr(keras.layers, f"{name}{rank}D{behind}"), dropped)
        for name, behind, ranks, dropped in _OF_KERAS_2
        for rank in ranks
    }


def _unreadable(task: Conversion, text: str) -> ConversionError:
    # Its middle is a layer's settings, and its end the cause.
    said = text if len(text) <= 2 * _ENDS else f"{text[:_ENDS]} … {text[-_ENDS:]}"
    return ConversionError(
        f"Keras cannot load {task.source.name}: {said}; {_SAVE}, or where the Keras that wrote it "
        "is older, as a SavedModel (framework TENSORFLOW)",
        reason=Reason.MODEL_UNREADABLE,
    )


def _structured(model: Any, inputs: list[Any]) -> Any:
    """Return inputs as the model takes them: in a dictionary, where it was built with one."""
    import keras

    if isinstance(model, keras.Sequential):
        return inputs[0]
    return keras.tree.pack_sequence_as(model.input, inputs)


def _layouts(model: Any) -> list[tuple[int, ...]]:
    """Return the orders of axes that images may be in, from NCHW, the likelier first."""
    formats = {getattr(layer, "data_format", None) for layer in model._flatten_layers()} - {None}
    as_it_is = tuple(range(_IMAGE_RANK))
    if formats == {"channels_first"}:
        return [as_it_is]
    return [_TO_NHWC] if formats == {"channels_last"} else [_TO_NHWC, as_it_is]


def _given(model: Any, tensor: Any) -> list[int | None]:
    """Return an input's own shape as DataInputConfig gives it: images in NCHW."""
    shape = list(tensor.shape)
    if len(shape) != _IMAGE_RANK:
        return shape
    axes = _layouts(model)[0]
    return [shape[axes.index(axis)] for axis in range(_IMAGE_RANK)]


def _fits(tensor: Any, given: tuple[int, ...]) -> bool:
    return len(given) == len(tensor.shape) and all(
        mine in (None, size) for mine, size in zip(tensor.shape, given, strict=True)
    )


def _check_shapes(model: Any, names: list[str], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Return the names of the images that are NHWC in the model."""
    images, layouts = [], _layouts(model)
    if set(names) != set(shapes):
        raise ConversionError(
            f"DataInputConfig names {', '.join(shapes) or 'nothing'}, the model's inputs are "
            f"{', '.join(names)}; name each of them",
            reason=Reason.DATA_INPUT_INVALID,
        )
    for name, tensor in zip(names, model.inputs, strict=True):
        if tensor.dtype == "string":
            raise ConversionError(
                f"input {name!r} takes strings, for which no samples can be drawn; save the model "
                "without its text preprocessing",
                reason=Reason.TENSOR_UNSUPPORTED,
            )
        given = shapes[name]
        fitting: list[tuple[int, ...]]
        if len(given) != _IMAGE_RANK:
            fitting = [()] if _fits(tensor, given) else []
        else:
            fitting = [axes for axes in layouts if _fits(tensor, tuple(given[a] for a in axes))]
        if not fitting:
            order = "NHWC" if _TO_NHWC in layouts else "NCHW"
            raise ConversionError(
                f"input {name!r}: the model takes {list(tensor.shape)} ({order} for images), "
                f"DataInputConfig gives {list(given)}; give images as NCHW",
                reason=Reason.SHAPE_MISMATCH,
            )
        if fitting[0] == _TO_NHWC:
            images.append(name)
    return images
