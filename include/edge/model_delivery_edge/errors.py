"""The agent's errors, one tree.

EdgeError
├── SettingsError           the agent cannot start as it was told to
├── HomeError               the device's folder is in use, unreadable or belongs to another thing
├── CloudError              a call to the cloud did not succeed
│   ├── CloudUnavailable    no answer, or one that says "later": worth another try
│   ├── CloudRefused        an answer that another try will not change
│   └── ProtocolError       an answer that does not follow the device wire
├── DeploymentError         a desired state that this device cannot run
│   ├── DownloadError       an artifact that does not fit, or is not what was announced
│   ├── ProbeError          a model that must not serve: its digest is not tried again
│   └── SignatureError      a release that nobody trusted has signed
└── RequestError            an inference request that is refused, with its HTTP status

Each message names the thing and says what to do next.
"""


class EdgeError(Exception):
    """Anything the agent refuses or fails at."""


class SettingsError(EdgeError):
    """An option, environment variable or port cannot be used."""


class HomeError(EdgeError):
    """The device's folder is in use, unreadable or belongs to another thing."""


class CloudError(EdgeError):
    """A call to the cloud did not succeed."""


class CloudUnavailable(CloudError):
    """No answer, or one that says "later": worth another try."""


class CloudRefused(CloudError):
    """An answer that another try will not change.

    :param status: its HTTP status
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ProtocolError(CloudError):
    """An answer that does not follow the device wire."""


class DeploymentError(EdgeError):
    """A desired state that this device cannot run."""


class DownloadError(DeploymentError):
    """An artifact that does not fit on the device, or is not what was announced."""


class ProbeError(DeploymentError):
    """A model that must not serve: it crashed, hung, took too much or answered wrongly."""


class SignatureError(DeploymentError):
    """A release that nobody trusted has signed, or that was signed for something else."""


class RequestError(EdgeError):
    """An inference request that is refused.

    :param status: the HTTP status of the answer (default: 400)
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
