"""Jobs over one connection, in a worker: describe, find, stop."""

import logging
import time

from model_delivery.exceptions import (
    DeliveryError,
    JobMissingError,
    JobRefusedError,
)
from model_delivery.jobs.faults import cause, error_code, is_unanswered, reading
from model_delivery.jobs.retries import Pause
from model_delivery.jobs.service import Handle, Intent, JobDescription, JobService
from model_delivery.jobs.service_client import ServiceClient
from model_delivery.jobs.status import JobState
from model_delivery.jobs.stop import Stop

log = logging.getLogger(__name__)


class JobClient(ServiceClient[JobService]):
    """The jobs of one service over one connection; see `ServiceClient` for the parameters."""

    def describe(self, handle: Handle) -> JobDescription:
        """Describe a job.

        :raises JobMissingError: when the service does not know it (any more).
        :raises UnknownStatusError: when its status is in no row of the service's table.
        """
        return self.patiently(lambda: self._look(handle), handle)

    def _look(self, handle: Handle) -> JobDescription:
        answers = list(self.answers(self.service.describe_calls(handle)))
        return self.service.description(handle, answers)

    def ended(
        self, handle: Handle, *, interval: float, longest: float, limit: str
    ) -> JobDescription:
        """Look until a job that is somebody else's, or needs no submit-once, has ended.

        :param interval: time between two looks, in seconds.
        :param longest: how long to look, in seconds.
        :param limit: the operator's parameter that says so.
        """
        deadline = time.monotonic() + longest
        while (description := self.describe(handle)).state is JobState.RUNNING:
            if time.monotonic() > deadline:
                raise DeliveryError(
                    f"{self.service.noun} {self.service.key(handle)} is still {description.status} "
                    f"after {longest:g} s: look at it in the service, or raise {limit}"
                )
            self.pause.sleep(interval)
        return description

    def find(self, intent: Intent, pause: Pause | None = None) -> list[Handle]:
        """Return the jobs that may be the intent's and were not there before it."""
        calls = self.service.find_calls(intent)

        def look() -> list[Handle]:
            try:
                answers = list(self.answers(calls))
                with reading(calls[0].operation):
                    return list(self.service.found(intent, answers))
            except Exception as error:
                if error_code(error) in self.service.missing_codes:
                    return []
                raise

        found = self.patiently(look, intent.search, pause)
        return [handle for handle in found if self.service.key(handle) not in intent.known]

    def stop(
        self,
        handle: Handle,
        *,
        reopen: bool = True,
        look: bool = False,
        pause: Pause | None = None,
    ) -> Stop:
        """Ask the service to stop the job.

        :param look: look at it first, since it may have ended well: not every service refuses to
            stop what has.
        :param reopen: look the connection up again where its key is refused; not in a signal
            handler, which must not talk to Airflow.
        :param pause: sleeps between attempts. (default: one that no kill cuts short, since a kill
            is why it is asked)
        :raises DeliveryError: when the service did not take the request.
        """
        call = self.service.stop_call(handle)
        if call is None:
            return Stop.IMPOSSIBLE
        asked = False

        def ask() -> Stop:
            nonlocal asked
            if (asked or look) and (found := self._stopped(handle, asked=asked)):
                return found
            asked = True
            self.run(call)
            return Stop.ASKED

        try:
            return self.patiently(ask, handle, pause or Pause(), refusals=1, reopen=reopen)
        except JobMissingError:
            return Stop.MISSING
        except (DeliveryError, JobRefusedError):
            # Services refuse to stop what has ended; only then is the refusal good news.
            looked = self.patiently(lambda: self._look(handle), handle, reopen=reopen)
            if looked.state.terminal:
                return Stop.ENDED
            raise

    def _stopped(self, handle: Handle, *, asked: bool) -> Stop | None:
        """Look before a stop is asked for, or asked for again; see `JobService.stop_seen`."""
        try:
            description = self._look(handle)
        except Exception as error:
            if asked or is_unanswered(error) or error_code(error) in self.service.missing_codes:
                raise
            log.warning("It is stopped without a look: %s", cause(error))
            return None
        return self.service.stop_seen(description, asked=asked)
