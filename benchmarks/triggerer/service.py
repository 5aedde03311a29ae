"""localcloud with compilation jobs that end at set times: what both triggers wait for."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from model_delivery_localcloud.clock import now_ms
from model_delivery_localcloud.store import compilation as states
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.jobs import LEASED
from model_delivery_localcloud.store.tables import CompilationJob, Job
from sqlalchemy import delete, select

from stack.airflow import aws_connection
from stack.credentials import ACCOUNT, REGION, load_or_create
from stack.localcloud import LocalCloud
from stack.ports import free_ports
from stack.processes import Process

TICK_SECONDS = 0.05
REQUEST = '"POST / HTTP'


class EndingJobs:
    """A localcloud of its own whose jobs no worker does: they end when they are told to."""

    def __init__(self, home: Path) -> None:
        credentials = load_or_create(home / "secrets.json")
        port, store_port = free_ports(2)
        self.cloud = LocalCloud(home / "localcloud", credentials, port, store_port)
        self.connection = aws_connection(credentials, self.cloud.url, "http://127.0.0.1:1")
        self.cloud.prepare()
        self._database = Database(f"sqlite:///{home / 'localcloud' / 'localcloud.db'}")
        self._api: Process = self.cloud.api()

    @contextmanager
    def running(self) -> Iterator["EndingJobs"]:
        """Run the API's process."""
        self._api.start()
        try:
            self._api.wait_healthy(60)
            yield self
        finally:
            self._api.stop()
            self._database.close()

    def requests(self) -> int:
        """Return how many requests the service answered: the lines of its access log."""
        return self._api.log.read_text().count(REQUEST)

    def make(self, names: list[str]) -> None:
        """Make jobs that are in progress; their work is leased to nobody."""
        with self._database.write() as session:
            for name in names:
                now = now_ms()
                work = Job(
                    id=f"work-{name}", kind="compilation", account=ACCOUNT, region=REGION,
                    name=name, state=LEASED, created_at=now, lease_until=now + 10**9,
                )  # fmt: skip
                session.add(work)
                session.add(_job(name, work.id, now))

    def end(self, at: Mapping[str, float], until: float) -> dict[str, float]:
        """End each job at its time and return when each did; returns at `until`."""
        waiting = sorted(at.items(), key=lambda item: item[1])
        ended: dict[str, float] = {}
        while time.time() < until:
            due = []
            while waiting and waiting[0][1] <= time.time():
                due.append(waiting.pop(0)[0])
            if due:
                ended |= self._end(due)
            elif not waiting:
                break
            time.sleep(TICK_SECONDS)
        return ended

    def end_older_than(self, seconds: float) -> None:
        """End every job that was made so long ago."""
        before = now_ms() - int(seconds * 1000)
        with self._database.read() as session:
            query = select(CompilationJob.name).where(
                CompilationJob.status != states.COMPLETED, CompilationJob.created_at < before
            )
            names = list(session.scalars(query))
        if names:
            self._end(names)

    def forget(self) -> None:
        """Delete all jobs, so that names are free again."""
        with self._database.write() as session:
            session.execute(delete(CompilationJob))
            session.execute(delete(Job))

    def _end(self, names: list[str]) -> dict[str, float]:
        with self._database.write() as session:
            for name in names:
                job = session.get(CompilationJob, (ACCOUNT, REGION, name))
                assert job is not None
                states.set_status(job, states.COMPLETED)
        # A job has ended for others once the transaction is over.
        return dict.fromkeys(names, time.time())


def _job(name: str, work_id: str, now: int) -> CompilationJob:
    condition = {"MaxRuntimeInSeconds": 86_400}
    source = {"S3Uri": "s3://bucket/model.tar.gz", "DataInputConfig": "{}", "Framework": "ONNX"}
    output = {"S3OutputLocation": "s3://bucket/out", "TargetDevice": "ml_c5"}
    role = f"arn:aws:iam::{ACCOUNT}:role/compiler"
    return CompilationJob(
        account=ACCOUNT, region=REGION, name=name, job_id=work_id,
        request={
            "CompilationJobName": name, "RoleArn": role, "InputConfig": source,
            "OutputConfig": output, "StoppingCondition": condition,
        },
        target="ml_c5", output_uri="s3://bucket/out/model-ml_c5.tar.gz",
        status=states.INPROGRESS, created_at=now, modified_at=now, started_at=now,
    )  # fmt: skip
