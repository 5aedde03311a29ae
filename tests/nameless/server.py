"""A real service that lets nobody name a job: jobs take time, can be stopped, survive a SIGKILL.

`python -m tests.nameless.server PORT DATABASE [SKEW]`: SKEW seconds are added to its clock.
"""

import json
import sqlite3
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = 20
TABLE = (
    "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, body TEXT, created REAL, "
    "stopped REAL, stops INTEGER DEFAULT 0)"
)


class Jobs:
    """The jobs in SQLite; what has become of one follows from the time."""

    def __init__(self, path: Path, skew: float) -> None:
        self._path, self._skew = path, skew
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(TABLE)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        job = uuid.uuid4().hex
        with self._open() as database:
            row = (job, json.dumps(body), time.time())
            database.execute("INSERT INTO jobs (id, body, created) VALUES (?, ?, ?)", row)
        return self.describe(job) or {}

    def describe(self, job: str) -> dict[str, Any] | None:
        with self._open() as database:
            query = "SELECT body, created, stopped, stops FROM jobs WHERE id = ?"
            row = database.execute(query, (job,)).fetchone()
        if row is None:
            return None
        body, created, stopped, stops = json.loads(row[0]), row[1], row[2], row[3]
        ended = time.time() >= created + body["seconds"]
        status = "STOPPED" if stopped else self._outcome(job, body) if ended else "RUNNING"
        facts = {"jobId": job, "status": status, "createdAt": created + self._skew, "stops": stops}
        return {**body, **facts}

    def _outcome(self, job: str, body: dict[str, Any]) -> str:
        """Return how a job ends; FAILED_FIRST is the outcome of one that needs a second go."""
        if body["outcome"] != "FAILED_FIRST":
            return str(body["outcome"])
        with self._open() as database:
            query = "SELECT id FROM jobs WHERE body ->> 'model' = ? ORDER BY created LIMIT 1"
            (first,) = database.execute(query, (body["model"],)).fetchone()
        return "FAILED" if first == job else "SUCCEEDED"

    def stop(self, job: str) -> bool:
        running = (self.describe(job) or {}).get("status") == "RUNNING"
        with self._open() as database:
            query = "UPDATE jobs SET stops = stops + 1, stopped = coalesce(stopped, ?) WHERE id = ?"
            database.execute(query, (time.time() if running else None, job))
        return running

    def delete(self, job: str) -> None:
        with self._open() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def listed(self, after: float, start: int) -> dict[str, Any]:
        with self._open() as database:
            query = "SELECT id FROM jobs WHERE created >= ? ORDER BY created LIMIT ? OFFSET ?"
            rows = database.execute(query, (after - self._skew, PAGE + 1, start)).fetchall()
        page = [self.describe(row[0]) for row in rows[:PAGE]]
        following = start + PAGE if len(rows) > PAGE else None
        return {"jobs": [each for each in page if each], "start": following}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    jobs: Jobs

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, self.jobs.create(body))

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/jobs":
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            after, start = float(query.get("createdAfter", 0)), int(query.get("start", 0))
            self._answer(200, self.jobs.listed(after, start))
        elif found := self.jobs.describe(url.path.rpartition("/")[2]):
            self._answer(200, found)
        else:
            self._refuse(404, "ResourceNotFoundException", f"no job {url.path}")

    def do_DELETE(self) -> None:
        url = urlsplit(self.path)
        job = url.path.rpartition("/")[2]
        if self.jobs.describe(job) is None:
            self._refuse(404, "ResourceNotFoundException", f"no job {job}")
        elif url.query == "purge":
            self.jobs.delete(job)
            self._answer(200, {})
        elif self.jobs.stop(job):
            self._answer(200, {})
        else:
            self._refuse(409, "ConflictException", f"job {job} has ended")

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"code": code, "message": message})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    port, path, skew = sys.argv[1], Path(sys.argv[2]), float((*sys.argv, "0")[3])
    Handler.jobs = Jobs(path, skew)
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
