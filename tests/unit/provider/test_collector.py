"""What a triggerer has loaded is out of the garbage collector's sight, unless switched off."""

import json
import os
import subprocess
import sys

import pytest
from botocore.loaders import JSONFileLoader, Loader
from model_delivery.hooks.aws import ModelLoader

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
MANY_WAITS = """
import asyncio, gc, json
from contextlib import ExitStack
from model_delivery.jobs.registry import PollKey, PollRegistry, SPARED_WAITS

class Poll:
    is_idle = is_over = False

registry, kept, counts = PollRegistry(), [], []
with ExitStack() as waits:
    for _ in range(SPARED_WAITS + 1):
        kept.append([])
        waits.enter_context(registry.poll(PollKey("s", "{}"), Poll))
        counts.append(gc.get_freeze_count())
print("\\n" + json.dumps([counts[0], counts[-2], counts[-1]]))
"""


def frozen(program: str = WAITING, **env: str) -> list[int]:
    """Return how many objects are frozen at the first wait, and with each of two clients."""
    done = subprocess.run(
        [sys.executable, "-c", program],
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


def test_more_waits_than_ever_are_frozen_too() -> None:
    first, before, after = frozen(MANY_WAITS)
    assert before <= first
    assert after > before + 500  # at least the lists


def test_models_are_those_that_botocore_reads() -> None:
    ours, theirs = Loader(file_loader=ModelLoader()), Loader(file_loader=JSONFileLoader())
    for service in ("sagemaker", "personalize", "greengrassv2"):
        found, expected = (each.load_service_model(service, "service-2") for each in (ours, theirs))
        assert json.dumps(found) == json.dumps(expected)  # in the same order
    assert ModelLoader().load_file("/none") is None


@pytest.mark.parametrize("setting", ["False", "false"])
def test_nothing_is_frozen_where_that_is_switched_off(setting: str) -> None:
    assert frozen(AIRFLOW__MODEL_DELIVERY__FREEZE_HEAP=setting) == [0, 0, 0]
