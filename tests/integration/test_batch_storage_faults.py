"""Storage that cuts connections, is slow, or is away for a while: the same results."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from model_delivery.exceptions import StorageError
from model_delivery.hooks.storage import StorageHook
from model_delivery_engine.batch.recipes import Recipe
from model_delivery_engine.batch.recommender_bundle import write_recommender_bundle

from stack.credentials import REGION
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET
from stack.ports import free_ports
from tests.faults.wire import BadWire
from tests.integration.conftest import S3, set_connection
from tests.integration.test_batch_operators import bundle, digests, infer, lines, merge, plan, put

__all__ = ["bundle"]  # a fixture

USERS = [f"u{n}" for n in range(300)]


@pytest.fixture
def wire(s3: S3, connections: None) -> Iterator[BadWire]:
    """Put a wire before the store, and the default connection behind it."""
    before = os.environ["AIRFLOW_CONN_AWS_DEFAULT"]
    with BadWire(s3.port) as made:
        set_connection("aws_default", s3.connection(port=made.port))
        yield made
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = before


def test_cut_connections_change_no_byte(
    s3: S3, wire: BadWire, prefixes: dict[str, str], bundle: Path
) -> None:  # fmt: skip
    prefix = prefixes["s3"]
    uri = put(prefix, bundle, lines(30_000))
    merge(prefix, [infer(prefix, shard) for shard in plan(uri, 2)])
    expected = digests(prefix)
    StorageHook().delete(f"{prefix}/out/manifest.json")
    wire.cut_share, wire.cut_bytes = 0.7, 300_000
    shards, tries = plan(uri, 2), 0
    parts = []
    for shard in shards:
        while True:  # as Airflow's retries do
            tries += 1
            assert tries < 20
            try:
                parts.append(infer(prefix, shard))
            except StorageError:
                continue
            break
    while True:
        tries += 1
        assert tries < 20
        try:
            merge(prefix, parts)
        except StorageError:
            continue
        break
    wire.cut_share = 0
    assert wire.cuts > 0
    assert digests(prefix) == expected


def test_slow_storage_is_only_slow(
    s3: S3, wire: BadWire, prefixes: dict[str, str], bundle: Path
) -> None:  # fmt: skip
    prefix = prefixes["s3"]
    uri = put(prefix, bundle, lines(5000))
    wire.bytes_a_second = 400_000
    merged = merge(prefix, [infer(prefix, shard) for shard in plan(uri, 2)])
    assert merged["records"] == 5000


def test_storage_that_is_away_is_named(
    s3: S3, wire: BadWire, prefixes: dict[str, str], bundle: Path
) -> None:  # fmt: skip
    prefix = prefixes["s3"]
    uri = put(prefix, bundle, lines(100))
    [shard] = plan(uri, 1)
    wire.down = True
    with pytest.raises(StorageError, match=r"s3://"):
        infer(prefix, shard)


def test_localclouds_batch_goes_on_when_the_store_is_back(
    s3: S3, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("localcloud")
    archive = home / "bundle.tar.gz"
    random = np.random.default_rng(0)
    write_recommender_bundle(
        archive, name="films", recipe=Recipe.USER_PERSONALIZATION, users=USERS,
        items=[f"i{n}" for n in range(80)], user_factors=random.normal(size=(300, 8)),
        item_factors=random.normal(size=(80, 8)), source_uri="file:///none",
    )  # fmt: skip
    store = s3.client()
    store.upload_file(str(archive), BUCKET, "away/bundle.tar.gz")
    count = 200_000
    body = b"".join(b'{"userId":"u%d"}\n' % (n % 300) for n in range(count))
    store.put_object(Bucket=BUCKET, Key="away/users.json", Body=body)
    with BadWire(s3.port, cut_share=0.03) as wire:
        cloud = LocalCloud(home, s3.credentials, free_ports(1)[0], wire.port)
        cloud.prepare()
        arn = str(
            cloud.run(
                "solution-version", "register", "--solution", "away", "--recipe",
                "user-personalization", "--bundle", f"s3://{BUCKET}/away/bundle.tar.gz",
            )
        ).splitlines()[-1]  # fmt: skip
        with cloud.api():
            client = boto3.client(
                "personalize", endpoint_url=cloud.url, region_name=REGION,
                aws_access_key_id=s3.credentials.aws_access_key_id,
                aws_secret_access_key=s3.credentials.aws_secret_access_key,
            )  # fmt: skip
            job = client.create_batch_inference_job(
                jobName="away", solutionVersionArn=arn, numResults=3,
                roleArn="arn:aws:iam::000000000000:role/personalize",
                jobInput={"s3DataSource": {"path": f"s3://{BUCKET}/away/users.json"}},
                jobOutput={"s3DataDestination": {"path": f"s3://{BUCKET}/away/out/"}},
            )["batchInferenceJobArn"]  # fmt: skip
            wire.down = True  # when the job starts, and once more when it is under way
            with cloud.worker():
                time.sleep(25)
                wire.down = False
                outage = threading.Thread(target=_go_away, args=(store, wire))
                outage.start()
                told = _wait(client, job)
                outage.join()
    assert told["status"] == "ACTIVE", told
    assert told["numResults"] == count
    data = store.get_object(Bucket=BUCKET, Key="away/out/users.json.out")["Body"].read()
    found = [json.loads(line)["input"]["userId"] for line in data.splitlines()]
    assert found == [f"u{n % 300}" for n in range(count)]


def _go_away(store: Any, wire: BadWire) -> None:
    """Take the store away for ten seconds once the job has left its first parts there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = store.list_objects_v2(Bucket=BUCKET, Prefix="away/out/_parts/").get("Contents", [])
        if len(found) > 4:
            wire.down = True
            time.sleep(10)
            wire.down = False
            return
        time.sleep(0.05)


def _wait(client: Any, arn: str) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while True:
        job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
        if job["status"] in {"ACTIVE", "CREATE FAILED"}:
            return dict(job)
        assert time.monotonic() < deadline, job
        time.sleep(0.3)
