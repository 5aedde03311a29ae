"""Runs a service's calls over a hook, synchronously in a worker, asynchronously in a triggerer."""

from collections.abc import Mapping, Sequence
from typing import Any

from model_delivery.exceptions import DeliveryError, JobRefusedError
from model_delivery.jobs.service import Call, Handle, JobDescription, JobService

# The caller is at fault: the same request cannot succeed later. Everything else may.
REFUSED_CODES = frozenset(
    {
        "AccessDenied", "AccessDeniedException", "ExpiredTokenException", "IncompleteSignature",
        "InvalidClientTokenId", "InvalidParameterValue", "InvalidSignatureException",
        "MissingAuthenticationTokenException", "SignatureDoesNotMatch",
        "UnrecognizedClientException", "ValidationException",
    }
)  # fmt: skip


def error_code(error: Exception) -> str:
    """Return the service's error code, or an empty string where it never answered."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


class JobClient:
    """One service over one open hook, in a worker."""

    def __init__(self, service: JobService, hook: Any) -> None:
        self.service = service
        self._hook = hook

    def run(self, call: Call) -> Mapping[str, Any]:
        """Run one call; the service's own error stays as it is."""
        response: Mapping[str, Any] = getattr(self._hook.conn, call.operation)(**call.parameters)
        return response

    def run_clearly(self, call: Call) -> Mapping[str, Any]:
        """Run one call; an error names the operation and the next step."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self.run(call)
        except ClientError as error:
            message = f"{call.operation} was refused: {error}"
            if error_code(error) in REFUSED_CODES:
                raise JobRefusedError(
                    f"{message.rstrip('.')}. Correct the request, or the key's rights."
                ) from error
            raise DeliveryError(message) from error
        except BotoCoreError as error:
            raise DeliveryError(
                f"{call.operation} got no answer: {error}: check the endpoint of connection "
                f"{self._hook.aws_conn_id!r} and that it is up"
            ) from error

    def describe(self, handle: Handle) -> JobDescription:
        """Describe a job."""
        return self.service.described(handle, self._all(self.service.describe_calls(handle)))

    def find(self, request: Mapping[str, Any]) -> tuple[Handle, Mapping[str, Any]] | None:
        """Return the job under the request's name, with the request it was made with."""
        return self.service.found(request, self._all(self.service.find_calls(request)))

    def _all(self, calls: Sequence[Call]) -> list[Mapping[str, Any]]:
        return [self.run_clearly(call) for call in calls]

    def stop(self, handle: Handle) -> bool:
        """Ask the service to stop the job; False where it has no stop."""
        call = self.service.stop_call(handle)
        if call is None:
            return False
        self.run_clearly(call)
        return True
