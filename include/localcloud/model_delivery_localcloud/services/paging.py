"""Page tokens that stay valid while rows come and go.

A token holds the sort key of the last row shown and a digest of the filters, so a page starts
after that key, whatever was added or removed, and a token used with other filters is refused. A
caller can write any text as a token, so the key in it is held to its types before a query sees it.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model_delivery_localcloud.errors import ServiceError, validation_error

LONGEST = 1024  # bytes of a name or tag, and more


def encode_token(after: list[Any], filters: Mapping[str, Any]) -> str:
    """Return the token of the page that follows the sort key `after`."""
    text = json.dumps([_digest(filters), after])
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode_token(
    token: str | None,
    filters: Mapping[str, Any],
    key: Sequence[type],
    refused: Callable[[str], ServiceError] = validation_error,
) -> list[Any] | None:
    """Return the sort key to continue after, None for the first page.

    `key` are the types of the sort key's parts, each `int` or `str`.
    `refused` makes the error of a token that this list did not return.
    """
    if token is None:
        return None
    try:
        digest, after = json.loads(base64.urlsafe_b64decode(token.encode()))
        usable = digest == _digest(filters) and _fits(after, key)
    except (ValueError, TypeError, RecursionError):
        usable = False
    if not usable:
        raise refused("Invalid nextToken: use the one this list returned, same filters.")
    return list(after)


def _fits(after: Any, key: Sequence[type]) -> bool:
    if not isinstance(after, list) or [type(part) for part in after] != list(key):
        return False
    # What no column holds, a database refuses with an error of its own.
    return not any(isinstance(part, int) and abs(part) >= 2**63 for part in after) and not any(
        isinstance(part, str) and not _storable(part) for part in after
    )


def _storable(text: str) -> bool:
    try:
        return len(text.encode()) <= LONGEST and "\0" not in text
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _digest(filters: Mapping[str, Any]) -> str:
    kept = {name: str(value) for name, value in filters.items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
