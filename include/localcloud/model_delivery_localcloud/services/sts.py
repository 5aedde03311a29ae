"""AWS STS: who signed this request."""

from collections.abc import Mapping
from typing import Any

from model_delivery_localcloud.protocol.gateway import Handler
from model_delivery_localcloud.protocol.messages import Call


def handlers() -> Mapping[str, Handler]:
    """Return STS's built operations."""
    return {"GetCallerIdentity": get_caller_identity}


def get_caller_identity(call: Call) -> dict[str, Any]:
    """Answer the account of the key, and the key's id as user id and user name."""
    caller = call.caller
    return {
        "UserId": caller.access_key_id,
        "Account": caller.account,
        "Arn": f"arn:aws:iam::{caller.account}:user/{caller.access_key_id}",
    }
