"""Numbers and words of templated fields, which come as text: read, or refused by field."""

import math
from enum import StrEnum
from typing import TypeVar

from model_delivery.exceptions import InvalidRequestError

Word = TypeVar("Word", bound=StrEnum)


def whole_number(name: str, value: object) -> int | None:
    """Return a field's whole number; None where nothing is given.

    :raises InvalidRequestError: anything else; 25.0 is a whole number, 25.9 is none.
    """
    found = number(name, value)
    if found is None:
        return None
    if not found.is_integer():
        raise InvalidRequestError(f"{name} is {value!r}: give a whole number")
    return int(found)


def number(name: str, value: object) -> float | None:
    """Return a field's number; None where nothing is given.

    :raises InvalidRequestError: no number, or none that ends.
    """
    if value is None or value == "":
        return None
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InvalidRequestError(f"{name} is {value!r}: give a number")
    return found


def word(name: str, value: str, words: type[Word]) -> Word:
    """Return one of a field's words; InvalidRequestError for any other."""
    if value not in set(words):
        raise InvalidRequestError(f"{name} is {value!r}: give one of {', '.join(words)}")
    return words(value)
