"""The worker: slots that lease jobs, have children do them, and commit under the fence."""

import dataclasses
import logging
import os
import socket
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from model_delivery_localcloud.errors import LeaseLost, ObjectError, ObjectMissing
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.store import jobs
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import Lease
from model_delivery_localcloud.workers.execution import execute
from model_delivery_localcloud.workers.folders import job_folder, sweep_folders
from model_delivery_localcloud.workers.heartbeat import beating
from model_delivery_localcloud.workers.kinds import WORK
from model_delivery_localcloud.workers.work import (
    CLIENT_ERROR,
    INTERNAL_ERROR,
    PROGRESS,
    Outcome,
    Task,
)

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
RENEW_SECONDS = 1.0
IDLE_SECONDS = 0.5


class Worker:
    """Works on jobs until told to stop.

    `concurrency`: how many jobs at a time (default 1); the rest wait in the queue.
    `lease_seconds`: how long a dead worker's job stays its own (default 30).
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        concurrency: int = 1,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database = database
        self._objects = objects
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._leaving = threading.Event()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def run(self) -> None:
        """Work until `leave` is called; running jobs go back to the queue then."""
        sweep_folders()
        slots = [
            threading.Thread(target=self._slot, args=(f"{self._name}:{number}",))
            for number in range(self._concurrency)
        ]
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.join()

    def leave(self) -> None:
        """Ask the slots to end; safe in a signal handler."""
        self._leaving.set()

    def _slot(self, name: str) -> None:
        while not self._leaving.is_set():
            try:
                worked = self._work_once(name)
            except LeaseLost as lost:
                log.warning("%s", lost)
                worked = True
            except Exception:
                # A slot outlives a database that is away for a while; the lease will expire.
                log.exception("slot %s: the job was not committed", name)
                worked = False
            if not worked:
                self._leaving.wait(IDLE_SECONDS)

    def _work_once(self, name: str) -> bool:
        with self._database.read() as session:
            if not jobs.has_free(session):
                return False
        with self._database.write() as session:
            lease = jobs.take_lease(session, name, self._lease_seconds)
            if lease is None:
                return False
            task = WORK[lease.kind].begin(session, lease)
        log.info("%s %s: attempt %d", lease.kind, lease.name, lease.attempt)
        with job_folder() as folder:
            self._do(lease, task, folder)
        return True

    def _do(self, lease: Lease, task: Task, folder: Path) -> None:
        held = _HeldLease(self._database, lease, self._lease_seconds, folder)
        most = WORK[task.kind].most_attempts
        if lease.attempt > most:
            reason = (
                f"WORKER_LOST: the job was begun {most} times, and each time its worker was killed "
                "or its machine lost; give the workers more memory"
            )
            outcome: Outcome | None = Outcome(INTERNAL_ERROR, reason)
        else:
            outcome = execute(task, folder, lambda: self._leaving.is_set() or held.must_stop())
        if outcome is None and not held.stop_requested:
            with self._database.write() as session:
                jobs.give_back(session, lease)
            return
        if outcome is not None and outcome.killed and WORK[task.kind].resumes:
            if lease.attempt < most:
                log.warning("%s %s: %s; it goes on", task.kind, lease.name, outcome.reason)
                with self._database.write() as session:
                    jobs.give_back(session, lease, attempts=lease.attempt)
                return
            reason = f"{outcome.reason} (the last of {most} attempts)"
            outcome = dataclasses.replace(outcome, reason=reason)
        self._commit(held, task, outcome or Outcome(), folder)

    def _commit(self, held: "_HeldLease", task: Task, outcome: Outcome, folder: Path) -> None:
        work = WORK[task.kind]
        published = False
        if outcome.fault is None and not held.renew():
            outcome, published = self._publish(held, task, outcome, folder)
        with self._database.write() as session:
            # A stop that comes when the result is out comes too late.
            stopped = jobs.finish(session, held.lease) and not published
            work.end(session, held.lease, outcome, stopped)
        log.info("%s %s: %s", task.kind, held.lease.name, outcome.failure_reason or "done")
        if published or outcome.fault is not None:
            work.clear(task, self._objects)

    def _publish(
        self, held: "_HeldLease", task: Task, outcome: Outcome, folder: Path
    ) -> tuple[Outcome, bool]:
        try:
            with held.kept():
                published = WORK[task.kind].publish(
                    task, outcome, folder, self._objects, lambda: not held.renew()
                )
        except ObjectMissing as error:
            reason = f"{error.reason}: {error}"
            return Outcome(CLIENT_ERROR, reason, log=outcome.log), False
        except ObjectError as error:
            reason = f"{error.reason}: {error}"
            return Outcome(INTERNAL_ERROR, reason, log=outcome.log), False
        return outcome, published


class _HeldLease:
    """A lease with its heartbeat: renewed when due, remembering whether a stop was asked for.

    Each heartbeat passes on what the child told of its progress in `folder`.
    """

    def __init__(self, database: Database, lease: Lease, seconds: float, folder: Path) -> None:
        self._progress = folder / PROGRESS
        self.lease = lease
        self.stop_requested = False
        self._database = database
        self._seconds = seconds
        self._renewed = time.monotonic()
        self._tried = 0.0

    def must_stop(self) -> bool:
        """Renew if due and tell whether the job is to be stopped; raises LeaseLost.

        A database that is away is tried again until the lease has run out.
        """
        now = time.monotonic()
        if now - self._tried >= min(RENEW_SECONDS, self._seconds / 3):
            self._tried = now
            try:
                self.renew()
            except SQLAlchemyError as error:
                if now - self._renewed >= self._seconds:
                    raise
                log.warning("%s: not renewed: %s", self.lease.name, error)
        return self.stop_requested

    def renew(self) -> bool:
        """Renew now and tell whether the job is to be stopped; raises LeaseLost."""
        with self._database.write() as session:
            self.stop_requested = jobs.renew_lease(session, self.lease, self._seconds, self._told())
        self._renewed = time.monotonic()
        return self.stop_requested

    def _told(self) -> str:
        return self._progress.read_text() if self._progress.exists() else ""

    def kept(self) -> AbstractContextManager[None]:
        """Renew in the background while the block runs; what went wrong shows at the commit."""
        return beating(self.renew, min(RENEW_SECONDS, self._seconds / 3), self.lease.name)
