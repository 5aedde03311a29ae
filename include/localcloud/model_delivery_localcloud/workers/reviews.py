"""The worker's part in human reviews: outputs, expiry, lapsed slots, flow definitions, webhooks.

Three threads of their own: a webhook that does not answer must not keep an output waiting, nor an
object store that hangs what is over from being ended. What they do is short, so unlike jobs it
needs no child process.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.errors import ObjectError, ObjectMissing
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.review.output import output_document, output_uri
from model_delivery_localcloud.review.webhook import Webhook
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import review_completion as store
from model_delivery_localcloud.store import review_queue
from model_delivery_localcloud.store import review_resources as resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_completion import Finished
from model_delivery_localcloud.store.review_tables import FlowDefinition, HumanLoop
from model_delivery_localcloud.workers.heartbeat import beating

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
# A transaction of the worker is as short as one of the reviewers: on SQLite they take turns.
BATCH = 32
WRITERS = 4
RENEW_SECONDS = store.CLAIM_MS / 3000
# Of the threads that write outputs, beside whatever answers reviewers: an output can wait.
NICENESS = 10
Written = tuple[Finished, str, str | None]


class ReviewKeeper:
    """Does what is due until told to leave. Any number of these may share a database."""

    def __init__(self, database: Database, objects: ObjectStore, settings: Settings) -> None:
        self._database = database
        self._objects = objects
        self._issuer = settings.public_url or "localcloud"
        self._webhook = Webhook.of(settings)
        self._leaving = threading.Event()
        self._writers = ThreadPoolExecutor(WRITERS, "review-outputs", initializer=_give_way)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run in the background while the block runs."""
        threads = [
            threading.Thread(target=self._repeat, args=(step,))
            for step in (self.keep_time, self.use_store, self.call_webhook)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.leave()
            for thread in threads:
                thread.join()
            self._writers.shutdown()

    def leave(self) -> None:
        """Ask the threads to end; safe in a signal handler."""
        self._leaving.set()

    def keep_time(self) -> int:
        """End once what is over: slots and loops; returns how many. It needs the database alone."""
        with self._database.read() as session:
            if not store.has_lapsed(session, now_ms()):
                return 0
        with self._database.write() as session:
            freed = review_queue.free_lapsed(session, now_ms())
            return freed + store.expire_due(session, now_ms(), BATCH)

    def use_store(self) -> int:
        """Check flow definitions and write outputs that are due, once; returns how many."""
        with self._database.read() as session:
            flows = store.flows_to_settle(session)
            finished = store.has_finished(session, now_ms())
        settled = sum(self._settle(flow) for flow in flows)
        return settled + (self._write_outputs() if finished else 0)

    def _write_outputs(self) -> int:
        with self._database.write() as session:
            claimed = store.claim_finished(session, now_ms(), BATCH)
        if claimed:
            # What is read and written now keeps no reviewer's answer waiting.
            with self._database.read() as session:
                finished = store.finished(session, claimed)
            with beating(lambda: self._renew(claimed), RENEW_SECONDS, "outputs of human loops"):
                written = list(self._writers.map(self._write, finished))
            self._record(written)
        return len(claimed)

    def call_webhook(self) -> int:
        """Post once what is due to the webhook; returns how many events."""
        with self._database.read() as session:
            if not store.has_events(session, now_ms()):
                return 0
        with self._database.write() as session:
            if self._webhook is None:
                store.forget_events(session)
                return 0
            events = store.claim_events(session, now_ms(), BATCH)
        for event, loop in events:
            delivered = self._webhook.post(event, loop)
            with self._database.write() as session:
                store.settle_event(session, event, delivered, now_ms())
        return len(events)

    def _repeat(self, step: Callable[[], int]) -> None:
        while not self._leaving.is_set():
            try:
                done = step()
            except Exception:
                # It outlives a database that is away for a while; claims run out by themselves.
                log.exception("human reviews: nothing was recorded")
                done = 0
            if not done:
                self._leaving.wait(IDLE_SECONDS)

    def _renew(self, claimed: list[HumanLoop]) -> None:
        with self._database.write() as session:
            store.renew_claims(session, claimed, now_ms())

    def _write(self, finished: Finished) -> Written:
        uri = output_uri(finished.flow, finished.loop)
        try:
            document = output_document(
                finished.flow, finished.loop, finished.content, finished.answers,
                finished.reviewers, self._issuer,
            )  # fmt: skip
            self._objects.put(uri, document, "application/json")
        except ObjectError as error:
            return finished, uri, str(error)
        except Exception as error:
            # It is this loop's own: the others of its batch are written all the same.
            log.exception("human loop %s: its output cannot be written", finished.loop.name)
            return finished, uri, f"{type(error).__name__}: {error}"
        return finished, uri, None

    def _record(self, written: list[Written]) -> None:
        with self._database.write() as session:
            ours = store.still_claimed(session, [finished.loop for finished, _, _ in written])
            for finished, uri, problem in written:
                loop = ours.get(finished.loop.id)
                if loop is None:
                    continue
                if problem is None:
                    store.record_written(session, loop, uri, now_ms())
                else:
                    log.warning("human loop %s: %s; trying again", loop.name, problem)
                    store.record_unwritten(loop, problem, now_ms())

    def _settle(self, flow: FlowDefinition) -> int:
        status, reason = self._checked(flow)
        if status is None:
            return 0
        with self._database.write() as session:
            found = resources.find_flow(session, flow.id)
            if found is None or found.status != flow.status:
                return 0
            if flow.status == resources.DELETING:
                session.delete(found)
            else:
                found.status, found.failure_reason = status, reason
        return 1

    def _checked(self, flow: FlowDefinition) -> tuple[str | None, str]:
        """Return the status a flow definition goes to, None to wait for the object store."""
        if flow.status == resources.DELETING:
            return resources.DELETING, ""
        try:
            self._objects.check_bucket(flow.request["OutputConfig"]["S3OutputPath"])
        except ObjectMissing as error:
            return resources.FAILED, f"OutputConfig.S3OutputPath: {error}"[:1024]
        except ObjectError as error:
            log.warning("flow definition %s: %s; trying again", flow.name, error)
            return None, ""
        return resources.ACTIVE, ""


def _give_way() -> None:
    with suppress(OSError):  # only Linux has priorities of threads
        mine = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, mine, os.getpriority(os.PRIO_PROCESS, mine) + NICENESS)
