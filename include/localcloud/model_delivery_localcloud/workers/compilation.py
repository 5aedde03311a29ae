"""Compilation jobs: archive from the object store → engine → bundle to the object store."""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model_delivery_engine.errors import one_line
from sqlalchemy.orm import Session

from model_delivery_localcloud.errors import StoreError
from model_delivery_localcloud.objects import ObjectStore
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store import compilation as states
from model_delivery_localcloud.store.jobs import Lease
from model_delivery_localcloud.store.tables import CompilationJob
from model_delivery_localcloud.workers.work import Outcome, Task, tell_progress, tell_waiting

log = logging.getLogger(__name__)

BUNDLE = "_bundle"
LONGEST_NAME = 200  # bytes; a disk takes 255
LONGEST_PROGRESS = 200  # letters


class CompilationWork:
    """The work behind SageMaker's compilation jobs."""

    most_attempts = 3
    resumes = False

    def begin(self, session: Session, lease: Lease) -> Task:
        """Mark the job INPROGRESS; its runtime counts from here.

        What a worker's end took from it is not the job's: it begins anew. Nor is what it waits for
        others.
        """
        job = _find(session, lease)
        if job.status == states.STARTING:
            states.set_status(job, states.INPROGRESS)
        limit = job.request["StoppingCondition"]["MaxRuntimeInSeconds"]
        params = {"name": job.name, "request": job.request, "output_uri": job.output_uri}
        return Task(lease.kind, params, limit)

    def run(self, params: dict[str, Any], folder: Path, objects: ObjectStore) -> dict[str, Any]:
        """Compile the archive into `folder`; returns the manifest and the bundle's digest."""
        # Only the child compiles: the worker itself stays free of onnx and its memory.
        from model_delivery_engine.compile import CompilationRequest, compile_model
        from model_delivery_engine.digest import digest_file
        from model_delivery_engine.options import parse_compiler_options
        from model_delivery_engine.settings import CompilerSettings
        from model_delivery_engine.targets import resolve_target
        from model_delivery_engine.waits import telling_waits

        logging.getLogger("model_delivery_engine").addHandler(_Progress(folder))
        request = params["request"]
        source, output = request["InputConfig"], request["OutputConfig"]
        archive = place_of(source["S3Uri"], folder / "_archive")
        objects.check_bucket(params["output_uri"])
        settings = CompilerSettings.from_environment(home=Settings.from_environment().home)
        _refuse_large(source["S3Uri"], objects, settings.limits.file_bytes)
        objects.download(source["S3Uri"], archive)
        log.info("downloaded %s, %d bytes", source["S3Uri"], archive.stat().st_size)
        options = output.get("CompilerOptions")
        files = _fetch(parse_compiler_options(options).uris, folder, objects)
        asked = CompilationRequest(
            framework=source["Framework"],
            data_input_config=source.get("DataInputConfig"),
            target=resolve_target(output.get("TargetDevice"), output.get("TargetPlatform")),
            name=params["name"],
            source_uri=source["S3Uri"],
            compiler_options=options,
        )
        with telling_waits(functools.partial(tell_waiting, folder)):
            manifest = compile_model(
                archive, folder / BUNDLE, asked, settings=settings, files=files
            )
        log.info("compiled to a bundle of %d bytes", (folder / BUNDLE).stat().st_size)
        return {
            "manifest": json.loads(manifest.to_json()),
            "digest": digest_file(folder / BUNDLE),
        }

    def publish(
        self,
        task: Task,
        outcome: Outcome,
        folder: Path,
        objects: ObjectStore,
        wanted: Callable[[], bool],
    ) -> bool:
        """Upload the whole bundle: an earlier job's may lie at the same place until then."""
        return objects.upload_if(folder / BUNDLE, task.params["output_uri"], wanted)

    def clear(self, task: Task, objects: ObjectStore) -> None:
        """Do nothing: a compilation leaves its bundle only."""

    def end(self, session: Session, lease: Lease, outcome: Outcome, stopped: bool) -> None:
        """Set the job COMPLETED, FAILED or STOPPED with what it left behind."""
        job = _find(session, lease)
        job.log = outcome.log
        if stopped:
            states.set_status(job, states.STOPPED)
        elif outcome.fault:
            states.set_status(job, states.FAILED, outcome.failure_reason)
        else:
            job.manifest = outcome.result["manifest"]
            job.artifact_digest = outcome.result["digest"]
            states.set_status(job, states.COMPLETED)


class _Progress(logging.Handler):
    """Tells the job's page what the engine says it is at."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.INFO)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a full disk fails the job elsewhere
            tell_progress(self._folder, one_line(record.getMessage(), LONGEST_PROGRESS))


def place_of(uri: str, folder: Path) -> Path:
    """Return where to keep an object, in a folder of its own that is made.

    The engine's messages name a file by its name: let it be the user's, as far as a disk takes it.
    """
    folder.mkdir()
    name = uri.rpartition("/")[2].replace("\0", "").encode()[-LONGEST_NAME:].decode(errors="ignore")
    return folder / (name if name.strip(".") else "object")


def _refuse_large(uri: str, objects: ObjectStore, most_bytes: int) -> None:
    from model_delivery_engine.errors import ArchiveError, Reason

    size = objects.describe(uri).size
    if size > most_bytes:
        raise ArchiveError(
            f"{uri} has {size} bytes, the limit is {most_bytes}; pack only the model, which may "
            "have 2 GiB",
            reason=Reason.MODEL_TOO_LARGE,
        )


def _fetch(uris: Sequence[str], folder: Path, objects: ObjectStore) -> dict[str, Path]:
    """Download what the options name."""
    # Only the child reads options: the worker itself stays free of the engine.
    from model_delivery_engine.errors import OptionsError

    files = {}
    for number, uri in enumerate(uris):
        if not uri.startswith("s3://"):
            raise OptionsError(f"CompilerOptions names {uri}, which is no s3:// URI; upload it")
        files[uri] = place_of(uri, folder / f"_file{number}")
        objects.download(uri, files[uri])
        log.info("downloaded %s, %d bytes", uri, files[uri].stat().st_size)
    return files


def _find(session: Session, lease: Lease) -> CompilationJob:
    job = states.find_compilation_job(session, lease.account, lease.region, lease.name)
    if job is None:
        raise StoreError(f"job {lease.job_id} has no compilation job {lease.name}")
    return job
