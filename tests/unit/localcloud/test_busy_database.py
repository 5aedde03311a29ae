"""Locks of other transactions that are not let go: nobody waits for ever, and all are told."""

import json
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from model_delivery_localcloud.app import create_app
from model_delivery_localcloud.cli import main
from model_delivery_localcloud.settings import Settings
from model_delivery_localcloud.store.database import BUSY, Database, is_busy
from model_delivery_localcloud.store.group_commit import GroupCommit, one_by_one
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from tests.postgres import new_database

LOCK_SECONDS = 0.5
PASSWORD = "correct-horse-battery"


def test_a_row_that_is_locked_elsewhere_keeps_no_other_waiting_for_ever(cluster: str) -> None:
    url = new_database(cluster)
    database = Database(url, LOCK_SECONDS)
    with database.write() as session:
        session.execute(text("CREATE TABLE rows AS SELECT n FROM generate_series(1, 40) n"))
    commits = GroupCommit(database, one_by_one)

    def change(number: int) -> None:
        def work(session: Session) -> None:
            session.execute(text(f"UPDATE rows SET n = -n WHERE n = {number}"))

        told.append(commits.submit(work))

    told: list[Any] = []
    with psycopg.connect(url) as elsewhere:
        elsewhere.execute("SELECT * FROM rows WHERE n IN (7, 23) FOR UPDATE")
        began = time.monotonic()
        for number in range(1, 41):
            change(number)
        failed = [n for n, future in enumerate(told, start=1) if future.exception(20) is not None]
        took = time.monotonic() - began
    assert failed == [7, 23]
    assert all(is_busy(told[number - 1].exception()) for number in failed)
    assert took < 8 * LOCK_SECONDS
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM rows WHERE n < 0")) == 38
    database.close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environ = {
        "LOCALCLOUD_HOME": str(tmp_path), "LOCALCLOUD_SECRET_KEY": "k" * 40,
        "LOCALCLOUD_S3_ENDPOINT_URL": "http://127.0.0.1:1", "LOCALCLOUD_S3_ACCESS_KEY_ID": "id",
        "LOCALCLOUD_S3_SECRET_ACCESS_KEY": "secret", "LOCALCLOUD_DATABASE_LOCK_SECONDS": "0.1",
        "LOCALCLOUD_USER_PASSWORD": PASSWORD, "LOCALCLOUD_ACCESS_KEY_SECRET": PASSWORD,
    }  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for command in (["migrate"], ["access-key", "add", "--id", "KEY", "--account", "1" * 12]):
        assert main(command) == 0
    return Settings.from_environment()


def make_team(client: TestClient) -> httpx.Response:
    members = [{"OidcMemberDefinition": {"Groups": ["g"]}}]
    team = {"WorkteamName": "team", "Description": "d", "MemberDefinitions": members}
    request = AWSRequest(
        "POST", str(client.base_url), data=json.dumps(team),
        headers={"X-Amz-Target": "SageMaker.CreateWorkteam",
                 "Content-Type": "application/x-amz-json-1.1"},
    )  # fmt: skip
    SigV4Auth(Credentials("KEY", PASSWORD), "sagemaker", "us-east-1").add_auth(request)
    return client.post("/", content=request.body, headers=dict(request.headers))


def test_who_calls_a_database_that_is_locked_is_told_to_try_again(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    client = TestClient(create_app(settings))
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
    assert token is not None
    form = {"csrf": token[1], "name": "ana", "password": PASSWORD}
    elsewhere = sqlite3.connect(settings.home / "localcloud.db", isolation_level=None)
    elsewhere.execute("BEGIN IMMEDIATE")
    answer = client.post("/sign-in", data=form)
    assert (answer.status_code, answer.json()) == (503, {"problem": BUSY})
    assert answer.headers["retry-after"] == "1"
    answer = make_team(client)
    assert (answer.status_code, answer.json()["__type"]) == (503, "ServiceUnavailable")
    assert BUSY in answer.json()["message"]
    assert main(["user", "add", "ana"]) == 1
    assert BUSY in capsys.readouterr().err
    elsewhere.close()
    assert client.post("/sign-in", data=form).status_code == 403
    assert make_team(client).status_code == 200
