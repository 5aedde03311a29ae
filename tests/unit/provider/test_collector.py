"""What a triggerer has loaded is out of the garbage collector's sight, unless switched off."""

import json
import os
import subprocess
import sys

import pytest

WAITING = """
import asyncio, gc, json
from model_delivery.jobs.registry import registry

async def frozen():
    registry()
    first = gc.get_freeze_count()
    settings = {
        "aws_conn_id": None, "region_name": "eu-west-1", "verify": None, "botocore_config": None
    }
    counts = []
    for _ in range(2):
        hook = "model_delivery.hooks.compilation.CompilationJobHook"
        async with registry()._clients.lease(hook, "", settings):
            counts.append(gc.get_freeze_count())
    return [first, *counts]

print("\\n" + json.dumps(asyncio.run(frozen())))
"""


def frozen(**env: str) -> list[int]:
    """Return how many objects are frozen at the first wait, and with each of two clients."""
    done = subprocess.run(
        [sys.executable, "-c", WAITING],
        env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", **env},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_what_a_triggerer_loads_is_frozen_once() -> None:
    first, client, again = frozen()
    assert first > 50_000
    assert client > first + 20_000  # SageMaker's model
    # What dies in between leaves the count; nothing is added.
    assert again <= client


@pytest.mark.parametrize("setting", ["False", "false"])
def test_nothing_is_frozen_where_that_is_switched_off(setting: str) -> None:
    assert frozen(AIRFLOW__MODEL_DELIVERY__FREEZE_HEAP=setting) == [0, 0, 0]
