"""Personalize's errors, in its own codes."""

from model_delivery_localcloud.errors import ServiceError
from model_delivery_localcloud.protocol.messages import Caller
from model_delivery_localcloud.services.arns import Resource, resource_of


def invalid_input(message: str) -> ServiceError:
    """Return InvalidInputException."""
    return ServiceError("InvalidInputException", message)


def bad_token(message: str) -> ServiceError:
    """Return InvalidNextTokenException."""
    return ServiceError("InvalidNextTokenException", message)


def not_found(arn: str) -> ServiceError:
    """Return ResourceNotFoundException."""
    return ServiceError("ResourceNotFoundException", f"Could not find resource with ARN {arn}.")


def already_exists(arn: str) -> ServiceError:
    """Return ResourceAlreadyExistsException."""
    return ServiceError(
        "ResourceAlreadyExistsException", f"Another resource with ARN {arn} already exists."
    )


def resource(arn: str, caller: Caller, kind: str, parts: int = 1) -> Resource:
    """Return what an ARN names; InvalidInput for another kind, NotFound for another account's."""
    found = resource_of(arn, caller)
    if found is None:
        raise not_found(arn)
    if found.kind != kind or len(found.names) != parts:
        raise invalid_input(f"{arn} is not the ARN of a {kind.replace('-', ' ')}.")
    return found
