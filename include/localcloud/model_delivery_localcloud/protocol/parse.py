"""From a request to an operation's parameters, one function a protocol."""

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from model_delivery_localcloud import strict_json
from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.messages import Request


def parse_json_body(request: Request, operation: OperationModel) -> dict[str, Any]:
    """Parse a JSON 1.1 request: the whole input is the body."""
    body = _json_object(request.body)
    return _from_json_structure(body, operation.input_shape)


def parse_rest_json(
    request: Request, operation: OperationModel, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Parse a REST-JSON request: URI labels, query string, and the rest from the body."""
    shape = operation.input_shape
    members = shape.members if isinstance(shape, StructureShape) else {}
    located: dict[str, Any] = {}
    pairs = parse_qsl(request.query, keep_blank_values=True)
    query = dict(pairs)
    for name, member in members.items():
        location = member.serialization.get("location")
        wire_name = member.serialization.get("name", name)
        source = {"uri": labels, "querystring": query}.get(location or "", {})
        if wire_name in source and isinstance(member, ListShape) and location == "querystring":
            every = [value for key, value in pairs if key == wire_name]
            located[name] = [_from_text(value, member.member) for value in every]
        elif wire_name in source:
            located[name] = _from_text(source[wire_name], member)
    in_query = {
        member.serialization.get("name", name)
        for name, member in members.items()
        if member.serialization.get("location") == "querystring"
    }
    unknown = {name: value for name, value in query.items() if name not in in_query}
    body = _json_object(request.body) if request.body else {}
    return {**unknown, **_from_json_structure(body, shape), **located}


def parse_query(request: Request) -> tuple[str, dict[str, Any]]:
    """Parse a query-protocol request to its Action and its parameters, all of them strings."""
    text = request.body.decode("utf-8", "replace") or request.query
    fields = dict(parse_qsl(text, keep_blank_values=True))
    fields.pop("Version", None)
    return fields.pop("Action", ""), fields


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = strict_json.loads(body or b"{}")
    except ValueError as error:
        raise ServiceError("SerializationException", f"The body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ServiceError("SerializationException", "The body is not a JSON object.")
    return value


def _from_json_structure(value: Mapping[str, Any], shape: Shape | None) -> dict[str, Any]:
    # Null means absent on AWS's wire. Unknown members stay, so that validation can name them.
    members: Mapping[str, Shape] = shape.members if isinstance(shape, StructureShape) else {}
    by_wire_name = {
        member.serialization.get("name", name): (name, member) for name, member in members.items()
    }
    parsed = {}
    for wire_name, item in value.items():
        if item is None:
            continue
        name, member = by_wire_name.get(wire_name, (wire_name, None))
        parsed[name] = _from_json(item, member) if member is not None else item
    return parsed


def _from_json(value: Any, shape: Shape) -> Any:
    # A value of the wrong type passes through: validation names it.
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        return _from_json_structure(value, shape)
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_from_json(item, shape.member) for item in value]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {key: _from_json(item, shape.value) for key, item in value.items()}
    if shape.type_name == "timestamp":
        return _timestamp(value)
    if shape.type_name == "blob" and isinstance(value, str):
        return _blob(value)
    return value


def _from_text(value: str, shape: Shape) -> Any:
    converters = {"integer": int, "long": int, "float": float, "double": float}
    if shape.type_name in converters:
        try:
            return converters[shape.type_name](value)
        except ValueError:
            return value
    if shape.type_name == "boolean":
        return {"true": True, "false": False}.get(value, value)
    return _timestamp(value) if shape.type_name == "timestamp" else value


def _timestamp(value: Any) -> Any:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC) if math.isfinite(value) else value
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError, OSError):
        return value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _blob(value: str) -> Any:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value
