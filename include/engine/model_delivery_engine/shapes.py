"""DataInputConfig: read, held against the model's inputs, and written into its graph.

The forms are Neo's: a JSON object of input name to dimensions in order,
``{"image": [1, 3, 224, 224]}``; for PyTorch also a list of dimensions in order, whose inputs are
called ``input0``, ``input1``, …. Nothing, or no input, leaves them to the model, which has to say
them then. -1 leaves the first (batch) dimension open.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from model_delivery_engine.errors import DataInputError, Reason

Shapes = dict[str, tuple[int, ...]]
MAX_ELEMENTS = 2**28  # a GiB of float32 in one tensor
_NO_SYMBOL = ("", "?")  # an open dimension of no name; Paddle's exporter writes a question mark
_LIST_FORM = ("PYTORCH",)


def parse_data_input_config(text: str | None, framework: str = "ONNX") -> Shapes:
    """Read a DataInputConfig.

    :param text: the JSON; None or empty where the model's own are taken
    :param framework: a Framework of CreateCompilationJob, which decides the form (default: ONNX)
    :returns: dimensions by input name, in order; empty where the model's own are taken
    :raises DataInputError: says what is wrong and shows the form
    """
    if not (text or "").strip():
        return {}
    try:
        config = json.loads(text or "", object_pairs_hook=_unique_names)
    except (ValueError, RecursionError) as error:
        raise DataInputError(f"DataInputConfig is not JSON ({error}); {_FORM}") from error
    if isinstance(config, list) and framework in _LIST_FORM:
        config = {f"input{number}": value for number, value in enumerate(config)}
    if not isinstance(config, dict):
        also = " or [[1, 64]]" if framework in _LIST_FORM else ""
        raise DataInputError(f"DataInputConfig names no input; {_FORM}{also}")
    return {name: _dimensions(name, value) for name, value in config.items()}


_FORM = 'write it as {"input name": [dimensions]}, for example {"image": [1, 64]}'


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise DataInputError(f"DataInputConfig names input {name!r} twice; name it once")
    return dict(pairs)


def _dimensions(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise DataInputError(
            f"DataInputConfig: input {name!r} is {json.dumps(value)[:100]}, "
            "not a list of whole numbers; " + _FORM
        )
    elements = 1
    for position, size in enumerate(value):
        if size < 1 and not (size == -1 and position == 0):
            raise DataInputError(
                f"DataInputConfig: input {name!r} has the dimension {size} at position {position}; "
                "dimensions are positive, and only the first (batch) may be -1"
            )
        elements *= abs(size)
    if elements > MAX_ELEMENTS:
        raise DataInputError(
            f"DataInputConfig: input {name!r} has {elements} elements, the limit is {MAX_ELEMENTS};"
            " give smaller dimensions"
        )
    return tuple(value)


def derive_shapes(own: Mapping[str, Sequence[Any] | None]) -> Shapes:
    """Return the shapes that a model itself gives its inputs, where no DataInputConfig does.

    :param own: each input's dimensions; what is no positive number is open, None for any shape
    :raises DataInputError: more than the first (batch) dimension is open; says what to give
    """
    found: Shapes = {}
    for name, shape in own.items():
        sizes = [_size(size) for size in shape or ()]
        if shape is None or -1 in sizes[1:]:
            inputs = ", ".join(f"{name}: {_in_words(each)}" for name, each in own.items())
            raise DataInputError(
                f"the model does not say the shape of its input {name!r}, so DataInputConfig has "
                f"to: give the dimensions of every input ({inputs}), of which only the first "
                f"(batch) may be -1; {_FORM}"
            )
        found[name] = _dimensions(name, sizes)
    return found


def _size(size: Any) -> int:
    return size if isinstance(size, int) and size > 0 else -1


def _in_words(shape: Sequence[Any] | None) -> str:
    if shape is None:
        return "[any]"
    return f"[{', '.join('?' if size in (None, -1, 0, '') else str(size) for size in shape)}]"


def own_shapes(model: Any) -> Shapes:
    """Return the shapes of an ``onnx.ModelProto``'s own inputs; DataInputError as `derive_shapes`.

    One that is no tensor has none here; `fix_shapes` refuses it.
    """
    own: dict[str, list[Any] | None] = {}
    for name, node in _inputs(model).items():
        tensor = node.type.tensor_type
        known = tensor.HasField("shape") or node.type.WhichOneof("value") != "tensor_type"
        own[name] = [d.dim_value or d.dim_param for d in tensor.shape.dim] if known else None
    return derive_shapes(own)


def _inputs(model: Any) -> dict[str, Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return {node.name: node for node in model.graph.input if node.name not in constants}


def fix_shapes(model: Any, shapes: Shapes) -> None:
    """Write the shapes into an ``onnx.ModelProto``'s inputs, and into all that shares a symbol.

    :raises DataInputError: an input that is missing, unknown, or whose shape does not fit; names
        the input, the model's shape and the given one
    """
    inputs = _inputs(model)
    faults = [f"{name!r} is no input of the model" for name in sorted(shapes.keys() - inputs)]
    faults += [f"input {name!r} is missing" for name in sorted(inputs.keys() - shapes)]
    if faults:
        listing = ", ".join(f"{n}: {describe_shape(i)}" for n, i in inputs.items())
        raise DataInputError(
            f"DataInputConfig: {'; '.join(faults)}; the model's inputs are {listing}"
        )
    symbols: dict[str, int] = {}
    for name, node in inputs.items():
        _fix_input(node, shapes[name], symbols)
    _fix_symbols(model, symbols)


def describe_shape(node: Any) -> str:
    """Return an input's shape in words: ``[batch, 3, 224, 224]``, ``?`` for what is open."""
    if not node.type.tensor_type.HasField("shape"):
        return "[any]"
    return f"[{', '.join(_describe(d) for d in node.type.tensor_type.shape.dim)}]"


