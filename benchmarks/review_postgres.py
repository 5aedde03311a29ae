"""A Postgres of a benchmark's own: its cluster lives as long as the block."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from stack.ports import LOOPBACK, free_ports

USER = "bench"


def installed() -> bool:
    """Tell whether Postgres is on this machine."""
    return shutil.which("initdb") is not None and shutil.which("postgres") is not None


@contextmanager
def postgres() -> Iterator[str]:
    """Start a cluster and give its URL. Postgres refuses root: then it runs as nobody."""
    owner = "nobody" if os.geteuid() == 0 else None
    port = free_ports(1)[0]
    folder = Path(tempfile.mkdtemp(prefix="review-postgres-"))
    try:
        if owner:
            shutil.chown(folder, owner)
        data = folder / "data"
        subprocess.run(
            ["initdb", "--pgdata", str(data), "--auth", "trust", "--username", USER],
            user=owner, check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                ["postgres", "-D", str(data), "-p", str(port), "-h", LOOPBACK, "-k", str(folder)],
                user=owner, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            url = f"postgresql://{USER}@{LOOPBACK}:{port}/postgres"
            _wait(url)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # at once, whoever is still connected
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
