"""One try of a task at its job: submit, wait in the worker, stop. What `on_kill` needs is here."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred

from model_delivery.exceptions import (
    DeliveryError,
    DeliveryRefusedError,
    JobFailedError,
    JobMissingError,
    JobRefusedError,
    UnknownStatusError,
)
from model_delivery.jobs.client import JobClient
from model_delivery.jobs.eviction import Claim, Eviction, is_left
from model_delivery.jobs.record import Outcome
from model_delivery.jobs.service import Handle, JobDescription
from model_delivery.jobs.status import JobState
from model_delivery.jobs.stop import Stop
from model_delivery.jobs.submission import Submission

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

GRACE = "the task was killed"
TIME_OUT = "its execution_timeout is over"
# Between two looks at a job that is being stopped.
STOPPING_SECONDS = 2.0
# How long a service may be away that is asked for the jobs of before a clear.
SUPERSEDED_SECONDS = 30.0


class Attempt:
    """One try. Airflow calls `kill` on the thread that runs the rest, in a signal handler.

    The handler must not note anything, since that thread may be talking to Airflow's supervisor
    just then: it stops the job, and what runs notes it as soon as the handler returns.

    :param is_final: tells whether no retry will follow on an error.
    """

    def __init__(
        self,
        client: JobClient,
        submission: Submission,
        log: "Logger",
        is_final: Callable[[BaseException], bool],
    ) -> None:
        self.submission = submission
        self.handle: Handle | None = submission.handle
        self._client = client
        self._log = log
        self._is_final = is_final
        self._known = False  # the service has known it
        self._fresh = False  # made by this try, and not looked at yet
        self._done = False
        self._timed_out = False
        self._over = False
        self._stopping: Stop | None = None
        self._goes_on: bool | None = None
        self._eviction = Eviction(submission.claim, log)
        self._in_hand = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surround what a kill may interrupt; a try that fails for good leaves no job running."""
        self._in_hand = True
        try:
            self._stop_superseded()
            yield
            self._done = True
            self._stop_superseded(again=True)  # it may have been too young to be known everywhere
        except AirflowTaskTimeout:
            self._timed_out = True
            raise
        except TaskDeferred:
            # Of a task that a user ended Airflow refuses that, and no trigger would wait or stop.
            if self.killed and self._eviction.claim() is Claim.NOBODYS:
                self.fail(GRACE)
            raise
        except (Exception, KeyboardInterrupt) as error:
            self._leave_nothing(error)
            raise
        finally:
            self._in_hand = False

    def submit(
        self, request: Mapping[str, Any], announce: Callable[[Handle], None] = lambda _handle: None
    ) -> JobDescription:
        """Return our job, looked at once: one that an earlier try left may have ended badly.

        :param announce: takes the handle as soon as there is one.
        """
        self._client.open()
        self.require_alive()
        made = self._submit(request, announce)
        description = self.describe()
        if not made and description.status in self._client.service.statuses.stopping:
            # An earlier try asked for that, and was cut off before it could note so.
            description = self.wait(description, STOPPING_SECONDS, None)
        bad = description.state in {JobState.FAILED, JobState.STOPPED}
        # An earlier try may have stopped it and been cut off before it could note so.
        again = description.retryable or self._client.service.may_be_our_stop(description)
        if made or not bad or not again:
            if not made and description.state.terminal and self.submission.is_run_cleared:
                self._log.warning(
                    "%s had ended before this try. If this task was cleared for another: clear it "
                    "again", self.label,
                )  # fmt: skip
            return description
        self._log.info("%s is %s: submitting another", self.label, description.status)
        self.submission.end(Outcome.FAILED)
        self.handle = self.submission.made = self._stopping = None
        self._over = False
        self._submit(request, announce)
        return self.describe()

    def _submit(self, request: Mapping[str, Any], announce: Callable[[Handle], None]) -> bool:
        try:
            self.handle, made = self.submission.submit_once(request)
        except DeliveryError:
            if self.killed and not self._is_left() and (found := self.submission.abandoned()):
                self.handle = found
                self.stop(GRACE)
            raise
        self._log.info("%s %s", "Submitted" if made else "Attached to", self.label)
        self._over = self._known = False
        self._fresh = made
        self._stopping = None
        self.require_alive()
        announce(self._taken)
        self._stop_superseded(again=True)  # the service may have been away before
        self.require_alive()
        return made

    def resume(self, handle: Handle | None) -> JobDescription:
        """Look at the job of this try after a wait: the store's word goes before the event's."""
        self.handle = self.handle or handle
        self._known = True
        if self.handle is None:
            raise DeliveryError(
                "neither Airflow's task state store nor the trigger's event says which job this "
                "task submitted: clear the task to submit anew"
            )
        description = self.describe()
        self._stop_superseded(again=True)  # the service may have been away before
        return description

    def describe(self) -> JobDescription:
        """Look at the job; one that is gone is forgotten, so that a retry makes another."""
        try:
            description = self._look()
        except JobMissingError:
            self._over = True  # for all that this connection can do
            self.submission.require_same_place(self.label)
            self.submission.end(Outcome.FAILED)
            raise
        self._known, self._fresh = True, False
        self.handle = description.handle
        self._over = description.state.terminal
        return description

    def _look(self) -> JobDescription:
        while True:
            try:
                return self._client.describe(self._taken)
            except JobMissingError as error:
                # What was made just now is not known to every host of a service at once.
                if self._known or not self.submission.is_settling:
                    raise
                self.require_alive()
                self._log.info("It was made just now, looking again: %s", error)
                self._client.pause.sleep(STOPPING_SECONDS)

    @property
    def _taken(self) -> Handle:
        assert self.handle is not None, "a job is submitted or taken up first"
        return self.handle

    def wait(
        self, description: JobDescription, interval: float, timeout: float | None
    ) -> JobDescription:
        """Look until the job ended; times in seconds, the time-out's from the submission."""
        while description.state is JobState.RUNNING:
            self.require_alive()
            if timeout is not None and self.age > timeout:
                why = f"it took over {timeout:.0f} s"
                # Of one that ended by itself just then the result counts.
                if self.stop(why) is not Stop.ENDED:
                    self.fail(why)
            self._client.pause.sleep(interval)
            description = self.describe()
        return description

    @cached_property
    def _submitted_at(self) -> datetime:
        return self.submission.made_at or datetime.now(UTC)

    @property
    def age(self) -> float:
        """How long ago the job was submitted, in seconds."""
        return (datetime.now(UTC) - self._submitted_at).total_seconds()

    def settle(self, description: JobDescription) -> None:
        """Note how the job ended; a bad end is an error."""
        if description.state is JobState.SUCCEEDED:
            self.submission.end(Outcome.DONE)
            self._log.info("%s is %s", self.label, description.status)
            return
        self.submission.end(Outcome.FAILED)
        ours = self._stopping and self._client.service.may_be_our_stop(description)
        unsaid = "this task asked for that" if ours else "the service gave no reason"
        message = f"{self.label} ended {description.status}: {description.reason or unsaid}"
        raise (JobFailedError if description.retryable or ours else JobRefusedError)(message)

    def require_alive(self) -> None:
        """Stop the job and raise where the task is killed."""
        if self.killed and self.handle is None:
            raise JobFailedError(f"nothing was submitted: {GRACE}")
        if self.killed and self._is_left():
            raise JobFailedError(f"{self.label} goes on: {GRACE}, and it is waited for elsewhere")
        if self.killed:
            self.fail(GRACE)

    def fail(self, why: str) -> None:
        """Stop the job, so that the next try makes another, and raise.

        One that cannot be stopped goes on, and the next try waits for it; of one that had ended,
        the next try reads how.
        """
        match self.stop(why):
            case Stop.ASKED:
                self.submission.end(Outcome.FAILED)
                said = "was stopped"
            case Stop.IMPOSSIBLE:
                said = "goes on, since its service has no stop"
            case Stop.MISSING:
                said = f"was not stopped, {Stop.MISSING.value}"
            case Stop.ENDED | None:
                said = "had ended"
        raise JobFailedError(f"{self.label} {said}: {why}")

    @property
    def killed(self) -> bool:
        """Whether Airflow wants this try to end."""
        return self._client.pause.cut

    def kill(self) -> None:
        """Stop the job: a signal handler's part, or all of it where nothing runs any more."""
        if self._done:
            return
        self._client.pause.cut = True
        if not (self._client.is_open or self._timed_out):
            return  # what runs stops the job itself: to look a connection up is not for a handler
        claim = self._eviction.claim()
        if claim is None and self._in_hand:
            return  # what runs asks again, and stops the job
        if self._is_left(claim):
            return
        try:
            self._kill()
        except (DeliveryError, DeliveryRefusedError) as error:
            self._log.error("%s may still be running: %s", self.label, error)

    def _kill(self) -> None:
        # After a time-out Airflow calls this outside of any handler, and nothing of ours runs.
        if self._timed_out:
            self.handle = self.handle or self.submission.abandoned()
        # A submission on its way stops its job itself, since it alone knows which it is.
        outcome = self.stop(TIME_OUT if self._timed_out else GRACE, reopen=self._timed_out)
        if self.handle is not None and self._timed_out and outcome is not Stop.IMPOSSIBLE:
            self.submission.end(Outcome.FAILED)

    def _is_left(self, claim: Claim | None = None) -> bool:
        """Tell whether the job is left to another try, though this one is killed.

        A time-out stops the job, whatever comes next.

        :param claim: Airflow's word; asked for where there is none yet.
        """
        if self._goes_on is not None:
            return self._goes_on
        claim = claim or self._eviction.claim()
        left = is_left(claim, last=self._timed_out or self._is_final(JobFailedError(GRACE)))
        if claim is not None:
            self._goes_on = left
            if left and self.handle is not None:
                self._log.warning("%s goes on: it is waited for elsewhere", self.label)
        return left

    def stop(self, why: str, *, reopen: bool = True) -> Stop | None:
        """Ask once for a stop, say what came of it, and return that; None of a job that is over.

        :param reopen: whether the connection may be looked up again.
        """
        if self.handle is None or self._over:
            return None
        if self._stopping is not None:
            return self._stopping
        self._stopping = Stop.ASKED  # a signal handler may come in between
        # It may have ended well since it was looked at, and not every host may know a fresh one.
        fresh = self._fresh and self.submission.is_settling
        look = not fresh and (reopen or not self._known)
        try:
            self._stopping = self._client.stop(self.handle, reopen=reopen, look=look)
        except BaseException:  # a time-out too may end it: then it is asked again
            self._stopping = None
            raise
        self._stopping.log(self._log, self.label, why)
        return self._stopping

    def _leave_nothing(self, error: BaseException) -> None:
        """Stop the job where no other try will wait for it."""
        # Of a status that we do not know we cannot say that it runs.
        if isinstance(error, UnknownStatusError) or self._is_waited_for_after(error):
            return
        try:
            # The job may be made, and its handle not kept.
            self.handle = self.submission.made or self.handle or self._unkept(error)
            self.stop(GRACE if self.killed else "the task fails for good")
        except Exception as refusal:  # what this try fails at is what its user needs
            self._log.error("%s may still be running: %s", self.label, refusal)
        self._stop_superseded(again=True)

    def _is_waited_for_after(self, error: BaseException) -> bool:
        if self.killed:
            return self._is_left()
        return self._eviction.is_waited_for_after(error, final=self._is_final(error))

    def _unkept(self, error: BaseException) -> Handle | None:
        """Return the job that a call made whose answer was lost, where a name tells which it is."""
        if not self.submission.is_open:
            return None
        if not self.submission.is_guess:
            return self.submission.abandoned()
        if not isinstance(error, JobRefusedError):
            self._log.error(
                "A %s may have been made whose answer was lost: clearing the task looks for it",
                self._client.service.noun,
            )
        return None

    def _stop_superseded(self, *, again: bool = False) -> None:
        """Stop what submissions before a clear left running, where nobody else could.

        First of all: whatever this try fails at, no later one needs those jobs. But not for long:
        it may fail at something that its user can mend at once.

        :param again: the second chance of what was asked for in vain: a service that is only busy
            gets no longer than one that is away.
        """
        until = time.monotonic() + SUPERSEDED_SECONDS
        for earlier in self.submission.superseded():
            try:
                left = max(0.0, until - time.monotonic())
                with self._client.hurried(left, left if again else None):
                    self._end_superseded(earlier)
            except Exception as error:  # what this try fails at is for the task itself to find
                self._log.warning("A job of before the clear may still be running: %s", error)

    def _end_superseded(self, earlier: Submission) -> None:
        handle = earlier.abandoned()
        if handle and earlier.is_guess:
            self._log.warning(
                "%s %s looks like the one of before the clear, and may be another's: stop "
                "it if nobody waits for it", self._client.service.noun,
                self._client.service.key(handle),
            )  # fmt: skip
        elif handle:
            self._stop_if_running(earlier, handle)
        earlier.end(Outcome.DONE)

    def _stop_if_running(self, earlier: Submission, handle: Handle) -> None:
        label = f"{self._client.service.noun} {self._client.service.key(handle)}"
        try:
            description = self._client.describe(handle)
            if self._client.service.is_ending(description):
                return  # as a rule, the kill of the cleared try has stopped it
        except JobMissingError as error:
            earlier.require_same_place(label)
            if earlier.is_settling:
                raise  # not known everywhere yet: asked again later
            self._log.info("%s", error)
            return
        stopped = self._client.stop(handle, pause=self._client.pause)
        stopped.log(self._log, label, "the task was cleared")

    @property
    def label(self) -> str:
        """What messages call the job."""
        handle = self.handle or {"name": "of this task"}
        return f"{self._client.service.noun} {handle.get('arn') or handle['name']}"
