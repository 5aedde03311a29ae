"""DataInputConfig: read, held against the model's inputs, and written into its graph.

The forms are Neo's: a JSON object of input name to dimensions in order,
``{"image": [1, 3, 224, 224]}``; for PyTorch also a list of dimensions in order, whose inputs are
called ``input0``, ``input1``, …; for XGBoost and scikit-learn, whose models know theirs, nothing.
-1 leaves the first (batch) dimension open.
"""

import json
from typing import Any

from model_delivery_engine.errors import DataInputError, Reason

Shapes = dict[str, tuple[int, ...]]
MAX_ELEMENTS = 2**28  # a GiB of float32 in one tensor
_NO_SYMBOL = ("", "?")  # an open dimension of no name; Paddle's exporter writes a question mark
_LIST_FORM = ("PYTORCH",)
OPTIONAL = ("SKLEARN", "XGBOOST")


def parse_data_input_config(text: str | None, framework: str = "ONNX") -> Shapes:
    """Read a DataInputConfig.

    :param text: the JSON; None or empty where the framework needs none
    :param framework: a Framework of CreateCompilationJob, which decides the form (default: ONNX)
    :returns: dimensions by input name, in order; empty where the model's own are taken
    :raises DataInputError: says what is wrong and shows the form
    """
    if not (text or "").strip() and framework in OPTIONAL:
        return {}
    try:
        config = json.loads(text or "", object_pairs_hook=_unique_names)
    except (ValueError, RecursionError) as error:
        raise DataInputError(f"DataInputConfig is not JSON ({error}); {_FORM}") from error
    if isinstance(config, list) and framework in _LIST_FORM:
        config = {f"input{number}": value for number, value in enumerate(config)}
    if config == {} and framework in OPTIONAL:
        return {}
    if not isinstance(config, dict) or not config:
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


def fix_shapes(model: Any, shapes: Shapes) -> None:
    """Write the shapes into an ``onnx.ModelProto``'s inputs, and into all that shares a symbol.

    :raises DataInputError: an input that is missing, unknown, or whose shape does not fit; names
        the input, the model's shape and the given one
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in constants}
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
