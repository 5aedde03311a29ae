"""Reviewers who answer, skip, take back and recall while what serves them is killed.

What they do is what the portal's page does: an answer and a skip bring the next item with them, and
whoever gets no answer from a killed server sends the same again. But for an undo: a second one
would take back another answer, so they look what they hold.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from model_delivery_localcloud.store.database import Database
from model_delivery_localcloud.store.human_loops import SUBMITTED
from model_delivery_localcloud.store.review_tables import Assignment, HumanLoop
from model_delivery_localcloud.store.users import Role, add_user
from sqlalchemy import func, select

from stack.processes import Process
from stack.review_desk import Reviewer
from tests.contract.review_world import PASSWORD, Flow, make_flow
from tests.local_cloud import cloud_over

LOOPS = 12
REVIEWERS = 3
LIFE_SECONDS = 1.2
# Several times the claim of a worker that was killed while it wrote outputs (10 s).
RUN_SECONDS = 60.0
WORKER_SHARE = 1 / 3
# Of all that a reviewer does; the rest are answers.
SKIPS = 0.15
UNDOS = 0.15
CONFLICT = 409


@dataclass(frozen=True)
class Plan:
    """When the API is killed, in seconds after the reviewers begin, and whether the worker is."""

    kills: list[float]
    worker: bool


def plan_of(generator: random.Random) -> Plan:
    """Draw a run's kills: one to three."""
    kills = sorted(generator.uniform(0, LIFE_SECONDS) for _ in range(generator.randint(1, 3)))
    return Plan(kills, generator.random() < WORKER_SHARE)


@dataclass
class Tally:
    """What was found over all runs; `done` counts what reviewers did and were told of."""

    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    changed: int = 0
    kills: int = 0
    sent_again: int = 0
    unfinished: int = 0
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Person:
    """A reviewer. What they were told is kept: the newest answer last.

    `perhaps` are answers that an undo may have taken back, whose own answer was lost.
    """

    def __init__(self, url: str, flow: str, name: str, seed: int) -> None:
        self._reviewer = Reviewer(url, name, PASSWORD)
        self._flow = flow
        self._random = random.Random(seed)
        self.name = name
        self.acknowledged: dict[int, str] = {}
        self.perhaps: dict[int, str] = {}
        self.done: Counter[str] = Counter()
        self.sent_again = 0
        self.refused: str | None = None

    def work(self, over: threading.Event) -> None:
        """Review until all is over; keep why not, where the portal refuses."""
        try:
            self._review(over)
        except AssertionError as error:
            self.refused = str(error)
        finally:
            self._reviewer.http.close()

    def _review(self, over: threading.Event) -> None:
        item = _first(self._call("next", {}, over))
        while not over.is_set():
            chance = self._random.random()
            if item is None:
                time.sleep(0.05)
                self._call("recall", {}, over)
                item = _first(self._call("next", {}, over))
            elif chance < SKIPS:
                item = _first(self._call("skip", {"loop": item, "next": True}, over))
            elif chance < SKIPS + UNDOS and self.acknowledged:
                item = self._undo(item, over)
            else:
                item = self._answer(item, over)

    def _answer(self, item: int, over: threading.Event) -> int | None:
        label = str(self._random.randrange(10))
        body = {"loop": item, "answer": {"digit": {"label": label}}, "next": True}
        answer = self._call("answer", body, over)
        if answer is not None:
            self.perhaps.pop(item, None)
            self.acknowledged[item] = label
        return _first(answer)

    def _undo(self, item: int, over: threading.Event) -> int | None:
        newest = next(reversed(self.acknowledged))
        try:
            answer = self._reviewer.post(self._flow, "undo")
        except httpx.HTTPError:
            self.perhaps[newest] = self.acknowledged.pop(newest)
            return _first(self._call("next", {}, over))
        if answer.status_code == CONFLICT:  # its output is written already
            return item
        back = _first(self._told("undo", answer))
        assert back is not None
        for known in (self.acknowledged, self.perhaps):
            known.pop(back, None)
        self._call("release", {"loops": [item]}, over)
        return back

    def _call(
        self, name: str, body: dict[str, Any], over: threading.Event
    ) -> dict[str, Any] | None:
        """Call until there is an answer; None where all was over before."""
        while not over.is_set():
            try:
                answer = self._reviewer.post(self._flow, name, **body)
            except httpx.HTTPError:
                self.sent_again += 1
                time.sleep(0.02)
            else:
                return self._told(name, answer)
        return None

    def _told(self, name: str, answer: httpx.Response) -> dict[str, Any]:
        assert answer.is_success, f"{name}: {answer.status_code} {answer.text}"
        self.done[name] += 1
        return dict(answer.json())


