"""Whose fault an error of a service is: its own for now, the connection's, or the one job's."""

from collections.abc import Iterator
from contextlib import contextmanager

# https://docs.aws.amazon.com/general/latest/gr/api-retries.html, botocore's retry handlers, and
# the codes of services that have one of their own.
THROTTLING_CODES = frozenset(
    {
        "BandwidthLimitExceeded", "EC2ThrottledException", "LimitExceededException",
        "PriorRequestNotComplete", "ProvisionedThroughputExceededException",
        "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown",
        "ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException",
        "TransactionInProgressException",
    }
)  # fmt: skip
PASSING_CODES = frozenset(
    {
        "BadGateway", "GatewayTimeout", "InternalError", "InternalFailure",
        "InternalFailureException", "InternalServerError", "InternalServerException",
        "InternalServiceError", "InternalServiceException", "RequestTimeout",
        "RequestTimeoutException", "ServerException", "ServiceException", "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)  # fmt: skip
CREDENTIAL_CODES = frozenset(
    {
        "ExpiredToken", "ExpiredTokenException", "IncompleteSignature",
        "IncompleteSignatureException", "InvalidClientTokenId", "InvalidSignatureException",
        "MissingAuthenticationToken", "MissingAuthenticationTokenException",
        "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)  # fmt: skip
# The caller is at fault: the same request cannot succeed later.
DENIED_CODES = frozenset({"AccessDenied", "AccessDeniedException"})
REFUSED_CODES = DENIED_CODES | frozenset(
    {
        "InvalidInputException", "InvalidParameterValue", "TooManyTagsException",
        "ValidationException",
    }
)  # fmt: skip
# What was asked about is not there.
MISSING_CODES = frozenset({"ResourceNotFound", "ResourceNotFoundException"})
# The job is in no state for the request (a stop of what has ended): asking again changes nothing.
STATE_CODES = frozenset({"ConflictException"})
TOO_MANY_REQUESTS = 429
SERVICE_UNAVAILABLE = 503
FIRST_SERVER_ERROR = 500


class UnusableAnswerError(Exception):
    """A service, or what stands before it, answered something that is no answer."""


@contextmanager
def reading(operation: str) -> Iterator[None]:
    """Surround the reading of an answer: one that lacks what it must have is no answer.

    botocore makes an empty one of a body that was cut off, and of a proxy's page in place of JSON.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise UnusableAnswerError(
            f"the answer to {operation} cannot be read ({cause(error)})"
        ) from error


def error_code(error: BaseException) -> str:
    """Return the service's error code, or an empty string where it never answered."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def is_service_error(error: Exception) -> bool:
    """Tell whether an error is the service's, or the way's to it, rather than ours."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    kinds = (BotoCoreError, ClientError, ResponseParserError, UnusableAnswerError)
    return isinstance(error, kinds)


def is_busy(error: Exception) -> bool:
    """Tell whether the service is there, and says that it was asked too much."""
    return error_code(error) in THROTTLING_CODES or http_status(error) == TOO_MANY_REQUESTS


def is_throttling(error: Exception) -> bool:
    """Tell whether fewer requests may help.

    A 503 without a code may be of what stands before a service that is away.
    """
    return is_busy(error) or http_status(error) == SERVICE_UNAVAILABLE


def is_passing(error: Exception) -> bool:
    """Tell whether the same call may succeed later: no answer, a broken one, or a server error."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        passing = is_throttling(error) or error_code(error) in PASSING_CODES
        return passing or http_status(error) >= FIRST_SERVER_ERROR
    return _never_answered(error)


def was_never_sent(error: Exception) -> bool:
    """Tell whether a call was not sent: it is not a call, or there was no connection for it.

    Not of a proxy's error: botocore has one name for a proxy that is away and for one that cut a
    call off which it had handed on.
    """
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError

    unconnected = isinstance(error, ConnectTimeoutError | EndpointConnectionError)
    keyless = is_credential_fault(error) and not http_status(error)
    return unconnected or keyless or is_lasting(error)


def _never_answered(error: Exception) -> bool:
    from aiohttp import ClientError as TransportError
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    # Refused, reset, timed out, cut off, or an answer that a proxy made up.
    unread = (IncompleteReadError, ResponseParserError, TransportError, UnusableAnswerError)
    return isinstance(error, (HTTPClientError, NoConnection, OSError, TimeoutError, *unread))


def is_credential_fault(error: Exception) -> bool:
    """Tell whether this connection's key or clock is refused, or no key is to be had just now."""
    from botocore.exceptions import (
        CredentialRetrievalError,
        MetadataRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
        SSOError,
        TokenRetrievalError,
    )

    kinds = (
        CredentialRetrievalError, MetadataRetrievalError, NoCredentialsError,
        PartialCredentialsError, SSOError, TokenRetrievalError,
    )  # fmt: skip
    return error_code(error) in CREDENTIAL_CODES or isinstance(error, kinds)


def is_unanswered(error: Exception) -> bool:
    """Tell whether it says nothing of what was asked for: another call may be answered."""
    return is_passing(error) or is_credential_fault(error)


def http_status(error: Exception) -> int:
    """Return the HTTP status that a service answered with, or 0 where it never answered."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def cause(error: Exception) -> str:
    """Return an error as one line, also where its own text is empty."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_lasting(error: Exception) -> bool:
    """Tell whether it is the settings or the request, however often they are tried."""
    from botocore.exceptions import BotoCoreError

    wrong = isinstance(error, BotoCoreError | ValueError | TypeError | AttributeError | ImportError)
    return wrong and not is_passing(error) and not is_credential_fault(error)
