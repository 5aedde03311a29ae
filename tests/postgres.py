"""A Postgres of a test's or benchmark's own: its cluster lives as long as the block."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg

from stack.ports import LOOPBACK, free_ports

USER = "localcloud"
MISSING = "Postgres is missing: `apt-get install postgresql`"


def installed() -> bool:
    """Tell whether Postgres is on this machine."""
    return all(map(_binary, ("initdb", "postgres")))


def _binary(name: str) -> str | None:
    # Debian keeps the server's programs out of PATH.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a cluster and give its URL. Postgres refuses root: then it runs as nobody."""
    owner = "nobody" if os.geteuid() == 0 else None
    port = free_ports(1)[0]
    folder = Path(tempfile.mkdtemp(prefix="localcloud-postgres-"))
    try:
        if owner:
            shutil.chown(folder, owner)
        data = folder / "data"
        subprocess.run(
            [str(_binary("initdb")), "--pgdata", str(data), "--auth", "trust", "--username", USER],
            user=owner, check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        with (folder / "log").open("wb") as log:
            where = ["-D", str(data), "-p", str(port), "-h", LOOPBACK, "-k", str(folder)]
            server = subprocess.Popen(
                [str(_binary("postgres")), *where],
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


def new_database(url: str) -> str:
    """Make an empty database in a cluster and return its URL."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url.rpartition('/')[0]}/{name}"


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
