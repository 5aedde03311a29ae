"""Reviews killed at random: answers lost, and answers counted twice.

Method. A real localcloud over SQLite and a real object store. Each of RUNS runs starts LOOPS human
loops of two answers each and lets REVIEWERS reviewers answer them over HTTP. A seeded generator
gives each run one to three SIGKILLs of the API process, at times over the run's life; a killed API
is started again at once, on the same port. In one run of three the worker process, which writes the
outputs, is killed as well. Whoever gets no answer from a killed server sends the same answer again
when it is back, as the portal's page does.

A reviewer remembers each answer that the server has acknowledged. At the end each loop has to be
Completed, and its output object, read from the store, is held against what was acknowledged:
- lost: acknowledged answers that are not in the output;
- twice: answers beyond one of a reviewer, or beyond two of a loop, in the output or the database;
- changed: outputs in which a reviewer's answer is another than the one acknowledged.

The plan of kills follows from the seed alone; which instruction a SIGKILL meets does not.

`REVIEW_CHAOS_RUNS`, `REVIEW_CHAOS_SEED` change the size and the seed.
"""

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.human_loops import SUBMITTED
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop
from model_delivery_localcloud.store.users import Role, add_user
from sqlalchemy import func, select

from benchmarks.record import Measure, write
from stack.credentials import load_or_create
from stack.localcloud import LocalCloud
from stack.object_store import object_store
from stack.ports import free_ports
from stack.processes import Process
from stack.review_desk import Reviewer
from tests.contract.review_world import PASSWORD, Flow, make_flow
from tests.local_cloud import Cloud, Store

RUNS = int(os.environ.get("REVIEW_CHAOS_RUNS", "200"))
SEED = int(os.environ.get("REVIEW_CHAOS_SEED", "20260101"))
LOOPS = 12
REVIEWERS = 3
LIFE_SECONDS = 1.2
# Several times the claim of a worker that was killed while it wrote outputs (10 s).
RUN_SECONDS = 60.0
WORKER_SHARE = 1 / 3
PACKAGES = ["sqlalchemy", "starlette", "uvicorn"]


@dataclass
class Plan:
    """When the API is killed, in seconds after the reviewers begin, and whether the worker is."""

    kills: list[float]
    worker: bool


@dataclass
class Tally:
    """What was found over all runs."""

    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    changed: int = 0
    kills: int = 0
    sent_again: int = 0
    unfinished: int = 0
    faults: list[str] = field(default_factory=list)


class Person:
    """A reviewer who sends an answer again until it is acknowledged."""

    def __init__(self, url: str, flow: str, name: str, seed: int) -> None:
        self._reviewer = Reviewer(url, name, PASSWORD)
        self._flow = flow
        self._random = random.Random(seed)
        self.acknowledged: dict[int, str] = {}
        self.sent_again = 0
        self.refused: str | None = None

    def work(self, over: threading.Event) -> None:
        """Answer until nothing is left; keep why not, where the portal refuses."""
        try:
            self._answer(over)
        except AssertionError as error:
            self.refused = str(error)
        finally:
            self._reviewer.http.close()

    def _answer(self, over: threading.Event) -> None:
        while not over.is_set():
            items = self._call("next", {}, over).get("items", [])
            if not items:
                time.sleep(0.05)
            for item in items:
                label = str(self._random.randrange(10))
                body = {"loop": item["loop"], "answer": {"digit": {"label": label}}}
                if self._call("answer", body, over) is not None and not over.is_set():
                    self.acknowledged[item["loop"]] = label

    def _call(self, name: str, body: dict[str, Any], over: threading.Event) -> dict[str, Any]:
        while not over.is_set():
            try:
                answer = self._reviewer.post(self._flow, name, **body)
            except httpx.HTTPError:
                self.sent_again += 1
                time.sleep(0.02)
                continue
            if answer.status_code == 200:
                return dict(answer.json())
            raise AssertionError(f"{name}: {answer.status_code} {answer.text}")
        return {}


