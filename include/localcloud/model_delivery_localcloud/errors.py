"""The errors of localcloud.

LocalcloudError
├── SettingsError        a setting is missing or unusable: the process does not start
├── StoreError           the database cannot be used as it is
├── NameTaken            a name that is to stay somebody else's
├── ServiceError         what a service answers its client: code, message, HTTP status
├── SignatureRefused     a request whose signature does not prove who sent it
├── ResponseShapeError   one of our own answers does not fit the service's model
├── LeaseLost            a worker tried to commit a job that is no longer its own
└── ObjectError          an object cannot be read or written
    ├── ObjectMissing    the bucket or key does not exist, or may not be read
    └── ObjectChanged    it is no longer what was registered
"""

from collections.abc import Mapping
from enum import Enum


class LocalcloudError(Exception):
    """Base of every error that localcloud raises on purpose."""


class SettingsError(LocalcloudError):
    """A setting is missing or unusable; the message names it."""


class StoreError(LocalcloudError):
    """The database cannot be used as it is; the message says what to run."""


class NameTaken(LocalcloudError):
    """A name that is to stay somebody else's; the message says whose."""


class ServiceError(LocalcloudError):
    """An error answer of an AWS service.

    Parameters: `code` as the service's model spells it, `message` for the caller, HTTP `status`
    (default 400), `members` are further members of the error's shape, e.g. `resourceId`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 400,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.members = dict(members or {})


def validation_error(message: str) -> ServiceError:
    """Return the ValidationException that all services in scope share."""
    return ServiceError("ValidationException", message)


class SignatureFault(Enum):
    """Why a signature was refused; each protocol has its own error code for it."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    UNKNOWN_KEY = "unknown key"
    MISMATCH = "mismatch"


class SignatureRefused(LocalcloudError):
    """A request's signature does not prove its sender."""

    def __init__(self, fault: SignatureFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class ResponseShapeError(LocalcloudError):
    """An answer of ours does not fit the output shape of its operation."""


class LeaseLost(LocalcloudError):
    """The job's lease expired and another worker holds it now: nothing was committed."""


class ObjectError(LocalcloudError):
    """An object in the object store cannot be read or written.

    `reason` types it, as the engine's errors are typed, in a job's failure.
    """

    reason = "STORE_UNREACHABLE"


class ObjectMissing(ObjectError):
    """A bucket or key does not exist, or these credentials may not read it."""

    lasting = True  # the engine does not ask again
    reason = "OBJECT_MISSING"


class ObjectChanged(ObjectError):
    """An object is no longer what was registered."""

    lasting = True
    reason = "OBJECT_CHANGED"
