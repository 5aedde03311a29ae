"""JSON as RFC 8259 has it and as others can read it again, from whoever sends it."""

import json
import math
from typing import Any

# Liquid's and our own walks go down by recursion, which Python ends at some hundreds of levels.
DEEPEST = 100


def loads(text: str | bytes | bytearray) -> Any:
    """Parse what can be stored, shown and written again.

    Python's own parser also takes NaN, numbers without a finite value (`1e999`), and halves of
    surrogate pairs, of which it writes no UTF-8; and it gives up on deep nesting by another error.

    :raises ValueError: not JSON, one of those, or nested deeper than 100 levels
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        # Written, since its strings may be anywhere, keys included; this is C, a walk is not.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half of a surrogate pair") from error
    if not _is_shallow(value):
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False
