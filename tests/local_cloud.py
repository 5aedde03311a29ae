"""A running localcloud and the store beneath it, as the tests talk to them."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from stack.credentials import Credentials, load_or_create
from stack.localcloud import LocalCloud
from stack.object_store import object_store, s3_client
from stack.ports import free_ports
from stack.processes import Process
from tests.postgres import postgres

# Not the stack's own region: what a request says must be followed.
REGION = "eu-west-1"


@dataclass(frozen=True)
class Store:
    """The S3 endpoint and its one identity."""

    port: int
    credentials: Credentials = field(repr=False)

    def client(self) -> Any:
        return s3_client(self.port, self.credentials)


@dataclass(frozen=True)
class Cloud:
    """A running localcloud, a key of its account, and how to run its commands."""

    local: LocalCloud
    store: Store

    @property
    def url(self) -> str:
        return self.local.url

    @property
    def home(self) -> Path:
        return self.local.home

    @property
    def access_key_id(self) -> str:
        return self.store.credentials.aws_access_key_id

    @property
    def secret(self) -> str:
        return self.store.credentials.aws_secret_access_key

    @property
    def password(self) -> str:
        return self.store.credentials.localcloud_user_password

    def client(self, service: str, **options: Any) -> Any:
        settings = {
            "endpoint_url": self.url,
            "region_name": REGION,
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret,
            "config": Config(retries={"total_max_attempts": 1}),
            **options,
        }
        return boto3.client(service, **settings)

    def run(self, *arguments: str, secret: str | None = None) -> str:
        return self.local.run(*arguments, secret=secret)

    def worker(self) -> Process:
        return self.local.worker("--concurrency", "1", "--lease-seconds", "4")


@contextmanager
def cloud_over(database: str) -> Iterator[tuple[Cloud, str]]:
    """Give a localcloud over a new database and object store, and the database's URL.

    The caller prepares and starts it.

    :param database: "SQLite" or "Postgres"
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="localcloud-over-")))
        port, store_port = free_ports(2)
        store = Store(store_port, load_or_create(home / "secrets.json"))
        stack.enter_context(object_store(home, store.credentials, store_port))
        local = LocalCloud(home / "localcloud", store.credentials, port, store_port)
        url = f"sqlite:///{local.home / 'localcloud.db'}"
        if database == "Postgres":
            url = stack.enter_context(postgres())
            local.env["LOCALCLOUD_DATABASE_URL"] = url
        yield Cloud(local, store), url
