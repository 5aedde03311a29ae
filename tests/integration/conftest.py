"""A real SeaweedFS and a real Azurite, once a session, as Airflow connections."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stack.airflow import aws_connection
from stack.azure_store import AzureStore
from stack.credentials import Credentials, load_or_create
from stack.object_store import BUCKET, object_store, s3_client
from stack.ports import LOOPBACK, free_ports

CONTAINER = "objects"


def refused_port() -> int:
    """Return a port that nothing listens on."""
    return free_ports(1)[0]


@dataclass(frozen=True)
class S3:
    """The store of `s3://`, and how Airflow reaches it."""

    port: int
    credentials: Credentials = field(repr=False)
    bucket: str = BUCKET

    def connection(self, port: int | None = None, **changes: Any) -> dict[str, object]:
        """Return its `aws` connection, or one to another port or with other keys."""
        url = f"http://{LOOPBACK}:{port or self.port}"
        return {**aws_connection(self.credentials, url, url), **changes}

    def client(self) -> Any:
        return s3_client(self.port, self.credentials)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    home = tmp_path_factory.mktemp("seaweed")
    credentials = load_or_create(home / "secrets.json")
    (port,) = free_ports(1)
    with object_store(home, credentials, port):
        yield S3(port, credentials)


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureStore]:
    store = AzureStore(tmp_path_factory.mktemp("azurite"))
    with store.process():
        store.container(CONTAINER)
        yield store


def set_connection(name: str, connection: dict[str, object]) -> None:
    os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)


@pytest.fixture(scope="session")
def connections(s3: S3, azure: AzureStore) -> Iterator[None]:
    """Good connections under the default ids, and each kind with a wrong key or a dead endpoint."""
    before = dict(os.environ)
    dead = AzureStore(azure.home)
    dead.port = refused_port()
    dead.url = dead.url.replace(dead.url.split(":")[2].split("/")[0], str(dead.port))
    wrong = AzureStore(azure.home)
    wrong.port, wrong.url = azure.port, azure.url
    set_connection("aws_default", s3.connection())
    set_connection("aws_wrong_key", s3.connection(password="not-the-secret"))
    set_connection("aws_unknown_key", s3.connection(login="AKIAUNKNOWN"))
    set_connection("aws_dead", s3.connection(port=refused_port()))
    set_connection("wasb_default", azure.airflow_connection())
    set_connection("wasb_wrong_key", wrong.airflow_connection())
    set_connection("wasb_dead", dead.airflow_connection())
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def prefixes(tmp_path: Path, connections: None) -> dict[str, str]:
    """Give each test an empty prefix of each store."""
    name = tmp_path.name
    return {
        "file": f"file://{tmp_path}/objects",
        "s3": f"s3://{BUCKET}/{name}",
        "azure": f"wasbs://{CONTAINER}@modeldelivery.blob.core.windows.net/{name}",
    }
