"""Exactly one job for one task instance, whatever is killed in between.

Intent is persisted before the call and the handle right after it, in Airflow's task state store,
which survives a retry. A try that finds an intent without a handle knows that the call may have
been made. Where names are unique it makes the call again, and "already exists" leads it to the
job; elsewhere it looks before it calls. What it finds must have been made with our request.
"""

import logging
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from model_delivery.exceptions import (
    AmbiguousJobError,
    DeliveryError,
    JobRefusedError,
    RequestDiffersError,
)
from model_delivery.jobs.clears import Seen
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.eviction import Claim, claim_of
from model_delivery.jobs.faults import (
    REFUSED_CODES,
    cause,
    error_code,
    http_status,
    is_credential_fault,
    is_lasting,
    is_passing,
    is_service_error,
    reading,
    was_never_sent,
)
from model_delivery.jobs.naming import job_name
from model_delivery.jobs.rate import backoff
from model_delivery.jobs.record import Outcome, Record, differences, differing_fields
from model_delivery.jobs.retries import CREDENTIAL_REFUSALS, MAX_FAILURES, Failures, Pause
from model_delivery.jobs.service import Handle, Intent
from model_delivery.jobs.service_client import lasting_error

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
STORE_KEY = "model_delivery.submissions"


class StateStore(Protocol):
    """The part of Airflow's task state store that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return what was set, or the default."""

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        """Persist a JSON value."""


class Submitted(NamedTuple):
    """Our job, and whether this call made it."""

    handle: Handle
    made: bool


