"""Inference requests of the Open Inference Protocol v2: read, checked, run, answered.

A field or parameter is honoured or refused by name, never accepted and ignored.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from model_delivery_engine.errors import InferenceError
from model_delivery_engine.tensors import Array, TensorSpec

from model_delivery_edge.errors import RequestError
from model_delivery_edge.oip_tensors import read_tensor, write_tensor
from model_delivery_edge.runtime import Served

_FIELDS = frozenset({"id", "parameters", "inputs", "outputs"})
_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})
_BINARY = frozenset({"binary_data", "binary_data_output", "binary_data_size"})


@dataclass(frozen=True)
class InferRequest:
    """A request that fits its model.

    :param id: to be echoed, None if there was none
    :param outputs: the outputs to answer with, in the order asked for
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[TensorSpec, ...]


def answer(served: Served, body: bytes) -> bytes:
    """Answer an inference request; blocking.

    :raises RequestError: a request that does not fit (400), a model that failed on it (500)
    """
    request = read_request(served, body)
    try:
        outputs = served.model.run(request.inputs)
    except InferenceError as error:
        raise RequestError(str(error), 500) from error
    response: dict[str, Any] = {
        "model_name": served.name,
        "model_version": served.version,
        "parameters": {"digest": served.digest},
        "outputs": [write_tensor(outputs[spec.name], spec) for spec in request.outputs],
    }
    if request.id is not None:
        response["id"] = request.id
    return json.dumps(response, separators=(",", ":"), allow_nan=False).encode()


def read_request(served: Served, body: bytes) -> InferRequest:
    """Read and check a request's body; RequestError says what does not fit."""
    data = _object(_parse(body), "the request", _FIELDS)
    _check_parameters(data, "the request")
    request_id = data.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError("the request's id must be a string")
    return InferRequest(
        request_id,
        _inputs(_list(data, "inputs", required=True), served),
        _outputs(_list(data, "outputs", required=False), served),
    )


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = str(error) or "nested too deeply"
        raise RequestError(f"the request's body is not JSON: {why[:200]}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _inputs(tensors: list[Any], served: Served) -> dict[str, Array]:
    specs = {spec.name: spec for spec in served.model.inputs}
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        fields = _object(tensor, "an input", _INPUT_FIELDS)
        name = _known(fields, "input", specs)
        if name in arrays:
            raise RequestError(f"input {name!r} is there twice; send it once")
        _check_parameters(fields, f"input {name!r}")
        arrays[name] = read_tensor(fields, specs[name])
    if missing := [name for name in specs if name not in arrays]:
        raise RequestError(f"input {missing[0]!r} is missing; the model takes {', '.join(specs)}")
    return arrays


def _outputs(wanted: list[Any], served: Served) -> tuple[TensorSpec, ...]:
    specs = {spec.name: spec for spec in served.model.outputs}
    names: list[str] = []
    for output in wanted:
        fields = _object(output, "an output", _OUTPUT_FIELDS)
        name = _known(fields, "output", specs)
        if name in names:
            raise RequestError(f"output {name!r} is asked for twice; ask once")
        _check_parameters(fields, f"output {name!r}")
        names.append(name)
    return tuple(specs[name] for name in names) or served.model.outputs


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


def _check_parameters(data: dict[str, Any], what: str) -> None:
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{what}: parameters must be a JSON object")
    for name, value in parameters.items():
        if name in _BINARY and value is False:
            continue  # asks for what is done anyway
        if name in _BINARY:
            raise RequestError(
                f"{what} has the parameter {name!r}: the binary tensor extension is not served; "
                "send and ask for data as JSON"
            )
        raise RequestError(f"{what} has the parameter {name!r}, which this server does not have")
