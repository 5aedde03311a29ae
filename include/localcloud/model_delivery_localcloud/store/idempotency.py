"""Client tokens: a create call sent twice is done once and answered the same twice."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.store.tables import ClientToken

REMEMBERED_MS = 8 * 3600 * 1000
TOKEN_MEMBER = "clientToken"


def recall(
    session: Session, key: tuple[str, str, str], params: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the answer already given to this token, None for a new one.

    `key` is account, region, operation. A token used with another request raises
    ConflictException. Tokens older than 8 hours are forgotten.
    """
    token = params.get(TOKEN_MEMBER)
    if token is None:
        return None
    old = ClientToken.created_at < now_ms() - REMEMBERED_MS
    session.execute(delete(ClientToken).where(old))
    row = session.get(ClientToken, (*key, token))
    if row is None:
        return None
    if row.request_digest != _digest(params):
        raise ServiceError(
            "ConflictException",
            f"clientToken {token} was already used with different parameters.",
            409,
        )
    return dict(row.answer)


def remember(
    session: Session, key: tuple[str, str, str], params: Mapping[str, Any], answer: dict[str, Any]
) -> None:
    """Keep the answer (JSON) for the request's token, if it has one."""
    token = params.get(TOKEN_MEMBER)
    if token is None:
        return
    account, region, operation = key
    session.add(
        ClientToken(
            account=account,
            region=region,
            operation=operation,
            token=token,
            request_digest=_digest(params),
            answer=answer,
            created_at=now_ms(),
        )
    )


def _digest(params: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in params.items() if name != TOKEN_MEMBER}
    text = json.dumps(kept, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()