class Submission:
    """The submission of one task instance.

    :param client: the service.
    :param store: `context["task_state_store"]`.
    :param ti: the task instance.
    :param clears: how often anything of the run was cleared.
    """

    def __init__(self, client: JobClient, store: StateStore, ti: Any, clears: int = 0) -> None:
        self._client = client
        self._service = client.service
        self._store = store
        self._ti = ti
        # One record for each submission: a deliberate clear keeps the store, and makes a new job.
        self._records = [Record.read(each) for each in store.get(STORE_KEY) or []]
        self._number = len(self._records)
        self._seen = Seen.of(ti, clears)
        if self._records and not self._is_cleared(self._records[-1]):
            self._number -= 1
        self.made: Handle | None = None
        self._called_at: datetime | None = None
        self._may_be_made = False

    def _is_cleared(self, last: Record) -> bool:
        """Tell whether the task was cleared since its last submission."""
        before = Seen(last.max_tries, last.retries, last.clears)
        return self._seen.is_cleared_since(before, done=last.outcome is Outcome.DONE)

    @property
    def is_run_cleared(self) -> bool:
        """Whether anything of the run was cleared since our job was submitted."""
        return self._load().clears != self._seen.clears

    @property
    def handle(self) -> Handle | None:
        """The handle of the job that is open or done, as far as it was persisted."""
        record = self._load()
        return None if record.outcome is Outcome.FAILED else record.handle

    def submit_once(self, request: Mapping[str, Any]) -> Submitted:
        """Return our job, made by this try or by one before it.

        :param request: the service's request without a name.
        :raises RequestDiffersError: when a different request stands under our name.
        :raises AmbiguousJobError: when several jobs may be the one a crashed try made.
        :raises JobRefusedError: when the service says that the request is wrong.
        :raises DeliveryError: when the service did not answer for minutes.
        """
        record = self._load()
        if record.outcome is Outcome.FAILED:
            record = record.next_generation()
        record = record.salted()
        named = self._named(request, record)
        if record.handle:
            self._require_same(named, record, record.handle)
            return Submitted(dict(record.handle), made=False)
        self._require_same_place_of_intent(named, record)
        found = self._look_first(named, record)
        if found is None:
            if self._client.pause.cut:
                raise DeliveryError("nothing was submitted: the task was killed")
            submitted = self._intend_and_create(named, record)
        else:
            submitted = Submitted(self._attach(named, record, found), made=False)
        self.made = submitted.handle
        made_at = self._called_at.isoformat() if self._called_at else record.at
        kept = self._load()
        self._save(
            replace(kept, handle=submitted.handle, made_at=made_at, place=self._client.place)
        )
        return submitted

    @property
    def is_open(self) -> bool:
        """Whether a job may be there that nobody has the handle of."""
        record = self._load()
        return record.handle is None and record.at is not None and record.outcome is Outcome.OPEN

    @property
    def is_guess(self) -> bool:
        """Whether what is found of it is told by its likeness alone: no name, no handle."""
        return self._service.name_parameter is None and self._load().handle is None

    @property
    def made_at(self) -> datetime | None:
        """When the call that made the job was sent, by Airflow's clock."""
        record = self._load()
        made_at = record.made_at or record.at
        return datetime.fromisoformat(made_at) if made_at else None

    @property
    def is_settling(self) -> bool:
        """Whether the job is so young that its service may not know it everywhere yet."""
        made_at = self.made_at
        settle = timedelta(seconds=self._service.settle_seconds)
        return made_at is not None and datetime.now(UTC) - made_at < settle

    def _require_same_place_of_intent(self, request: Mapping[str, Any], record: Record) -> None:
        if record.at and not record.handle:
            self.require_same_place(f"{self._service.noun} {self._label(request)}")

    def require_same_place(self, label: str) -> None:
        """Raise DeliveryError where the job was made elsewhere than the connection leads now."""
        place = self._load().place
        if place and place != self._client.place:
            raise DeliveryError(
                f"{label} was submitted at {place}, and the connection leads to "
                f"{self._client.place} now: set region and connection back, or stop that job and "
                "clear the task to submit anew"
            )

    def end(self, outcome: Outcome) -> None:
        """Note how it ended: after FAILED, the next try makes a new job under a new name."""
        record = self._load()
        if record.outcome is not outcome:
            self._save(replace(record, outcome=outcome))

    def abandoned(self) -> Handle | None:
        """Return the job that a submission which was cut off did make after all, if it did.

        Not cut short by a kill: it is what a kill asks for.
        """
        record = self._load()
        intent = record.intent
        if record.handle or record.outcome is not Outcome.OPEN or intent is None:
            return self.handle
        if self._called_at and not self._may_be_made:
            return None
        self.require_same_place(f"{self._service.noun} {dict(intent.search)}")
        age = (datetime.now(UTC) - (self._called_at or intent.at)).total_seconds()
        return self._find(intent, self._service.settle_seconds - age, Pause())

    def superseded(self) -> Iterator["Submission"]:
        """Yield the submissions before a clear that are still open."""
        for number in range(self._number):
            earlier = copy(self)
            earlier._number, earlier.made, earlier._called_at = number, None, None
            record = earlier._load()
            if record.at and record.outcome is Outcome.OPEN:
                yield earlier

    def _load(self) -> Record:
        """Return this submission's record; a new one where nothing was noted yet."""
        if self._number < len(self._records):
            return self._records[self._number]
        return Record(**self._seen._asdict())

    def _save(self, record: Record) -> None:
        self._records[self._number : self._number + 1] = [record]
        # Airflow forgets entries after a time of its own, jobs may take longer.
        written = [each.written() for each in self._records]
        self._store.set(STORE_KEY, written, retention=NEVER_EXPIRE)

    def _named(self, request: Mapping[str, Any], record: Record) -> dict[str, Any]:
        parameter = self._service.name_parameter
        if parameter is None:
            return dict(request)
        return {
            **request,
            parameter: job_name(self._ti, self._number, record.generation, record.salt),
        }

    def _intend(self, request: Mapping[str, Any], record: Record) -> Record:
        search = self._service.search(request)
        intended = record.intending(request, search, ())
        if self._service.name_parameter is None:
            # No name will tell our job from its like: what is there already is not ours.
            assert intended.intent is not None, "it has just been set"
            known = tuple(self._service.key(each) for each in self._client.find(intended.intent))
            intended = record.intending(request, search, known)
        intended = replace(intended, place=self._client.place)
        self._save(intended)
        return intended

    def _look_first(self, request: Mapping[str, Any], record: Record) -> Handle | None:
        """Look for the job where creating it could make a second one."""
        intent = record.intent
        if intent is None:
            return None
        changed = differing_fields(request, record.digests)
        if self._service.unique_names and not changed:
            return None
        return self._settled(intent)

    def _settled(self, intent: Intent) -> Handle | None:
        settle = 0.0 if self._service.name_parameter else self._service.settle_seconds
        return self._find(intent, settle, self._client.pause)

    def _find(self, intent: Intent, settle: float, pause: Pause) -> Handle | None:
        """Look until the job is there, or can no longer appear."""
        while True:
            found = self._only(self._client.find(intent, pause), intent)
            # A client that was opened anew may have looked elsewhere, at others' jobs.
            self.require_same_place(f"{self._service.noun} {dict(intent.search)}")
            if found or settle <= 0 or pause.cut:
                return found
            pause.sleep(min(LOOK_SECONDS, settle))
            settle -= LOOK_SECONDS

    def _only(self, found: list[Handle], intent: Intent) -> Handle | None:
        if len(found) <= 1:
            return found[0] if found else None
        candidates = ", ".join(sorted(self._service.key(each) for each in found))
        raise AmbiguousJobError(
            f"several {self._service.noun}s may be the one this task submitted at "
            f"{intent.at.isoformat(timespec='seconds')} ({dict(intent.search)}): {candidates}. "
            "Stop those that nobody needs, then clear the task to submit anew"
        )

    def _intend_and_create(self, request: Mapping[str, Any], before: Record) -> Submitted:
        """Make the job; where it is certain that none was made, no intent is left."""
        self._may_be_made = before.intent is not None
        record = self._intend(request, before)
        try:
            return self._create(request, record)
        except (Exception, AirflowTaskTimeout):
            if not self._may_be_made:
                self._withdraw(before)
            raise

    def _withdraw(self, before: Record) -> None:
        try:
            self._save(before)
        except Exception as error:  # what failed before is what the user needs
            log.warning("The intent cannot be taken back: %s", cause(error))

    def _create(self, request: Mapping[str, Any], record: Record) -> Submitted:
        call = self._service.submit_call(request)
        failures = Failures(self._client.outage)
        while True:
            self._follow_connection(request)
            self._called_at = datetime.now(UTC)
            may_be_made, self._may_be_made = self._may_be_made, True
            try:
                answer = self._client.run(call)
                with reading(call.operation):
                    return Submitted(self._service.submitted(request, answer), made=True)
            except Exception as error:
                if not is_service_error(error):
                    raise
                self._may_be_made = may_be_made or self._may_have_made(error)
                found = self._after_failure(error, request, record, failures)
            if found:
                return Submitted(self._attach(request, record, found), made=False)

    def _after_failure(
        self, error: Exception, request: Mapping[str, Any], record: Record, failures: Failures
    ) -> Handle | None:
        """Return our job if it was made all the same; raise when trying again is no use."""
        intent = self._load().intent
        assert intent is not None, "the intent is persisted before the call"
        code = error_code(error)
        label = f"{self._service.noun} {self._label(request)}"
        if is_lasting(error):
            raise lasting_error(label, error) from error
        taken = code in self._service.taken_codes
        if taken and (found := self._find(intent, 0.0, self._client.pause)):
            return found
        if failures.ask_for_a_new_client(error):
            self._client.reopen()
        if code in REFUSED_CODES or code in self._service.missing_codes:
            text = str(error).rstrip(".")
            raise JobRefusedError(f"{label} was refused: {text}. Correct the request.") from error
        key_refused = is_credential_fault(error)
        most = CREDENTIAL_REFUSALS if key_refused else MAX_FAILURES
        if failures.are_enough(None if is_passing(error) else most) or self._client.pause.cut:
            check = "the connection's key" if key_refused else "that the service is up"
            raise DeliveryError(
                f"{label} was not taken: {error}: check {check}; "
                "a retry finds the job if it was made"
            ) from error
        self._client.pause.sleep(backoff(failures.count))
        if self._service.unique_names or _certainly_not_made(error):
            return None
        return self._settled(intent)

    def _follow_connection(self, request: Mapping[str, Any]) -> None:
        """Go where the connection leads now only as long as no job can have been made elsewhere.

        Whatever was asked in between may have looked it up again.
        """
        record = self._load()
        if self._may_be_made:
            self._require_same_place_of_intent(request, record)
        elif record.place != self._client.place:
            self._intend(request, record)

    def _may_have_made(self, error: Exception) -> bool:
        taken = error_code(error) in self._service.taken_codes
        return taken or not _certainly_not_made(error)

    def claim(self) -> Claim:
        """Ask whose the task is, while this try still runs.

        :raises AirflowRuntimeError: when Airflow does not tell.
        """
        noted = self._number < len(self._records)
        return claim_of(self._ti, lambda: noted and self._store.get(STORE_KEY) is None)

    def _attach(self, request: Mapping[str, Any], record: Record, found: Handle) -> Handle:
        if self._service.name_parameter:
            self.made = found  # nobody else has the name: whatever comes, it is ours to stop
        self._require_same(request, record, found, anyway=True)
        return self._client.describe(found).handle

    def _require_same(
        self,
        request: Mapping[str, Any],
        record: Record,
        handle: Handle,
        *,
        anyway: bool = False,
    ) -> None:
        """Compare our request with the one the job was made with: its digests, then its fields."""
        changed = differing_fields(request, record.digests) if record.digests else []
        if not changed and not anyway:
            return
        description = self._client.describe(handle)
        lines = differences(request, self._service.requested(description))
        shown = {line.partition(":")[0].partition(".")[0] for line in lines}
        lines += [
            f"{name}: ours {request.get(name)!r}, the earlier try's was another"
            for name in changed
            if name not in shown
        ]
        if lines:
            raise RequestDiffersError(
                f"{self._service.noun} {self._label(request)} ({self._service.key(handle)}) "
                f"already exists with another request ({'; '.join(lines)}): "
                "clear the task to submit a new job"
            )

    def _label(self, request: Mapping[str, Any]) -> str:
        return str(request.get(self._service.name_parameter or "") or self._service.search(request))


def _certainly_not_made(error: Exception) -> bool:
    """Tell whether the service turned the call away, or could not be reached.

    A fault of its own may follow the deed.
    """
    return was_never_sent(error) or 400 <= http_status(error) < 500
