"""Batch inference jobs: lines from the object store → a recommender → lines to the object store.

Parts and journal lie in the object store below the job's output, so that whichever worker takes the
job goes on where the one before it was killed. The results are the same whoever writes them, and
appear whole; so a worker that lost its lease does no harm by still publishing.
"""

import io
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import (
    ObjectChanged,
    ObjectError,
    ObjectMissing,
    StoreError,
)
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.store import personalize as states
from model_delivery_localcloud.store.jobs import Lease
from model_delivery_localcloud.store.tables import BatchInferenceJob
from model_delivery_localcloud.workers.work import Outcome, Task, tell_progress

log = logging.getLogger(__name__)

# Fixed, so that two workers that begin a job at once run the same batches.
BATCH_SIZE = 256
TELL_SECONDS = 2.0
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, *[60.0] * 6)
Answer = TypeVar("Answer")


class BatchInferenceWork:
    """The work behind Personalize's batch inference jobs."""

    # More than a compilation's three: each goes on where the one before it was killed. A record
    # that takes more memory than there is ends the job after some minutes, not after an hour.
    most_attempts = 10
    resumes = True

    def begin(self, session: Session, lease: Lease) -> Task:
        """Mark the job IN PROGRESS; nothing limits how long it may take."""
        job = _find(session, lease)
        if job.status == states.PENDING:
            states.set_status(job, states.IN_PROGRESS)
        return Task(lease.kind, dict(job.work), math.inf)

    def run(self, params: dict[str, Any], folder: Path, objects: ObjectStore) -> dict[str, Any]:
        """Run the job and publish its results; returns the counts."""
        # Only the child computes: the worker itself stays free of onnxruntime and its memory.
        from model_delivery_engine.batch.budget import ErrorBudget
        from model_delivery_engine.batch.merge import Destination, publish_once
        from model_delivery_engine.batch.pipeline import BatchOptions, ShardJob, run_shard
        from model_delivery_engine.batch.recommend import Recommendations
        from model_delivery_engine.batch.shards import Shard
        from model_delivery_engine.bundle import open_bundle

        from model_delivery_localcloud.batch_storage import BatchStorage

        storage = BatchStorage(objects)

        def tell(line: str) -> None:
            log.info("%s", line)
            tell_progress(folder, line)

        source, target = params["input_uri"], params["output_uri"]
        destination = Destination(target, f"{target}.errors", f"{target}.manifest.json")

        def prepare() -> ShardJob:
            objects.check_bucket(target)
            archive = folder / "bundle.tar.gz"
            objects.download(params["bundle_uri"], archive, etag=params["bundle_etag"])
            shutil.rmtree(folder / "bundle", ignore_errors=True)  # of a try before
            bundle = open_bundle(archive, folder / "bundle")
            excluded = _excluded(params, bundle.model_path, objects)
            asked = Recommendations(params["results"], excluded)
            return ShardJob(
                Shard(index=0, uri=source, start=0, end=objects.describe(source).size),
                bundle,
                params["parts_uri"],
                BatchOptions(batch_size=BATCH_SIZE, input_format="jsonl", recommendations=asked),
                tell_every=TELL_SECONDS,
            )

        job = patiently(prepare, tell)

        def work() -> Mapping[str, Any]:
            run_shard(job, storage, tell)
            tell("putting the parts together")
            return publish_once(
                storage, params["parts_uri"], 1, destination,
                input_uri=source, input_format="jsonl", budget=ErrorBudget(),
            )  # fmt: skip

        counts = patiently(work, tell)
        return {name: counts[name] for name in ("records", "ok", "errors", "skipped")}

    def publish(
        self,
        task: Task,
        outcome: Outcome,
        folder: Path,
        objects: ObjectStore,
        wanted: Callable[[], bool],
    ) -> bool:
        """Clear the parts away: the results are published already, and Personalize has no stop.

        The journal stays until the job is recorded as done, so that a worker killed before that
        leaves the next one nothing to do again.
        """
        _delete_parts(task, objects, journals=False)
        return True

    def clear(self, task: Task, objects: ObjectStore) -> None:
        """Delete the journal, and a failed job's parts: nothing starts that again."""
        _delete_parts(task, objects, journals=True)

    def end(self, session: Session, lease: Lease, outcome: Outcome, stopped: bool) -> None:
        """Set the job ACTIVE or CREATE FAILED with what it left behind."""
        job = _find(session, lease)
        job.log = outcome.log
        if outcome.fault:
            states.set_status(job, states.CREATE_FAILED, outcome.failure_reason)
        else:
            job.counts = outcome.result
            states.set_status(job, states.ACTIVE)


def patiently(work: Callable[[], Answer], tell: Callable[[str], None]) -> Answer:
    """Do the work, and go on with it when the object store is back: pauses of 7 minutes in all.

    Personalize has no way to start a job again, so a store that is away must not fail it, nor
    another worker that began it at the same time.
    """
    from model_delivery_engine.errors import StoppedError

    for pause in (*PAUSES_S, None):
        try:
            return work()
        except (ObjectMissing, ObjectChanged):
            raise
        except (ObjectError, StoppedError) as error:
            if pause is None:
                raise
            tell(f"{error}; going on in {pause:.0f} s")
            time.sleep(pause)
    raise AssertionError("unreachable")


def _find(session: Session, lease: Lease) -> BatchInferenceJob:
    job = states.find_batch_job(session, (lease.account, lease.region), lease.name)
    if job is None:
        raise StoreError(f"job {lease.job_id} has no batch inference job {lease.name}")
    return job


def _delete_parts(task: Task, objects: ObjectStore, *, journals: bool) -> None:
    from model_delivery_engine.batch.merge import delete_parts

    from model_delivery_localcloud.batch_storage import BatchStorage

    try:
        delete_parts(BatchStorage(objects), task.params["parts_uri"], journals=journals)
    except ObjectError as error:  # what is left costs space, and no result
        log.warning("%s: parts are left: %s", task.params["name"], error)


def _excluded(params: dict[str, Any], model: Path, objects: ObjectStore) -> tuple[str, ...]:
    """Return the items that the job's filter leaves out."""
    if params["expression"] is None:
        return ()
    from model_delivery_engine.batch.item_filters import parse_filter, read_items
    from model_delivery_engine.batch.recommend import item_ids
    from model_delivery_engine.errors import BatchError
    from model_delivery_engine.runtime import Model, open_session, session_options

    found = parse_filter(params["expression"])
    uri = params["items_uri"]
    recommender = Model(open_session(model, session_options(threads=1)), params["name"])
    try:
        text = b"".join(objects.read(uri, etag=params["items_etag"])).decode("utf-8-sig")
        # Not str.splitlines: that cuts at characters which a title may hold.
        items = read_items(io.StringIO(text, newline=""), found.fields)
    except (BatchError, UnicodeDecodeError) as error:
        raise BatchError(f"{uri}: {error}; correct it and register the version again") from error
    return found.excluded(item_ids(recommender), items)