def main() -> Path:
    """Run all runs and write the figures."""
    generator = random.Random(SEED)
    tally = Tally()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="review-chaos-")))
        port, store_port = free_ports(2)
        store = Store(store_port, load_or_create(home / "secrets.json"))
        stack.enter_context(object_store(home, store.credentials, store_port))
        local = LocalCloud(home / "localcloud", store.credentials, port, store_port)
        local.env["LOCALCLOUD_REVIEW_UNDO_SECONDS"] = "0"
        local.prepare()
        parts = {"api": local.api(), "worker": local.worker("--concurrency", "1")}
        stack.callback(lambda: [part.stop() for part in parts.values()])
        for part in parts.values():
            part.start()
        parts["api"].wait_healthy(30)
        cloud = Cloud(local, store)
        flow = make_flow(cloud, config={"TaskCount": 2})
        database = Database(f"sqlite:///{local.home / 'localcloud.db'}")
        with database.write() as session:
            for number in range(REVIEWERS):
                add_user(session, f"person-{number}", PASSWORD, Role.REVIEWER, [flow.group])
        for number in range(RUNS):
            kills = sorted(
                generator.uniform(0, LIFE_SECONDS) for _ in range(generator.randint(1, 3))
            )
            plan = Plan(kills, generator.random() < WORKER_SHARE)
            _run(number, plan, parts, flow, database, tally)
            if (number + 1) % 20 == 0:
                print(f"run {number + 1}: {tally}", file=sys.stderr)
    return write("review_chaos", _measures(tally), PACKAGES)


def _run(
    number: int,
    plan: Plan,
    parts: dict[str, Process],
    flow: Flow,
    database: Database,
    tally: Tally,
) -> None:
    names = [flow.start(f"run-{number}-{each}", number=each) for each in range(LOOPS)]
    people = [
        Person(flow.cloud.url, flow.id, f"person-{each}", SEED + number * 10 + each)
        for each in range(REVIEWERS)
    ]
    over = threading.Event()
    threads = [threading.Thread(target=person.work, args=(over,)) for person in people]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for at in plan.kills:
        time.sleep(max(0.0, began + at - time.monotonic()))
        _kill(parts["api"])
        if plan.worker:
            _kill(parts["worker"])
        parts["api"].wait_healthy(30)
        tally.kills += 1 + plan.worker
    tally.unfinished += not _completed(database, names, began + RUN_SECONDS)
    over.set()
    for thread in threads:
        thread.join()
    tally.sent_again += sum(person.sent_again for person in people)
    tally.faults += [f"run {number}: {each.refused}" for each in people if each.refused]
    _compare(names, people, flow, database, tally)


def _kill(part: Process) -> None:
    part.kill()
    part.start()


def _completed(database: Database, names: list[str], until: float) -> bool:
    waiting = select(func.count()).where(HumanLoop.name.in_(names), HumanLoop.phase != "done")
    while time.monotonic() < until:
        with database.read() as session:
            if not session.scalar(waiting):
                return True
        time.sleep(0.05)
    return False


def _compare(
    names: list[str], people: list[Person], flow: Flow, database: Database, tally: Tally
) -> None:
    with database.read() as session:
        loops = list(session.scalars(select(HumanLoop).where(HumanLoop.name.in_(names))))
        rows = Counter(
            session.scalars(
                select(Assignment.loop_id).where(
                    Assignment.loop_id.in_([loop.id for loop in loops]),
                    Assignment.state == SUBMITTED,
                )
            )
        )
    for loop in loops:
        output = flow.output(loop.name)["humanAnswers"]
        written = {
            each["workerMetadata"]["identityData"]["sub"]: each["answerContent"]["digit"]["label"]
            for each in output
        }
        tally.twice += max(0, len(output) - len(written)) + max(0, len(output) - 2)
        tally.twice += max(0, rows[loop.id] - 2) + max(0, loop.answers - rows[loop.id])
        for number, person in enumerate(people):
            label = person.acknowledged.get(loop.id)
            if label is None:
                continue
            tally.acknowledged += 1
            found = written.get(f"person-{number}")
            tally.lost += found is None
            tally.changed += found is not None and found != label
            if found != label:
                tally.faults.append(f"{loop.name}: person-{number} {label} is {found}")


def _measures(tally: Tally) -> list[Measure]:
    note = json.dumps(
        {"acknowledged": tally.acknowledged, "kills": tally.kills, "sent again": tally.sent_again,
         "runs": RUNS, "seed": SEED, "faults": tally.faults[:5]}
    )  # fmt: skip
    found = {
        "acknowledged answers that are not in the output": tally.lost,
        "answers counted twice": tally.twice,
        "outputs with another answer than the one acknowledged": tally.changed,
        "runs with a loop that was not completed": tally.unfinished,
    }
    return [
        Measure(
            what=what, unit="of all runs", better="lower", ours=count, peer=None, peer_name=None,
            limit=0, limit_name="none", goal=f"0 in {RUNS} runs", rounds=1, spread=(count, count),
            note=note, passed=count == 0,
        )
        for what, count in found.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
