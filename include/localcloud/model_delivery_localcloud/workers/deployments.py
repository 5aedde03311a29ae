"""The worker's part in deployments to fleets: pace, abort, time-outs, one thread of its own.

Any number of these may share a database: who takes a step of a deployment holds it for the moment
(`store/fleet_deployments.py`), and a time-out is decided under the device's lock.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store import fleet_deployments as store
from model_delivery_localcloud.store.database import Database

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.25
MOST_AT_ONCE = 32


class DeploymentKeeper:
    """Does what is due of deployments until told to leave."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leaving = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run in the background while the block runs."""
        thread = threading.Thread(target=self._repeat, name="deployments")
        thread.start()
        try:
            yield
        finally:
            self.leave()
            thread.join()

    def leave(self) -> None:
        """Ask the thread to end; safe in a signal handler."""
        self._leaving.set()

    def keep(self) -> int:
        """Do once what is due; returns how many devices it was about."""
        with self._database.read() as session:
            now = now_ms()
            due = store.due(session, now, MOST_AT_ONCE)
            late = store.late(session, now, MOST_AT_ONCE)
        done = 0
        for scope, thing, deployment_id in late:
            done += store.time_out(self._database, scope, thing, deployment_id)
        for scope, deployment_id in due:
            done += store.take_up(self._database, scope, deployment_id)
        return done

    def _repeat(self) -> None:
        while not self._leaving.is_set():
            try:
                done = self.keep()
            except Exception:
                # It outlives a database that is away for a while; claims run out by themselves.
                log.exception("deployments: nothing was recorded")
                done = 0
            if not done:
                self._leaving.wait(IDLE_SECONDS)