def _describe(dimension: Any) -> str:
    if dimension.dim_value > 0:
        return str(dimension.dim_value)
    return str(dimension.dim_param or "?")


def _fix_input(node: Any, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    if node.type.WhichOneof("value") != "tensor_type":
        raise DataInputError(
            f"input {node.name!r} is no plain tensor but a {node.type.WhichOneof('value')}; "
            "export the model with tensors as inputs"
        )
    tensor = node.type.tensor_type
    unfit = DataInputError(
        f"input {node.name!r}: the model takes {describe_shape(node)}, DataInputConfig gives "
        f"{list(shape)}; give a shape that fits, or export the model with that one",
        reason=Reason.SHAPE_MISMATCH,
    )
    if not tensor.HasField("shape"):
        for _ in shape:
            tensor.shape.dim.add()
    if len(tensor.shape.dim) != len(shape):
        raise unfit
    for dimension, size in zip(tensor.shape.dim, shape, strict=True):
        # Some exporters write an open dimension as -1 or 0.
        if dimension.dim_value > 0 and dimension.dim_value != size:
            raise unfit
        symbol = dimension.dim_param
        if symbol not in _NO_SYMBOL and symbols.setdefault(symbol, size) != size:
            raise unfit
        _set(dimension, size)


def _set(dimension: Any, size: int) -> None:
    if size == -1:
        dimension.dim_param = dimension.dim_param or "batch"
    else:
        dimension.dim_value = size


def _fix_symbols(model: Any, symbols: dict[str, int]) -> None:
    """Give outputs the size of the input symbol they share; inner shapes are inferred anew."""
    del model.graph.value_info[:]
    for node in model.graph.output:
        for dimension in node.type.tensor_type.shape.dim:
            size = symbols.get(dimension.dim_param, -1)
            if size != -1:
                dimension.dim_value = size
