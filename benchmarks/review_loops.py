"""One task starts 10,000 human loops and waits for them; localcloud on SQLite, real boto3."""

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from model_delivery.aws import open_hook
from model_delivery.hooks.human_review import HumanLoops
from model_delivery.human_loops.batch import LoopBatch
from model_delivery.human_loops.polls import FlowPoll
from model_delivery.human_loops.watch import PAGE
from model_delivery.human_loops.worker import HumanLoopWorker, LoopInput
from model_delivery.jobs.paced_client import PacedClient
from model_delivery.jobs.rate import TokenBucket
from model_delivery.jobs.waits import Bounds

from benchmarks.record import Measure, write
from stack.airflow import aws_connection
from stack.credentials import ACCOUNT, load_or_create
from stack.localcloud import LocalCloud
from stack.object_store import BUCKET, object_store
from stack.ports import free_ports
from stack.reviewers import TEAM_ARN, prepare_team

LOOPS = int(os.environ.get("REVIEW_LOOPS", 10_000))
GOAL_SECONDS = 60.0
SETTINGS = {
    "aws_conn_id": "aws_default", "region_name": None, "verify": None, "botocore_config": None,
}  # fmt: skip


class CountedClient:
    """Counts the calls of a triggerer's client by operation."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        return getattr(self._client, name)


def _flow() -> str:
    client = open_hook("model_delivery.hooks.human_review.HumanReviewHook", SETTINGS).client
    ui = client.create_human_task_ui(
        HumanTaskUiName="bench",
        UiTemplate={"Content": "<crowd-form><crowd-input name='text'></crowd-input></crowd-form>"},
    )["HumanTaskUiArn"]
    arn = client.create_flow_definition(
        FlowDefinitionName="bench",
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/bench",
        HumanLoopConfig={"WorkteamArn": TEAM_ARN, "HumanTaskUiArn": ui, "TaskTitle": "bench",
                         "TaskDescription": "bench", "TaskCount": 1},
        OutputConfig={"S3OutputPath": f"s3://{BUCKET}/bench"},
    )["FlowDefinitionArn"]  # fmt: skip
    while client.describe_flow_definition(FlowDefinitionName="bench")["FlowDefinitionStatus"] != (
        "Active"
    ):
        time.sleep(0.1)
    return str(arn)


def _start(worker: HumanLoopWorker, flow: str) -> float:
    inputs = (LoopInput(str(n), json.dumps({"item": n, "confidence": 0.5})) for n in range(LOOPS))
    started = time.monotonic()
    count = sum(1 for _ in worker.start(flow, "bench-0000000000", inputs, {}))
    assert count == LOOPS
    return time.monotonic() - started


async def _calls_per_look(batch: LoopBatch) -> dict[str, int]:
    """Return the calls of one look at a batch that is open throughout."""
    from model_delivery.aws import service_client

    hook = open_hook(HumanLoops.hook_path, SETTINGS)
    async with service_client(hook, deferrable=True) as client:
        counted = CountedClient(client)

        class Leased:
            async def __aenter__(self) -> PacedClient:
                return paced

            async def __aexit__(self, *_error: object) -> None:
                return None

        paced = PacedClient(HumanLoops(), counted, TokenBucket(1000.0))
        lease: Any = Leased
        poll = FlowPoll(batch.flow_definition_arn, lease, frozenset())
        waiting = asyncio.create_task(poll.wait(batch, Bounds(3600.0, 3600.0, 60.0)))
        before = -1
        while sum(counted.calls.values()) != before:
            before = sum(counted.calls.values())
            await asyncio.sleep(2.0)
        waiting.cancel()
        poll.close()
        await asyncio.sleep(0.1)
        return counted.calls


def main() -> Path:
    """Start the stack's parts, the loops, and one look; stop everything."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        credentials = load_or_create(home / "secrets.json")
        store_port, cloud_port = free_ports(2)
        cloud = LocalCloud(home / "localcloud", credentials, cloud_port, store_port)
        with object_store(home / "store", credentials, store_port):
            cloud.prepare()
            with cloud.api(), cloud.worker():
                os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(
                    aws_connection(credentials, cloud.url, f"http://127.0.0.1:{store_port}")
                )
                prepare_team(cloud, credentials)
                flow = _flow()
                worker = HumanLoopWorker(lambda: open_hook(HumanLoops.hook_path, SETTINGS))
                seconds = _start(worker, flow)
                batch = LoopBatch(flow, "bench-0000000000", LOOPS)
                since = worker.created_after(batch)
                calls = asyncio.run(
                    _calls_per_look(LoopBatch(flow, batch.prefix, LOOPS, (), since))
                )
    pages = -(-LOOPS // PAGE)
    listed = calls.get("list_human_loops", 0)
    return write(
        "review_loops",
        [
            Measure(
                what=f"starting {LOOPS} human loops from one task", unit="s", better="lower",
                ours=seconds, peer=None, peer_name=None, limit=None, limit_name=None,
                goal=f"<= {GOAL_SECONDS:.0f} s for 10,000", rounds=1, spread=(seconds, seconds),
                note="no peer or limit: the service's own writes are in it",
                passed=seconds <= GOAL_SECONDS,
            ),
            Measure(
                what=f"list calls of one look at {LOOPS} open loops", unit="calls",
                better="lower", ours=listed, peer=None, peer_name=None, limit=pages,
                limit_name="open loops / page", goal="<= open loops / page", rounds=1,
                spread=(listed, listed), passed=listed <= pages,
                note=f"all calls: {calls}",
            ),
        ],
        ["apache-airflow", "boto3"],
    )  # fmt: skip
