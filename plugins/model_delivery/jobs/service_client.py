"""Runs a service's calls over a hook in a worker, each until there is an answer."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Generic, TypeVar

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
)
from model_delivery.jobs.retries import (
    CREDENTIAL_REFUSALS,
    MAX_FAILURES,
    MISSING_ANSWERS,
    OUTAGE_SECONDS,
    Pause,
    until_answered,
)
from model_delivery.jobs.service import Call, CalledService

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Service = TypeVar("Service", bound=CalledService)


class ServiceClient(Generic[Service]):
    """One service over one connection, in a worker.

    :param open_hook: opens the service's hook; again when the connection's key was refused.
    :param outage: how long the service may give no usable answer before a call fails, in seconds.
        (default: 900)
    """

    def __init__(
        self,
        service: Service,
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

    def answers(self, calls: Iterable[Call]) -> Iterator[Mapping[str, Any]]:
        """Yield the answers to calls, page by page."""
        for call in calls:
            page: Call | None = call
            while page is not None:
                answer = self.run(page)
                yield answer
                page = page.after(answer)

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
