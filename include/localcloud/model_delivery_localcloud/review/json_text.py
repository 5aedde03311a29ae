"""JSON as reviewers read it: what was written, in lines.

A parsed value is not that: browsers round whole numbers beyond 2**53, print `10.0` as `10`, sort
keys that look like numbers, and of a key that comes twice every parser keeps one.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any

from model_delivery_localcloud import strict_json

_STEP = "  "


class _Number(str):
    """A number as it was written."""


class _Members(list[tuple[str, Any]]):
    """An object's members in their order, repeated keys included."""


def indented(text: str, without: Collection[str] = frozenset()) -> str:
    """Return JSON text with a member or item a line, each number as written, keys as they come.

    Texts are without escapes where they need none.

    :param without: keys of the outermost object whose members are left out
    :raises ValueError: not JSON as `strict_json` reads it
    """
    strict_json.loads(text)
    value = json.loads(text, parse_int=_Number, parse_float=_Number, object_pairs_hook=_Members)
    if isinstance(value, _Members):
        value = _Members(member for member in value if member[0] not in without)
    return "".join(_pieces(value, "\n"))


def _pieces(value: Any, line: str) -> Iterator[str]:
    """Yield the text of a value; `line` ends a line and begins the next where the value stands."""
    if isinstance(value, _Number):
        yield value
    elif isinstance(value, _Members) and value:
        yield from _enclosed("{}", ((f"{_quoted(key)}: ", each) for key, each in value), line)
    elif isinstance(value, _Members):
        yield "{}"
    elif isinstance(value, list) and value:
        yield from _enclosed("[]", (("", each) for each in value), line)
    else:
        yield _quoted(value)


def _enclosed(ends: str, parts: Iterator[tuple[str, Any]], line: str) -> Iterator[str]:
    between = ends[0]
    for name, each in parts:
        yield f"{between}{line}{_STEP}{name}"
        yield from _pieces(each, line + _STEP)
        between = ","
    yield f"{line}{ends[1]}"


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
