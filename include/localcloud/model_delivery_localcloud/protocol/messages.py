"""What comes in and goes out, apart from any web framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """An HTTP request as it was on the wire.

    `raw_path` and `query` are still percent-encoded, as signatures and URI labels need them;
    header names are lower case, in order, repeated where they were.
    """

    method: str
    raw_path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """Return the first value of the header `name` (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Caller:
    """Who signed the request, and the region the signature was made for."""

    account: str
    region: str
    access_key_id: str


@dataclass(frozen=True)
class Call:
    """One verified, validated call of an operation."""

    caller: Caller
    operation: str
    params: Mapping[str, Any]
