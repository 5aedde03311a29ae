"""Inference requests of the Open Inference Protocol v2: read, checked, run, answered.

A field or parameter is honoured or refused by name, never accepted and ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from model_delivery_engine.errors import InferenceError
from model_delivery_engine.tensors import Array, TensorSpec

from model_delivery_edge.errors import RequestError
from model_delivery_edge.oip_binary import (
    Tail,
    as_text_element,
    parted,
    raw_shape,
    read_binary,
    write_binary,
)
from model_delivery_edge.oip_tensors import read_shape, read_tensor, write_tensor
from model_delivery_edge.runtime import Served

_FIELDS = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})
_SIZE, _AS_BINARY, _ALL_AS_BINARY = "binary_data_size", "binary_data", "binary_data_output"


@dataclass(frozen=True)
class InferRequest:
    """A request that fits its model.

    :param id: to be echoed, None if there was none
    :param outputs: the outputs to answer with, in the order asked for
    :param binary: names of those that are to be answered in bytes
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[TensorSpec, ...]
    binary: frozenset[str]


@dataclass(frozen=True)
class Reply:
    """A response's body.

    :param json_length: of its JSON, where bytes of tensors follow; None where it is JSON alone
    """

    content: bytes
    json_length: int | None


def answer(served: Served, body: bytes, json_length: str | None = None) -> Reply:
    """Answer an inference request; blocking.

    :param json_length: the header that tells of binary tensors, as it came
    :raises RequestError: a request that does not fit (400), a model that failed on it (500)
    """
    request = read_request(served, body, json_length)
    try:
        outputs = served.model.run(request.inputs)
    except InferenceError as error:
        raise RequestError(str(error), 500) from error
    written, tail = [], []
    for spec in request.outputs:
        if spec.name in request.binary:
            raw = write_binary(outputs[spec.name], spec)
            tail.append(raw)
            written.append(_beside(outputs[spec.name], spec, len(raw)))
        else:
            written.append(write_tensor(outputs[spec.name], spec))
    response: dict[str, Any] = {
        "model_name": served.name,
        "model_version": served.version,
        "parameters": {"digest": served.digest},
        "outputs": written,
    }
    if request.id is not None:
        response["id"] = request.id
    text = json.dumps(response, separators=(",", ":"), allow_nan=False).encode()
    return Reply(b"".join([text, *tail]), len(text) if request.binary else None)


def _beside(array: Array, spec: TensorSpec, size: int) -> dict[str, Any]:
    """Return what the JSON has of an output whose data is behind it."""
    return {
        "name": spec.name,
        "datatype": spec.dtype,
        "shape": list(array.shape),
        "parameters": {_SIZE: size},
    }


def read_request(served: Served, body: bytes, json_length: str | None = None) -> InferRequest:
    """Read and check a request's body; RequestError says what does not fit."""
    text, tail = parted(body, json_length)
    if tail is not None and not len(text):
        return _raw(served, tail)
    data = _object(_parse(text), "the request", _FIELDS)
    parameters = _parameters(data, "the request", {_ALL_AS_BINARY: bool})
    request_id = data.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError("the request's id must be a string")
    inputs = _inputs(_list(data, "inputs", required=True), served, tail)
    if tail is not None:
        tail.end()
    outputs, binary = _outputs(
        _list(data, "outputs", required=False), served, parameters.get(_ALL_AS_BINARY, False)
    )
    return InferRequest(request_id, inputs, outputs, binary)


def _raw(served: Served, tail: Tail) -> InferRequest:
    """Read a body without JSON: the bytes of the model's only input. It is answered in bytes."""
    if len(served.model.inputs) != 1:
        names = ", ".join(spec.name for spec in served.model.inputs)
        raise RequestError(f"the model takes {names}; send a JSON header that tells them apart")
    (spec,) = served.model.inputs
    raw, shape = tail.content, raw_shape(len(tail.content), spec)
    array = read_binary(as_text_element(raw) if spec.dtype == "BYTES" else raw, shape, spec)
    outputs = served.model.outputs
    return InferRequest(None, {spec.name: array}, outputs, frozenset(each.name for each in outputs))


def _parse(text: bytes | memoryview) -> Any:
    try:
        return json.loads(bytes(text), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = str(error) or "nested too deeply"
        raise RequestError(f"the request's body is not JSON: {why[:200]}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _inputs(tensors: list[Any], served: Served, tail: Tail | None) -> dict[str, Array]:
    specs = {spec.name: spec for spec in served.model.inputs}
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        fields = _object(tensor, "an input", _INPUT_FIELDS)
        name = _known(fields, "input", specs)
        if name in arrays:
            raise RequestError(f"input {name!r} is there twice; send it once")
        size = _parameters(fields, f"input {name!r}", {_SIZE: int}).get(_SIZE)
        if size is None:
            arrays[name] = read_tensor(fields, specs[name])
            continue
        if tail is None or "data" in fields or size < 0:
            raise RequestError(
                f"input {name!r} has a binary_data_size of {size}: then its bytes come behind the "
                "JSON, whose length Inference-Header-Content-Length tells, and it has no data"
            )
        shape = read_shape(fields, specs[name])
        arrays[name] = read_binary(tail.take(size, specs[name]), shape, specs[name])
    if missing := [name for name in specs if name not in arrays]:
        raise RequestError(f"input {missing[0]!r} is missing; the model takes {', '.join(specs)}")
    return arrays


def _outputs(
    wanted: list[Any], served: Served, all_binary: bool
) -> tuple[tuple[TensorSpec, ...], frozenset[str]]:
    """Return the outputs to answer with, and which of them in bytes."""
    specs = {spec.name: spec for spec in served.model.outputs}
    binary: dict[str, bool] = {}
    for output in wanted:
        fields = _object(output, "an output", _OUTPUT_FIELDS)
        name = _known(fields, "output", specs)
        if name in binary:
            raise RequestError(f"output {name!r} is asked for twice; ask once")
        parameters = _parameters(fields, f"output {name!r}", {_AS_BINARY: bool})
        binary[name] = parameters.get(_AS_BINARY, all_binary)
    binary = binary or dict.fromkeys(specs, all_binary)
    chosen = frozenset(name for name, in_bytes in binary.items() if in_bytes)
    return tuple(specs[name] for name in binary), chosen


def _known(fields: dict[str, Any], kind: str, specs: dict[str, TensorSpec]) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or name not in specs:
        known = ", ".join(specs)
        raise RequestError(f"the model has no {kind} {name!r}; its {kind}s are {known}")
    return name


def _list(data: dict[str, Any], key: str, *, required: bool) -> list[Any]:
    value = data.get(key)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise RequestError(f"the request needs a list of {key}")
    return value


def _object(data: Any, what: str, fields: frozenset[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise RequestError(f"{what} must be a JSON object")
    if unknown := sorted(set(data) - fields):
        allowed = ", ".join(sorted(fields))
        raise RequestError(f"{what} has the unknown field {unknown[0]!r}; it may have {allowed}")
    return data


def _parameters(data: dict[str, Any], what: str, known: Mapping[str, type]) -> dict[str, Any]:
    """Return the parameters of a request, an input or an output; others are refused by name."""
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{what}: parameters must be a JSON object")
    for name, value in parameters.items():
        if name not in known:
            raise RequestError(
                f"{what} has the parameter {name!r}, which this server does not have"
            )
        if type(value) is not known[name]:
            kind = "true or false" if known[name] is bool else "a whole number"
            raise RequestError(f"{what} has the parameter {name!r} {value!r:.40}; give {kind}")
    return parameters
