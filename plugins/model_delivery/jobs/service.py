"""What one external service fills in: its calls as data, and how to read its answers.

Calls are data (`Call`) so that the worker's boto3 client and the triggerer's asynchronous one run
the same definition: there is one description of a service, not a synchronous and an asynchronous
twin.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar

from model_delivery.jobs.faults import MISSING_CODES, UnusableAnswerError, error_code, reading
from model_delivery.jobs.status import JobState, StatusTable
from model_delivery.jobs.stop import Stop

# Identifies a job; JSON-ready, small, no secrets: it goes to XCom, triggers and the state store.
Handle = dict[str, str]


@dataclass(frozen=True)
class Call:
    """One operation of the service's client, by its boto3 name, with its parameters."""

    operation: str
    parameters: Mapping[str, Any]
    # What answer and request call the token of the next page; None where there is one page. Each
    # page is an answer of its own.
    token: str | None = None
    # The answer that stands for "not found", where that says nothing of the job itself.
    if_missing: Mapping[str, Any] | None = None
    # The tokens that led to this page: a service that gives one of them again runs in circles.
    seen: frozenset[str] = frozenset()

    def after(self, answer: Mapping[str, Any]) -> "Call | None":
        """Return the call for the page after this answer, or None after the last.

        :raises UnusableAnswerError: when it was there before.
        """
        token = answer.get(self.token) if self.token else None
        if self.token is None or not token:
            return None
        if token in self.seen:
            raise UnusableAnswerError(f"{self.operation} answered the same page token twice")
        parameters = {**self.parameters, self.token: token}
        return replace(self, parameters=parameters, seen=self.seen | {token})


@dataclass(frozen=True)
class Intent:
    """What a try is about to submit, persisted before the call: a later try can look for it.

    :param search: what `JobService.search` said identifies the job: JSON-ready, no secrets.
    :param at: when, by Airflow's clock.
    :param known: ids of the jobs that the search finds and that were there before; only filled for
        services that take no name.
    """

    search: Mapping[str, Any]
    at: datetime
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class JobDescription:
    """A job as its service describes it now.

    :param retryable: whether a new job could end better (a fault of the service, not of the input).
    """

    handle: Handle
    status: str
    state: JobState
    reason: str | None = None
    retryable: bool = True
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ListedJob:
    """A job as a list shows it.

    :param key: what `JobService.key` says of its handle.
    :param modified: the service's own time of its last change, where the list takes a watermark.
    """

    key: str
    status: str
    modified: datetime | None = None


class JobList(ABC):
    """A list operation that tells of many jobs in one answer; the jobs of one scope share a read.

    A list may lie (a job missing, a stale entry), so each waiting job is also described by itself
    now and then.
    """

    # The list filters by "modified after": a read is of what changed, not of everything.
    takes_watermark: ClassVar[bool] = False
    # A terminal status in the list is the job's end; otherwise its own description decides.
    tells_the_end: ClassVar[bool] = True
    # How many reads of the list may pass until a job is described by itself.
    reads_per_description: ClassVar[int] = 300

    def scope(self, handle: Handle) -> str:
        """Return what one read of the list is limited to; empty for all jobs of the account."""
        return ""

    @abstractmethod
    def call(self, scope: str, modified_after: datetime | None) -> Call:
        """Return the call for the first page.

        :param modified_after: the watermark; None asks for all, newest first.
        """

    @abstractmethod
    def read(self, response: Mapping[str, Any]) -> Sequence[ListedJob]:
        """Read one page."""


class CalledService:
    """A service that calls go to. Subclasses are stateless.

    A hook's client raises botocore's errors: `ClientError` with the service's code where it
    answered, another `BotoCoreError` where it did not.
    """

    hook_path: ClassVar[str]
    # What messages call that which its calls are about.
    noun: ClassVar[str]
    # Error codes by which the service says that a name is taken, and that something is unknown.
    taken_codes: ClassVar[frozenset[str]] = frozenset()
    missing_codes: ClassVar[frozenset[str]] = MISSING_CODES

    def answer_if_missing(self, call: Call, error: Exception) -> Mapping[str, Any] | None:
        """Return the answer that stands for an error which says that something is not there."""
        return call.if_missing if error_code(error) in self.missing_codes else None


class JobService(CalledService, ABC):
    """One kind of external job."""

    statuses: ClassVar[StatusTable]
    # The parameter that takes the job's name; None where the service lets nobody name a job.
    name_parameter: ClassVar[str | None] = None
    # How a triggerer learns of many jobs at once; None where it describes each in turn.
    job_list: ClassVar[JobList | None] = None
    # Whether a name is taken for ever: creating again is then the way to find out.
    unique_names: ClassVar[bool] = False
    # How long a job may take to appear in the service's list after a call that was cut off: a call
    # may still be on its way when its caller is gone, and lists lag behind. In seconds.
    settle_seconds: ClassVar[float] = 60.0

    def key(self, handle: Handle) -> str:
        """Return what tells a job from all others of its service, as its list does."""
        return handle["name"]

    @abstractmethod
    def submit_call(self, request: Mapping[str, Any]) -> Call:
        """Return the call that makes the job; `request` holds its name, where it takes one."""

    @abstractmethod
    def submitted(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> Handle:
        """Return the handle of the job just made."""

    @abstractmethod
    def describe_calls(self, handle: Handle) -> Sequence[Call]:
        """Return the calls whose answers describe the job."""

    @abstractmethod
    def described(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Read the answers of `describe_calls`; called by `description` alone."""

    def description(self, handle: Handle, responses: Sequence[Mapping[str, Any]]) -> JobDescription:
        """Read the answers of `describe_calls`.

        :raises UnusableAnswerError: where one of them lacks what it must have.
        :raises UnknownStatusError: when the job's status is in no row of the table.
        """
        with reading(self.describe_calls(handle)[0].operation):
            return self.described(handle, responses)

    @abstractmethod
    def stop_call(self, handle: Handle) -> Call | None:
        """Return the call that stops the job, or None where the service has none."""

    def is_ending(self, description: JobDescription) -> bool:
        """Tell whether there is nothing to stop: it ended, or is being stopped."""
        return description.state.terminal or description.status in self.statuses.stopping

    def stop_seen(self, description: JobDescription, *, asked: bool) -> Stop | None:
        """Return what a look says of a stop; None where it is to be asked for.

        :param asked: whether it was before: then it was the answer that was lost.
        """
        if description.state.terminal and not (asked and self.may_be_our_stop(description)):
            return Stop.ENDED
        return Stop.ASKED if self.is_ending(description) else None

    def may_be_our_stop(self, description: JobDescription) -> bool:
        """Tell whether a stop that was asked for, rather than another event, ended the job so."""
        return description.state is JobState.STOPPED

    @abstractmethod
    def search(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what identifies the request's job among others: its name, or what it works on."""

    @abstractmethod
    def find_calls(self, intent: Intent) -> Sequence[Call]:
        """Return the calls that look for the job a crashed try may have made."""

    @abstractmethod
    def found(self, intent: Intent, responses: Iterable[Mapping[str, Any]]) -> Iterator[Handle]:
        """Yield each job in the answers of `find_calls` that may be the intent's."""

    @abstractmethod
    def requested(self, description: JobDescription) -> Mapping[str, Any]:
        """Return the part of the request that the description gives back, as it was given."""
