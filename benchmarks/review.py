"""Human review at size: how fast a queue of 100,000 loops gives the next item.

Method. A real localcloud (API and worker) over SQLite, then over Postgres, with a flow definition
of two answers a loop and LOOPS open loops of random confidence in one queue, written into the
tables as StartHumanLoop writes them. PEOPLE signed-in reviewers in a process of their own post
answers; each answer brings the next item, least certain first, and the time of that call is what
counts. First they answer at RATE a second together, as people do who think a while: the 99th
percentile is of these calls, after WARM seconds of the same that do not count. Then they answer as
fast as they can: the throughput. One process serves all of it, on the machine that the clients run
on too; how uneven that machine is by itself is taken before each round and noted.

`REVIEW_LOOPS`, `REVIEW_SECONDS` change the sizes, `REVIEW_ROUNDS` the rounds, `REVIEW_DATABASES`
which of them. Starting loops and waiting for them: `review_loops`; conditions: `review_conditions`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from model_delivery_localcloud.review.facts import digest_of
from model_delivery_localcloud.store import human_loops, review_resources
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.review_tables import FlowDefinition, HumanLoop, HumanLoopInput
from model_delivery_localcloud.store.users import Role, add_user
from sqlalchemy import insert, select

from benchmarks.record import Measure, median_and_spread, unsteadiness, write
from stack.review_desk import Reviewer
from tests.contract.review_world import LABELS, PASSWORD, Flow, make_flow
from tests.local_cloud import Cloud, cloud_over
from tests.postgres import installed

LOOPS = int(os.environ.get("REVIEW_LOOPS", "100000"))
SECONDS = float(os.environ.get("REVIEW_SECONDS", "20"))
ROUNDS = int(os.environ.get("REVIEW_ROUNDS", "3"))
DATABASES = os.environ.get("REVIEW_DATABASES", "SQLite,Postgres" if installed() else "SQLite")
WARM = 3.0
PEOPLE = 50
RATE = 210.0
CHUNK = 5_000
PACKAGES = ["sqlalchemy", "starlette", "uvicorn", "psycopg", "python-liquid", "boto3"]


@dataclass
class Round:
    """What one round of answering measured."""

    p99_ms: float
    paced: float
    most: float
    uneven: float


def main() -> Path:
    """Measure all of it and write the figures."""
    measures = []
    for name in DATABASES.split(","):
        with started_over(name) as (cloud, database):
            measures += _answering_measures(name, answering(cloud, database))
    return write("review", measures, PACKAGES)


@contextmanager
def started_over(name: str) -> Iterator[tuple[Cloud, Database]]:
    """Start localcloud over a new database of that kind."""
    with cloud_over(name) as (cloud, url):
        cloud.local.prepare()
        with cloud.local.api(), cloud.local.worker("--concurrency", "1"):
            yield cloud, Database(url)


def answering(cloud: Cloud, database: Database) -> list[Round]:
    """Fill the queue and let the reviewers work, in rounds."""
    flow = make_flow(cloud, config={"TaskCount": 2})
    fill(database, flow)
    people = sign_in(cloud, database, flow)
    plan = {"url": cloud.url, "flow": flow.id, "people": people, "seconds": SECONDS, "warm": WARM}
    rounds = []
    for _ in range(ROUNDS):
        uneven = unsteadiness()
        paced = _reviewers({**plan, "rate": RATE})
        flat = _reviewers({**plan, "rate": 0, "seconds": SECONDS / 2})
        p99 = statistics.quantiles(paced["times"], n=100)[98] * 1000
        rounds.append(
            Round(
                p99,
                len(paced["times"]) / paced["seconds"],
                len(flat["times"]) / flat["seconds"],
                uneven,
            )
        )
    return rounds


def fill(database: Database, flow: Flow) -> None:
    """Write LOOPS open loops into the flow definition's queue."""
    random = np.random.default_rng(7)
    confidences = random.random(LOOPS).round(4).tolist()
    now = time.time_ns() // 1_000_000
    later = now + 10 * 86_400_000
    with database.read() as session:
        found = session.scalars(
            select(FlowDefinition).where(FlowDefinition.name == flow.name)
        ).one()
    assert found.status == review_resources.ACTIVE
    for start in range(0, LOOPS, CHUNK):
        rows, inputs = [], []
        for number in range(start, min(start + CHUNK, LOOPS)):
            content = json.dumps(
                {"taskObject": "s3://bench/digit.png", "labels": LABELS, "initialValue": "7",
                 "confidence": confidences[number], "number": number}
            )  # fmt: skip
            rows.append({
                "id": number + 1, "account": found.account, "region": found.region,
                "name": f"loop-{number}", "flow_id": found.id, "flow_name": found.name,
                "status": human_loops.IN_PROGRESS, "phase": human_loops.OPEN, "queue": found.id,
                "priority": confidences[number], "task_count": 2, "free_slots": 2, "answers": 0,
                "input_digest": digest_of(content), "model_label": "7",
                "confidence": confidences[number], "created_at": now + number,
                "modified_at": now, "expires_at": later, "due_at": later, "attempts": 0,
                "output_uri": "", "failure_code": "", "failure_reason": "",
            })  # fmt: skip
            inputs.append({"loop_id": number + 1, "content": content, "attributes": {}})
        with database.write() as session:
            session.execute(insert(HumanLoop), rows)
            session.execute(insert(HumanLoopInput), inputs)


def sign_in(cloud: Cloud, database: Database, flow: Flow) -> list[dict[str, str]]:
    """Add PEOPLE reviewers and sign them in."""
    names = [f"reviewer-{number}" for number in range(PEOPLE)]
    with database.write() as session:
        for name in names:
            add_user(session, name, PASSWORD, Role.REVIEWER, [flow.group])
    people = []
    for name in names:
        with Reviewer(cloud.url, name, PASSWORD) as person:
            cookie = "; ".join(f"{key}={value}" for key, value in person.http.cookies.items())
            people.append({"cookie": cookie, "csrf": person.csrf})
    return people


def _reviewers(plan: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(plan))
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.review_reviewers", file.name],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    found = dict(json.loads(done.stdout))
    assert not found["problems"], found["problems"][:3]
    return found


def _answering_measures(name: str, rounds: list[Round]) -> list[Measure]:
    p99, p99_spread = median_and_spread([each.p99_ms for each in rounds])
    paced, paced_spread = median_and_spread([each.paced for each in rounds])
    most, most_spread = median_and_spread([each.most for each in rounds])
    note = (
        "no peer starts and awaits such loops; Augmented AI takes no new customers. In each round: "
        + "; ".join(
            f"{each.p99_ms:.0f} ms on a machine whose own times vary by {each.uneven:.1f}"
            for each in rounds
        )
    )
    common = {
        "peer": None, "peer_name": None, "limit": None, "limit_name": None, "rounds": len(rounds),
        "note": note,
    }  # fmt: skip
    return [
        Measure(
            what=f"{name}: next item, 99th percentile, {PEOPLE} reviewers at {RATE:.0f} answers/s",
            unit="ms", better="lower", ours=p99, spread=p99_spread, goal="≤ 100 ms",
            passed=p99 <= 100, **common,
        ),
        Measure(
            what=f"{name}: answers taken while it was measured", unit="answers/s",
            better="higher", ours=paced, spread=paced_spread, goal="≥ 200 answers/s",
            passed=paced >= 200, **common,
        ),
        Measure(
            what=f"{name}: answers as fast as they come", unit="answers/s", better="higher",
            ours=most, spread=most_spread, goal="≥ 200 answers/s", passed=most >= 200, **common,
        ),
    ]  # fmt: skip
