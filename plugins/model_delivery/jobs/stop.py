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

    def log(self, logger: "Logger", label: str, why: str) -> None:
        """Tell the task's log; `label` names the job."""
        match self:
            case Stop.ASKED:
                logger.info("Asked to stop %s: %s", label, why)
            case Stop.ENDED:
                logger.info("%s had ended before it could be stopped: %s", label, why)
            case Stop.IMPOSSIBLE:
                logger.warning("%s goes on although %s: %s", label, why, self.value)
