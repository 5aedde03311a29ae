"""The errors of a service's calls that the lifecycle does not make."""

from collections.abc import Iterator
from contextlib import contextmanager

from model_delivery.exceptions import DeliveryError, JobRefusedError


@contextmanager
def named_errors(about: str) -> Iterator[None]:
    """Raise the service's errors as ours, with what was asked about.

    :raises JobRefusedError: the service says that the request is wrong.
    :raises DeliveryError: anything else that it, or the way to it, says.
    """
    from model_delivery.jobs.faults import REFUSED_CODES, error_code, is_service_error

    try:
        yield
    except Exception as error:
        if not is_service_error(error):
            raise
        refused = error_code(error) in REFUSED_CODES
        raise (JobRefusedError if refused else DeliveryError)(f"{about}: {error}") from error