def _first(answer: dict[str, Any] | None) -> int | None:
    """Return the first item of an answer, None where there is none."""
    items = answer["items"] if answer else []
    return int(items[0]["loop"]) if items else None


class Chaos:
    """A localcloud whose processes are killed, and its reviewers."""

    def __init__(self, parts: dict[str, Process], flow: Flow, database: Database) -> None:
        self._parts = parts
        self._flow = flow
        self._database = database
        self.tally = Tally()

    def run(self, number: int, plan: Plan, seed: int) -> None:
        """Start loops, have them reviewed with kills in between, and count what came of it."""
        flow, tally = self._flow, self.tally
        names = [flow.start(f"run-{number}-{each}", number=each) for each in range(LOOPS)]
        people = [
            Person(flow.cloud.url, flow.id, f"person-{each}", seed + number * 10 + each)
            for each in range(REVIEWERS)
        ]
        over = threading.Event()
        threads = [threading.Thread(target=person.work, args=(over,)) for person in people]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for at in plan.kills:
            time.sleep(max(0.0, began + at - time.monotonic()))
            for name in ("api", *(["worker"] if plan.worker else [])):
                self._parts[name].kill()
                self._parts[name].start()
                tally.kills += 1
            self._parts["api"].wait_healthy(30)
        tally.unfinished += not self._completed(names, began + RUN_SECONDS)
        over.set()
        for thread in threads:
            thread.join()
        for person in people:
            tally.sent_again += person.sent_again
            tally.done += person.done
            if person.refused:
                tally.faults.append(f"run {number}: {person.refused}")
        self._compare(names, people)

    def _completed(self, names: list[str], until: float) -> bool:
        waiting = select(func.count()).where(HumanLoop.name.in_(names), HumanLoop.phase != "done")
        while time.monotonic() < until:
            with self._database.read() as session:
                if not session.scalar(waiting):
                    return True
            time.sleep(0.05)
        return False

    def _compare(self, names: list[str], people: list[Person]) -> None:
        tally = self.tally
        with self._database.read() as session:
            loops = list(session.scalars(select(HumanLoop).where(HumanLoop.name.in_(names))))
            numbers = [loop.id for loop in loops]
            answered = select(Assignment.loop_id).where(
                Assignment.loop_id.in_(numbers), Assignment.state == SUBMITTED
            )
            rows = Counter(session.scalars(answered))
        for loop in loops:
            if loop.phase != "done":
                continue  # counted as unfinished
            output = self._flow.output(loop.name)["humanAnswers"]
            written = {
                each["workerMetadata"]["identityData"]["sub"]: each["answerContent"]["digit"][
                    "label"
                ]
                for each in output
            }
            tally.twice += max(0, len(output) - len(written)) + max(0, len(output) - 2)
            tally.twice += max(0, rows[loop.id] - 2) + max(0, loop.answers - rows[loop.id])
            for person in people:
                found = written.get(person.name)
                if loop.id in person.acknowledged:
                    label = person.acknowledged[loop.id]
                    tally.acknowledged += 1
                    tally.lost += found is None
                else:
                    label = person.perhaps.get(loop.id)
                wrong = label is not None and found not in (None, label)
                tally.changed += wrong
                if wrong or (found is None and loop.id in person.acknowledged):
                    tally.faults.append(f"{loop.name}: {person.name} {label} is {found}")


@contextmanager
def chaos_over(database_name: str) -> Iterator[Chaos]:
    """Start localcloud over a new database, "SQLite" or "Postgres", with a flow and reviewers."""
    with ExitStack() as stack:
        cloud, url = stack.enter_context(cloud_over(database_name))
        local = cloud.local
        # Long enough for an undo of a loop's last answer, now and then.
        local.env["LOCALCLOUD_REVIEW_UNDO_SECONDS"] = "0.2"
        local.prepare()
        parts = {"api": local.api(), "worker": local.worker("--concurrency", "1")}
        stack.callback(lambda: [part.stop() for part in parts.values()])
        for part in parts.values():
            part.start()
        parts["api"].wait_healthy(30)
        flow = make_flow(cloud, config={"TaskCount": 2})
        database = Database(url)
        stack.callback(database.close)
        with database.write() as session:
            for number in range(REVIEWERS):
                add_user(session, f"person-{number}", PASSWORD, Role.REVIEWER, [flow.group])
        yield Chaos(parts, flow, database)
