"""Runs a service's calls over a hook, synchronously in a worker, asynchronously in a triggerer."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from model_delivery.aws import service_client
from model_delivery.exceptions import (
    DeliveryError,
    InvalidRequestError,
    JobMissingError,
    JobRefusedError,
)
from model_delivery.jobs.faults import (
    DENIED_CODES,
    REFUSED_CODES,
    STATE_CODES,
    cause,
    error_code,
    is_credential_fault,
    is_lasting,
    is_passing,
    is_unanswered,
    reading,
)
from model_delivery.jobs.retries import (
    CREDENTIAL_REFUSALS,
    MAX_FAILURES,
    MISSING_ANSWERS,
    OUTAGE_SECONDS,
    Pause,
    until_answered,
)
from model_delivery.jobs.service import Call, Handle, Intent, JobDescription, JobService
from model_delivery.jobs.status import JobState
from model_delivery.jobs.stop import Stop

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class JobClient:
    """One service over one connection, in a worker.

    :param open_hook: opens the service's hook; again when the connection's key was refused.
    :param outage: how long the service may give no usable answer before a call fails, in seconds.
        (default: 900)
    """

    def __init__(
        self,
        service: JobService,
        open_hook: Callable[[], Any],
        outage: float = OUTAGE_SECONDS,
    ) -> None:
        self.service = service
        self.outage = outage
        self._absence: float | None = None
        # How it sleeps between attempts; cut short when the task is killed.
        self.pause = Pause()
        self._open_hook = open_hook

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        return self._open()

    def _open(self) -> tuple[Any, Any]:
        """Return a hook, and its client."""
        hook = self._open_hook()
        # A hook that is no AwsBaseHook makes a client that retries nothing.
        return hook, service_client(hook) if hasattr(hook, "get_client_type") else hook.conn

    @property
    def _hook(self) -> Any:
        return self._opened[0]

    @property
    def _client(self) -> Any:
        return self._opened[1]

    def open(self) -> None:
        """Look the connection up, and make the client."""
        _ = self._client

    @property
    def is_open(self) -> bool:
        """Whether the client is made."""
        return "_opened" in self.__dict__

    @property
    def place(self) -> str:
        """Where requests go: endpoint and region; empty of a client that does not tell."""
        meta = getattr(self._client, "meta", None)
        endpoint = getattr(meta, "endpoint_url", None)
        return f"{endpoint} ({meta.region_name})" if meta and endpoint else ""

    @property
    def meta(self) -> Any:
        """Where the client's requests go: botocore's `ClientMeta`."""
        return self._client.meta

    @contextmanager
    def hurried(self, absence: float, outage: float | None = None) -> Iterator[None]:
        """Give up sooner in the block.

        :param absence: how long the service may be away, in seconds.
        :param outage: how long it may be away or busy. (default: as long as anywhere else)
        """
        usual, self.outage = self.outage, self.outage if outage is None else outage
        self._absence = absence
        try:
            yield
        finally:
            self.outage, self._absence = usual, None

    def run(self, call: Call) -> Mapping[str, Any]:
        """Run one call once; the service's own error stays as it is."""
        try:
            response: Mapping[str, Any] = getattr(self._client, call.operation)(**call.parameters)
        except Exception as error:
            absent = self.service.answer_if_missing(call, error)
            if absent is None:
                raise
            return absent
        return response

    def _answers(self, calls: Iterable[Call]) -> Iterator[Mapping[str, Any]]:
        for call in calls:
            page: Call | None = call
            while page is not None:
                answer = self.run(page)
                yield answer
                page = page.after(answer)

    def describe(self, handle: Handle) -> JobDescription:
        """Describe a job.

        :raises JobMissingError: when the service does not know it (any more).
        :raises UnknownStatusError: when its status is in no row of the service's table.
        """
        return self.patiently(lambda: self._look(handle), handle)

    def _look(self, handle: Handle) -> JobDescription:
        answers = list(self._answers(self.service.describe_calls(handle)))
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
                answers = list(self._answers(calls))
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

    def patiently(
        self,
        ask: Callable[[], Answer],
        about: Mapping[str, Any],
        pause: Pause | None = None,
        *,
        refusals: int = CREDENTIAL_REFUSALS,
        reopen: bool = True,
    ) -> Answer:
        """Ask until there is an answer; an error names the job and the next step.

        :param refusals: how often to be refused. To look is refused in error as a rule: rights
            that were changed take some seconds to reach every host of a service.
        :param reopen: whether the connection may be looked up again.
        """
        return until_answered(
            ask,
            pause or self.pause,
            most_failures=lambda error: self._most_failures(error, refusals, reopen=reopen),
            outage=self.outage,
            absence=self._absence,
            explained=lambda error: self._clear(error, about),
            reopen=self.reopen if reopen else lambda: None,
        )

    def reopen(self) -> None:
        """Look the connection up again: its key may have been replaced, or its endpoint."""
        try:
            self._opened = self._open()
        except Exception as error:  # Airflow may be away too: the client at hand is kept
            log.warning("The connection cannot be looked up again: %s", cause(error))

    def _most_failures(self, error: Exception, refusals: int, *, reopen: bool) -> int | None:
        code = error_code(error)
        if is_passing(error):
            return None
        if is_lasting(error) or code in self.service.taken_codes:
            return 1
        if code in self.service.missing_codes:
            return MISSING_ANSWERS
        if is_credential_fault(error):
            return CREDENTIAL_REFUSALS if reopen else 1
        return refusals if code in REFUSED_CODES | STATE_CODES else MAX_FAILURES

    def _clear(self, error: Exception, about: Mapping[str, Any]) -> Exception:
        job = f"{self.service.noun} {about.get('arn') or about.get('name') or dict(about)}"
        code = error_code(error)
        if code in self.service.missing_codes:
            return JobMissingError(
                f"{job} is not known to the service (any more): {error}. Somebody deleted it, or "
                "the connection leads to another account or region"
            )
        if code in DENIED_CODES:
            return DeliveryError(
                f"{job}: {error}: check the rights of connection {self._hook.aws_conn_id!r}; a "
                "retry finds the job again"
            )
        if code in REFUSED_CODES:
            return JobRefusedError(f"{job}: {str(error).rstrip('.')}. Correct the request.")
        if is_lasting(error):
            return lasting_error(job, error)
        if is_credential_fault(error):
            return DeliveryError(
                f"{job}: {error}: check the key of connection {self._hook.aws_conn_id!r} and this "
                "machine's clock; a retry finds the job again"
            )
        if code:
            return DeliveryError(f"{job}: {error}")
        return DeliveryError(
            f"{job}: the service gave no answer: {error}: check the endpoint of connection "
            f"{self._hook.aws_conn_id!r} and that it is up"
        )


def lasting_error(job: str, error: Exception) -> InvalidRequestError:
    """Return what botocore refuses before it asks anybody: a parameter, or a connection's field."""
    text = " ".join(str(error).split()).rstrip(".")
    return InvalidRequestError(f"{job}: {text}. Correct the parameter or the connection.")
