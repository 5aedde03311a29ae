"""JSON in and out without loss. orjson alone reads a whole number beyond 64 bits as a float."""

import json
import math
import re
from typing import Any

import orjson

_MAY_BE_LONG = re.compile(rb"[0-9]{19}")  # 2**63 has 19 digits


def read_json(text: bytes) -> Any:
    """Return what orjson reads, whole numbers of any length kept.

    :raises ValueError: what orjson refuses
    """
    data = orjson.loads(text)  # the stricter of the two: no NaN, no infinity, no lone surrogate
    if _MAY_BE_LONG.search(text) is None:
        return data
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply beside a long number") from error


def read_json_nan(text: bytes) -> Any:
    """Return what Python reads where it wrote NaN, which is no JSON; infinity is none here either.

    :raises ValueError: anything else that is no JSON
    """
    try:
        return json.loads(text, parse_constant=_nan)
    except RecursionError as error:
        raise ValueError("nested too deeply beside NaN") from error


def _nan(name: str) -> float:
    if name != "NaN":
        raise ValueError(f"{name} is no JSON")
    return math.nan


def write_json(data: Any) -> bytes:
    """Return JSON text of what `read_json` read.

    :raises ValueError: nested too deeply: more can be read than written
    """
    try:
        return orjson.dumps(data)
    except TypeError:  # a whole number beyond 64 bits, or over 254 levels
        try:
            return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
