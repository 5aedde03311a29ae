r"""Input validation against a service's shapes, in the words AWS uses.

botocore's client-side validator knows types and minimums only; maximums, patterns and enums are
in the model's metadata and are checked here. Patterns may use `\p{…}`, which needs `regex`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import regex
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

from model_delivery_localcloud.errors import ServiceError

SHOWN_VALUE = 256
_TYPES: Mapping[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (datetime,),
    "blob": (bytes,),
}


@dataclass(frozen=True)
class Fault:
    """One violated constraint: where, and the sentence that says which."""

    path: str
    message: str


def validate(params: Mapping[str, Any], shape: StructureShape | None) -> None:
    """Raise ValidationException naming every member of `params` that breaks a constraint."""
    faults = list(_faults(params, shape, "")) if shape else _unknown(params, {}, "")
    if not faults:
        return
    found = "1 validation error" if len(faults) == 1 else f"{len(faults)} validation errors"
    raise ServiceError(
        "ValidationException",
        f"{found} detected: " + "; ".join(fault.message for fault in faults),
        members={
            "reason": "FIELD_VALIDATION_FAILED",
            "fields": [{"name": fault.path, "message": fault.message} for fault in faults],
        },
    )


def has_type(value: object, shape: Shape) -> bool:
    """Tell whether a parsed value has the Python type of its shape."""
    if isinstance(value, bool) and shape.type_name != "boolean":
        return False
    return isinstance(value, _TYPES[shape.type_name])


def _faults(value: Any, shape: Shape, path: str) -> Iterator[Fault]:
    if not has_type(value, shape):
        yield _fault(value, path, f"Member must be of type {shape.type_name}")
    elif isinstance(shape, StructureShape):
        yield from _structure_faults(value, shape, path)
    elif isinstance(shape, ListShape):
        yield from _size_faults(value, len(value), shape, path, "length")
        for index, item in enumerate(value, start=1):
            yield from _faults(item, shape.member, f"{path}.{index}.member")
    elif isinstance(shape, MapShape):
        yield from _size_faults(value, len(value), shape, path, "length")
        for key, item in value.items():
            yield from _faults(key, shape.key, f"{path}.key")
            yield from _faults(item, shape.value, f"{path}.{key}.member")
    else:
        yield from _scalar_faults(value, shape, path)


def _structure_faults(
    value: Mapping[str, Any], shape: StructureShape, path: str
) -> Iterator[Fault]:
    yield from _unknown(value, shape.members, path)
    for name in shape.required_members:
        if value.get(name) is None:
            yield _fault(None, _join(path, name), "Member must not be null")
    given = [name for name, item in value.items() if item is not None and name in shape.members]
    if getattr(shape, "is_tagged_union", False) and len(given) != 1:
        yield _fault(None, path, "Exactly one member of the union must be set")
    for name in given:
        yield from _faults(value[name], shape.members[name], _join(path, name))


def _unknown(value: Mapping[str, Any], members: Mapping[str, Any], path: str) -> list[Fault]:
    known = ", ".join(members) or "none"
    return [
        Fault(
            _join(path, name),
            f"Unknown member '{name}' at '{path or 'input'}'; known members are: {known}",
        )
        for name in value
        if name not in members
    ]


def _scalar_faults(value: Any, shape: Shape, path: str) -> Iterator[Fault]:
    if isinstance(shape, StringShape):
        yield from _string_faults(value, shape, path)
    elif isinstance(value, bytes):
        yield from _size_faults(value, len(value), shape, path, "length")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _size_faults(value, value, shape, path, "value")


def _string_faults(value: str, shape: StringShape, path: str) -> Iterator[Fault]:
    if shape.enum and value not in shape.enum:
        allowed = ", ".join(shape.enum)
        yield _fault(value, path, f"Member must satisfy enum value set: [{allowed}]")
    yield from _size_faults(value, len(value), shape, path, "length")
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        yield _fault(value, path, f"Member must satisfy regular expression pattern: {pattern}")


def _size_faults(value: Any, size: float, shape: Shape, path: str, what: str) -> Iterator[Fault]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield _fault(value, path, f"Member must have {what} greater than or equal to {low}")
    if high is not None and size > high:
        yield _fault(value, path, f"Member must have {what} less than or equal to {high}")


def _fault(value: Any, path: str, constraint: str) -> Fault:
    shown = "null" if value is None else f"'{_shown(value)}'"
    message = f"Value {shown} at '{path or 'input'}' failed to satisfy constraint: {constraint}"
    return Fault(path or "input", message)


def _shown(value: Any) -> str:
    text = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN_VALUE else text[:SHOWN_VALUE] + "…"


def _join(path: str, name: str) -> str:
    member = name[:1].lower() + name[1:]
    return f"{path}.{member}" if path else member


def _matches(pattern: str, value: str) -> bool:
    # `regex` keeps the compiled patterns in a cache of its own.
    return regex.fullmatch(pattern, value) is not None  # type: ignore[no-untyped-call] # no stubs
