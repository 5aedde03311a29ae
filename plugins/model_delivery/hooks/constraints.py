"""What botocore's models state and its own validation leaves to the service.

botocore checks types, required members, unknown ones and minimums before a call. Enums, maximums
and patterns it sends to the service, whose answer costs a task; they are checked here as well.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.validate import ParamValidator

from model_delivery.exceptions import InvalidRequestError


def check_request(client: Any, operation: str, request: Mapping[str, Any]) -> None:
    """Hold a request against the service's model.

    :param client: a boto3 client of the service, or what has its `meta`
    :param operation: by the API's name, for example CreateCompilationJob
    :raises InvalidRequestError: lists every fault; nothing was called
    """
    shape = client.meta.service_model.operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    faults = report.generate_report().splitlines() if report.has_errors() else []
    if not faults:
        faults = list(_faults(shape, request, ""))
    if faults:
        raise InvalidRequestError(f"{operation} would be refused: {'; '.join(faults)}")


def _faults(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for name, each in value.items():
            yield from _faults(shape.members[name], each, f"{path}.{name}".lstrip("."))
    elif shape.type_name == "list":
        yield from _length(shape, value, path)
        for number, each in enumerate(value):
            yield from _faults(shape.member, each, f"{path}[{number}]")
    elif shape.type_name == "string":
        yield from _length(shape, value, path)
        yield from _text(shape, value, path)
    elif "max" in shape.metadata and value > shape.metadata["max"]:
        yield f"{path} is {value}, at most {shape.metadata['max']} is allowed"


def _length(shape: Any, value: Any, path: str) -> Iterator[str]:
    most = shape.metadata.get("max")
    if most is not None and len(value) > most:
        yield f"{path} has a length of {len(value)}, at most {most} is allowed"


def _text(shape: Any, value: str, path: str) -> Iterator[str]:
    if getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path} is {value!r}, which is none of {', '.join(shape.enum)}"
    pattern = shape.metadata.get("pattern")
    # Python's re knows no classes of Unicode (\p{L}): those are left to the service.
    if pattern and r"\p" not in pattern and not re.fullmatch(pattern, value):
        yield f"{path} is {value[:100]!r}, which does not match {pattern}"
