"""SeaweedFS as the stack's S3: one process, on loopback, no anonymous door."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from stack.credentials import Credentials, write_private
from stack.ports import LOOPBACK, free_ports
from stack.processes import Process

BUCKET = "model-delivery"


def object_store(home: Path, credentials: Credentials, port: int) -> Process:
    """Return the store's process, not yet started; `port` is its S3 endpoint.

    Its filer and volume servers speak gRPC only (`-disableHttp`): their HTTP side has no
    credentials. A bucket nobody made stays an error (`autoCreateBucket=false`).
    """
    config = home / "s3.json"
    write_private(config, json.dumps(_identities(credentials)))
    (home / "data").mkdir(parents=True, exist_ok=True)
    parts = ["master", "volume", "filer", "admin"]
    ports = free_ports(2 * len(parts) + 1)
    flags = [f"-s3.port={port}", f"-s3.port.grpc={ports.pop()}"]
    for part in parts:
        flags += [f"-{part}.port={ports.pop()}", f"-{part}.port.grpc={ports.pop()}"]
    argv = [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        f"-dir={home / 'data'}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-bucket={BUCKET}",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-disableHttp",
        *flags,
    ]
    return Process(
        name="object store",
        argv=argv,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        log=home / "weed.log",
        healthy=lambda: _bucket_exists(port, credentials),
    )


def _identities(credentials: Credentials) -> dict[str, object]:
    # Not Admin: a bucket that does not exist is an error, never made on the way.
    actions = ["Read", "Write", "List", "Tagging"]
    keys = {
        "airflow": (credentials.aws_access_key_id, credentials.aws_secret_access_key),
        "localcloud": (credentials.store_access_key_id, credentials.store_secret_access_key),
    }
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": key_id, "secretKey": secret}],
                "actions": actions,
            }
            for name, (key_id, secret) in keys.items()
        ]
    }


def _bucket_exists(port: int, credentials: Credentials) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        s3_client(port, credentials).head_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError):
        return False
    return True


def s3_client(port: int, credentials: Credentials) -> Any:
    """Return a boto3 S3 client of the store."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=f"http://{LOOPBACK}:{port}",
        region_name="us-east-1",
        aws_access_key_id=credentials.store_access_key_id,
        aws_secret_access_key=credentials.store_secret_access_key,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=2,
            read_timeout=20,
            retries={"max_attempts": 2, "mode": "standard"},
        ),
    )
