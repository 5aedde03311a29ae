"""After a run, no secret lies in logs, XCom, databases, rendered templates or the store.

Later issues extend this test: every place where a secret could stay is a line of `_places`.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stack.object_store import BUCKET
from stack.stack import THING


def _places(world: Any) -> Iterator[tuple[str, bytes]]:
    home: Path = world.stack.home
    for path in sorted(home.rglob("*")):
        if path.is_file() and not _is_keeper(path, home):
            yield str(path.relative_to(home)), path.read_bytes()
    for key, data in _objects(world):
        yield f"s3://{BUCKET}/{key}", data


def _is_keeper(path: Path, home: Path) -> bool:
    """Tell the files that are there to hold secrets, each readable by its owner only."""
    keepers = {
        home / "secrets.json",
        home / "store" / "s3.json",
        home / "airflow" / "passwords.json",
    }
    private = path.stat().st_mode & 0o077 == 0
    return (path in keepers and private) or (home / "devices" in path.parents and private)


def _objects(world: Any) -> Iterator[tuple[str, bytes]]:
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    for page in pages:
        for each in page.get("Contents", []):
            body = world.s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"]
            yield each["Key"], body.read()


def _device_key(world: Any) -> str:
    kept = (world.stack.home / "devices" / THING / "device.key").read_text()
    return str(json.loads(kept)["device_key"])


def _secrets(world: Any) -> dict[str, str]:
    return {
        **world.stack.credentials.secret_values(),
        "azure account key": world.azure.account_key,
        "device key": _device_key(world),
    }


def test_the_databases_are_among_the_places(world: Any, delivered: Any) -> None:
    """So that the search below cannot pass by looking at nothing."""
    names = [name for name, _data in _places(world)]
    assert "airflow/airflow.db" in names
    assert any(name.startswith("localcloud/") and name.endswith(".db") for name in names), names
    assert any(name.startswith("airflow/logs/") for name in names)
    database = sqlite3.connect(world.stack.home / "airflow" / "airflow.db")
    (rendered,) = database.execute("select count(*) from rendered_task_instance_fields").fetchone()
    (xcoms,) = database.execute("select count(*) from xcom").fetchone()
    database.close()
    assert rendered
    assert xcoms


def test_no_secret_is_found_anywhere(world: Any, delivered: Any) -> None:
    found = [
        f"{name} in {place}"
        for place, data in _places(world)
        for name, secret in _secrets(world).items()
        if secret.encode() in data
    ]
    assert found == []
