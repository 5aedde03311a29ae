"""Errors of the provider.

    AirflowException
    ├── DeliveryError                what a retry may mend
    │   ├── StorageError             an object store said no, or said nothing
    │   │   └── StorageRefusedError      it said no, and will again until somebody acts
    │   │       └── ContainerMissingError    its bucket or container does not exist
    │   ├── JobError                 an external job
    │   │   ├── JobFailedError       it ended badly for a reason a new try may not meet
    │   │   ├── JobMissingError      the service does not know it (any more)
    │   │   └── UnknownStatusError   the service answered a status we do not know
    │   └── EdgeError                a device's API said no, or said nothing
    └── AirflowFailException
        └── DeliveryRefusedError     what a retry cannot mend: fails the task at once
            ├── InvalidRequestError  a parameter is wrong; nothing was called
            ├── RequestDiffersError  another request already stands under our job's name
            ├── AmbiguousJobError    several jobs may be ours, and nothing tells them apart
            ├── JobRefusedError      the service refused the request or its input
            ├── JobEndedError        a job that a sensor waited for ended badly
            ├── GateClosedError      the evidence does not reach the stated threshold
            └── RolloutStoppedError  a rollout that its thresholds or a person stopped

Each message names the thing (ARN, URI, parameter) and the next step.
"""

from airflow.sdk.exceptions import AirflowException, AirflowFailException


class DeliveryError(AirflowException):
    """Base of what a retry may mend."""


class StorageError(DeliveryError):
    """An object store refused or did not answer.

    ``lasting``: whether it is of no use to ask again at once.
    """

    lasting = False


class StorageRefusedError(StorageError):
    """The object is not there, is another, or may not be read: asking again changes nothing."""

    lasting = True


class ContainerMissingError(StorageRefusedError):
    """A bucket or container does not exist."""


class JobError(DeliveryError):
    """An external job did not do what was asked."""


class JobFailedError(JobError):
    """An external job ended badly; a new try submits a new one."""


class JobMissingError(JobError):
    """The service does not know the job: deleted, or in another account or region."""


class UnknownStatusError(JobError):
    """A service answered a status that is not in its table."""


class EdgeError(DeliveryError):
    """A device's API refused or did not answer."""


class DeliveryRefusedError(AirflowFailException):
    """Base of what a retry cannot mend."""


class InvalidRequestError(DeliveryRefusedError):
    """A parameter is wrong; nothing was called."""

    lasting = True


class RequestDiffersError(DeliveryRefusedError):
    """A different request already stands under the name of our job."""


class AmbiguousJobError(DeliveryRefusedError):
    """Several jobs may be the one a crashed try submitted; a second one would be a guess."""


class JobRefusedError(DeliveryRefusedError):
    """The service refused the request, or found its input at fault."""


class JobEndedError(DeliveryRefusedError):
    """A job that somebody else submitted ended badly: looking again changes nothing."""


class GateClosedError(DeliveryRefusedError):
    """The evidence does not reach the stated threshold."""


class RolloutStoppedError(DeliveryRefusedError):
    """A rollout was aborted or rolled back: to try again what devices refused is for people."""
