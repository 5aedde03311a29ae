"""From an operation's result, or an error, to the answer each protocol wants.

botocore reads answers leniently, so a mistake of ours would pass unseen: every result is checked
against its output shape before it leaves.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from botocore.model import (
    ListShape,
    MapShape,
    OperationModel,
    ServiceModel,
    Shape,
    StringShape,
    StructureShape,
)

from model_delivery_localcloud.errors import ResponseShapeError, ServiceError
from model_delivery_localcloud.protocol.messages import Response
from model_delivery_localcloud.protocol.models import JSON_RPC, QUERY
from model_delivery_localcloud.protocol.validate import has_type

_CONTENT_TYPES = {JSON_RPC: "application/x-amz-json-1.1", QUERY: "text/xml"}


def check_output(result: Mapping[str, Any], operation: OperationModel) -> None:
    """Raise ResponseShapeError naming the first member that does not fit the output shape."""
    shape = operation.output_shape
    if shape is None:
        if result:
            raise ResponseShapeError(f"{operation.name} answers nothing, got {sorted(result)}")
        return
    _check(result, shape, operation.name)


def serialise(
    result: Mapping[str, Any], operation: OperationModel, protocol: str, request_id: str
) -> Response:
    """Return the checked result as an HTTP answer."""
    check_output(result, operation)
    if protocol == QUERY:
        body = _xml_result(result, operation, request_id)
    else:
        body = json.dumps(_to_json(result, operation.output_shape)).encode()
    status = int(operation.http.get("responseCode", 200))
    if status == 204:  # HTTP allows it no content: a client would read it as the next answer
        body = b""
    return Response(status, _headers(protocol, request_id), body)


def serialise_error(
    error: ServiceError, model: ServiceModel, protocol: str, request_id: str
) -> Response:
    """Return an error as the protocol spells it."""
    headers = _headers(protocol, request_id)
    if protocol == QUERY:
        return Response(error.status, headers, _xml_error(error, model, request_id))
    body: dict[str, Any] = {"message": error.message, **_known_members(error, model)}
    if protocol == JSON_RPC:
        body["__type"] = error.code
    else:
        headers["x-amzn-ErrorType"] = error.code
    return Response(error.status, headers, json.dumps(body).encode())


def _headers(protocol: str, request_id: str) -> dict[str, str]:
    content_type = _CONTENT_TYPES.get(protocol, "application/json")
    return {"Content-Type": content_type, "x-amzn-RequestId": request_id}


def _known_members(error: ServiceError, model: ServiceModel) -> dict[str, Any]:
    if error.code not in model.shape_names:
        return {}
    shape = model.shape_for(error.code)
    members = shape.members if isinstance(shape, StructureShape) else {}
    return {name: value for name, value in error.members.items() if name in members}


def _check(value: Any, shape: Shape, path: str) -> None:
    if not has_type(value, shape):
        found = type(value).__name__
        raise ResponseShapeError(f"{path} should be a {shape.type_name}, is a {found}")
    if isinstance(shape, StructureShape):
        _check_structure(value, shape, path)
    elif isinstance(shape, ListShape):
        for index, item in enumerate(value):
            _check(item, shape.member, f"{path}[{index}]")
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            _check(key, shape.key, f"{path} key")
            _check(item, shape.value, f"{path}[{key!r}]")
    elif isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        raise ResponseShapeError(f"{path} is {value!r}, which is not in its enum")


def _check_structure(value: Mapping[str, Any], shape: StructureShape, path: str) -> None:
    unknown = value.keys() - shape.members.keys()
    missing = set(shape.required_members) - value.keys()
    if unknown or missing:
        raise ResponseShapeError(
            f"{path}: unknown members {sorted(unknown)}, missing members {sorted(missing)}"
        )
    for name, item in value.items():
        member = shape.members[name]
        if member.serialization.get("location"):
            raise ResponseShapeError(f"{path}.{name} belongs in a header: not supported here")
        _check(item, member, f"{path}.{name}")


def _to_json(value: Any, shape: Shape | None) -> Any:
    if isinstance(value, Mapping):
        members = shape.members if isinstance(shape, StructureShape) else {}
        member = shape.value if isinstance(shape, MapShape) else None
        return {key: _to_json(item, members.get(key, member)) for key, item in value.items()}
    if isinstance(value, list):
        member = shape.member if isinstance(shape, ListShape) else None
        return [_to_json(item, member) for item in value]
    if isinstance(value, datetime):
        return _timestamp(value, shape)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _timestamp(value: datetime, shape: Shape | None) -> float | str:
    if shape is not None and shape.serialization.get("timestampFormat") == "iso8601":
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return round(value.timestamp(), 3)


def _xml_result(result: Mapping[str, Any], operation: OperationModel, request_id: str) -> bytes:
    namespace = operation.service_model.metadata["xmlNamespace"]
    root = ElementTree.Element(f"{operation.name}Response", xmlns=namespace)
    holder = ElementTree.SubElement(root, f"{operation.name}Result")
    for name, value in result.items():
        if not isinstance(value, str):
            raise ResponseShapeError(f"{operation.name}.{name}: only strings are written as XML")
        ElementTree.SubElement(holder, name).text = value
    metadata = ElementTree.SubElement(root, "ResponseMetadata")
    ElementTree.SubElement(metadata, "RequestId").text = request_id
    return _document(root)


def _xml_error(error: ServiceError, model: ServiceModel, request_id: str) -> bytes:
    root = ElementTree.Element("ErrorResponse", xmlns=model.metadata["xmlNamespace"])
    holder = ElementTree.SubElement(root, "Error")
    fault = "Sender" if error.status < 500 else "Receiver"
    for name, text in (("Type", fault), ("Code", error.code), ("Message", error.message)):
        ElementTree.SubElement(holder, name).text = text
    ElementTree.SubElement(root, "RequestId").text = request_id
    return _document(root)


def _document(root: ElementTree.Element) -> bytes:
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode()
