"""Inputs whose value is fixed when a model is compiled, as shapes are.

An input that is a mode (a sample rate, whether to decode) takes a model down one way, and what is
drawn at random takes it down another, or down none. With its value fixed it is a constant of the
model, which folds with all that depends on it: what is proved is then what is delivered.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model_delivery_engine.errors import OptionsError
from model_delivery_engine.graph_inputs import input_specs
from model_delivery_engine.tensors import NUMPY_TYPES, Array, TensorSpec

FixedInputs = Mapping[str, Any]


def fixed_arrays(values: FixedInputs, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the values as the model takes them.

    :param values: by input a number, which fills it, or lists in its shape
    :param specs: all the model's inputs, their shapes fixed
    :raises OptionsError: no input of that name, none that is left to ask, a value of another type
        or shape; names it
    """
    inputs = {spec.name: spec for spec in specs}
    if unknown := sorted(values.keys() - inputs):
        raise OptionsError(
            f'CompilerOptions: "values" names {unknown[0]!r}, which is no input of the model; they '
            f"are {', '.join(inputs)}"
        )
    if values and values.keys() == inputs.keys():
        raise OptionsError(
            'CompilerOptions: "values" fixes every input, which leaves nothing to ask the model; '
            "leave one out"
        )
    return {name: _array(inputs[name], value) for name, value in values.items()}


def fix_inputs(model: Any, values: FixedInputs) -> None:
    """Make constants of inputs of an ``onnx.ModelProto`` whose shapes are fixed.

    :raises OptionsError: as `fixed_arrays`
    """
    import onnx

    arrays = fixed_arrays(values, input_specs(model.graph, {}))
    kept = [node for node in model.graph.input if node.name not in arrays]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )


def _array(spec: TensorSpec, value: Any) -> Array:
    dtype = NUMPY_TYPES[spec.dtype]
    shown = json.dumps(value)[:50]
    try:
        given = np.asarray(value)
        with np.errstate(over="ignore", invalid="ignore"):
            array = given.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise _refusal(spec, shown) from error
    exact = dtype.kind == "f" or (given == array).all()
    if dtype.kind not in "biuf" or given.dtype.kind not in "biuf" or not exact:
        raise _refusal(spec, shown)
    if not np.isfinite(array).all() or (dtype.kind == "b") != (given.dtype.kind == "b"):
        raise _refusal(spec, shown)
    if array.ndim and not spec.accepts(array.shape):
        raise _refusal(spec, shown)
    if array.ndim or not spec.shape:
        return array
    if -1 in spec.shape:
        raise OptionsError(
            f'CompilerOptions: "values" fixes {spec.name!r}, whose batch is open; give its batch '
            "in DataInputConfig, or the value as lists in its shape"
        )
    return np.full(spec.shape, array)


def _refusal(spec: TensorSpec, shown: str) -> OptionsError:
    return OptionsError(
        f'CompilerOptions: "values" gives {spec.name!r} {shown}; it takes {spec.dtype} of shape '
        f"{list(spec.shape)}: give a number of that type, which fills it, or lists in that shape"
    )
