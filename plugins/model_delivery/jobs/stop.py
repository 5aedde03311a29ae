"""What comes of asking a service to stop a job, said alike by a worker and by a triggerer."""

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


class Stop(Enum):
    """What came of asking for a stop."""

    ASKED = "asked"
    ENDED = "it had ended already"
    IMPOSSIBLE = "the service has no stop"
    MISSING = "it is not known to the service (any more)"

    def log(self, logger: "Logger", label: str, why: str) -> None:
        """Tell the task's log; `label` names the job."""
        match self:
            case Stop.ASKED:
                logger.info("Asked to stop %s: %s", label, why)
            case Stop.ENDED:
                logger.info("%s had ended before it could be stopped: %s", label, why)
            case Stop.IMPOSSIBLE:
                logger.warning("%s goes on although %s: %s", label, why, self.value)
            case Stop.MISSING:
                logger.warning(
                    "%s was not stopped though %s: %s. Somebody deleted it, or the connection "
                    "leads to another account or region", label, why, self.value,
                )  # fmt: skip
