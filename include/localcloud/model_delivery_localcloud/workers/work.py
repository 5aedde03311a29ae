"""What a kind of job has to provide, and how a child process says how it went."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.orm import Session

from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.store.jobs import Lease

CLIENT_ERROR = "ClientError"
INTERNAL_ERROR = "InternalServerError"
PROGRESS = "progress.txt"
WAITING = "waiting.txt"


@dataclass(frozen=True)
class Task:
    """What a child process is given: the job's kind and its parameters, all JSON.

    `max_seconds` is how long it may run, without what it waits for others.
    """

    kind: str
    params: dict[str, Any]
    max_seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a task went: the fault (`ClientError`, `InternalServerError`) and why, or its result.

    `killed`: somebody killed its process, as the kernel does where memory is short, or memory was
    short in it.
    """

    fault: str | None = None
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    log: str = ""
    killed: bool = False

    @property
    def failure_reason(self) -> str:
        """The reason as SageMaker words it, empty for a success."""
        return f"{self.fault}: {self.reason}" if self.fault else ""


def tell_progress(folder: Path, line: str) -> None:
    """Leave a line on how far the task is where its worker finds it."""
    written = folder / f"{PROGRESS}.part"
    written.write_text(line)
    written.rename(folder / PROGRESS)


@contextmanager
def tell_waiting(folder: Path, what: str) -> Iterator[None]:
    """Let the worker know, during the block, that the task waits, and for what."""
    path = folder / WAITING
    try:
        with suppress(OSError):  # a full disk fails the job elsewhere
            path.write_text(what)
        yield
    finally:
        path.unlink(missing_ok=True)


class Work(Protocol):
    """One kind of job. All but `run` happen in the worker, `run` in its niced child.

    `most_attempts`: how often a job is begun until it fails. An attempt is lost with its worker
    (killed, or its machine gone); a worker that leaves in peace costs none.
    `resumes`: whether a job goes on where it was killed, so that a killed child costs an attempt,
    and not the job.
    """

    most_attempts: int
    resumes: bool

    def begin(self, session: Session, lease: Lease) -> Task:
        """Mark the resource as started and return the task."""

    def run(self, params: dict[str, Any], folder: Path, objects: ObjectStore) -> dict[str, Any]:
        """Do the work in `folder` and return its result."""

    def publish(
        self,
        task: Task,
        outcome: Outcome,
        folder: Path,
        objects: ObjectStore,
        wanted: Callable[[], bool],
    ) -> bool:
        """Put the finished files where readers find them; returns whether it did.

        `wanted` says, as late as can be, whether the job is still to have a result. What it raises
        is passed on. Where it says no, readers find what they found before.
        """

    def clear(self, task: Task, objects: ObjectStore) -> None:
        """Remove what nobody needs once the outcome is recorded, also of a failure.

        A kill may keep this from it.
        """

    def end(self, session: Session, lease: Lease, outcome: Outcome, stopped: bool) -> None:
        """Record the outcome on the resource, in the transaction that ends the job."""
