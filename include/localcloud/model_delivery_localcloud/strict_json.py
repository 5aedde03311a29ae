"""JSON as RFC 8259 has it, from whoever sends it."""

import json
from typing import Any


def loads(text: str | bytes | bytearray) -> Any:
    """Parse; Python's own parser also takes NaN, and gives up on deep nesting by another error.

    :raises ValueError: not JSON, or nested too deeply
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
