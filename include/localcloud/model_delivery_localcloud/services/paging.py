"""Page tokens that stay valid while rows come and go.

A token holds the sort key of the last row shown and a digest of the filters, so a page starts
after that key, whatever was added or removed, and a token used with other filters is refused.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from model_delivery_localcloud.errors import ServiceError, validation_error


def encode_token(after: list[Any], filters: Mapping[str, Any]) -> str:
    """Return the token of the page that follows the sort key `after`."""
    text = json.dumps([_digest(filters), after])
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode_token(
    token: str | None,
    filters: Mapping[str, Any],
    refused: Callable[[str], ServiceError] = validation_error,
) -> list[Any] | None:
    """Return the sort key to continue after, None for the first page.

    `refused` makes the error of a token that this list did not return.
    """
    if token is None:
        return None
    try:
        digest, after = json.loads(base64.urlsafe_b64decode(token.encode()))
        usable = digest == _digest(filters) and isinstance(after, list)
    except (ValueError, TypeError):
        usable = False
    if not usable:
        raise refused("Invalid nextToken: use the one this list returned, same filters.")
    return list(after)


def _digest(filters: Mapping[str, Any]) -> str:
    kept = {name: str(value) for name, value in filters.items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
