"""Slots, leases and answers in the store, with the caller's own clock."""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from alembic import command
from model_delivery_localcloud.errors import NameTaken, ServiceError
from model_delivery_localcloud.portal import queue_sizes
from model_delivery_localcloud.portal.review_desk import Change, Desk, Refused
from model_delivery_localcloud.portal.review_lead import LeadPages
from model_delivery_localcloud.protocol.messages import Call, Caller
from model_delivery_localcloud.services.human_loops import HumanLoops
from model_delivery_localcloud.services.human_review import FlowDefinitions
from model_delivery_localcloud.services.review_names import FLOW_DEFINITION, arn_of
from model_delivery_localcloud.store import (
    human_loops,
    review_answers,
    review_completion,
    review_figures,
    review_heads,
    review_slots,
    review_turns,
)
from model_delivery_localcloud.store import review_queue as queue
from model_delivery_localcloud.store.database import Database, alembic_config
from model_delivery_localcloud.store.group_commit import GroupCommit
from model_delivery_localcloud.store.review_answers import Given, Taken
from model_delivery_localcloud.store.review_slots import Held, Lease
from model_delivery_localcloud.store.review_tables import (
    Assignment,
    FlowDefinition,
    HumanLoop,
    HumanLoopInput,
    WebhookEvent,
    WorkteamGroup,
)
from model_delivery_localcloud.store.review_turns import Turn, take_turns
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role, add_user, remove_user
from model_delivery_localcloud.workers.reviews import ReviewKeeper
from sqlalchemy import Select, Text, cast, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.postgres import new_database

FLOW = "f" * 32
NOON = 1_800_000_000_000
MINUTE = 60_000
LEASE = Lease(hold_ms=MINUTE, undo_ms=10_000)
SEVEN = {"digit": {"label": "7"}}
ONE = {"digit": {"label": "1"}}


@pytest.fixture(params=["SQLite", "Postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "SQLite":
        url = f"sqlite:///{tmp_path / 'store.db'}"
    else:
        url = new_database(request.getfixturevalue("cluster"))
    built = Database(url)
    built.migrate()
    with built.write() as session:
        session.add(
            FlowDefinition(
                account="0" * 12, region="eu-west-1", name="flow", id=FLOW, workteam="t",
                human_task_ui="u", status="Active", created_at=NOON,
                request={"OutputConfig": {"S3OutputPath": "s3://b/"},
                         "HumanLoopConfig": {"TaskCount": 2}},
            )
        )  # fmt: skip
    yield built
    built.close()


def add(database: Database, name: str, priority: float = 0.5, tasks: int = 1) -> int:
    with database.write() as session:
        loop = HumanLoop(
            account="0" * 12, region="eu-west-1", name=name, flow_id=FLOW, flow_name="flow",
            status="InProgress", phase="open", queue=FLOW, priority=priority, task_count=tasks,
            free_slots=tasks, input_digest="d", created_at=NOON, modified_at=NOON,
            expires_at=NOON + 60 * MINUTE, due_at=NOON + 60 * MINUTE,
        )  # fmt: skip
        human_loops.add_loop(session, loop, "{}", {})
        return loop.id


def turn(worker: str, given: Sequence[Given] = (), count: int = 0) -> Turn:
    return Turn(FLOW, worker, LEASE, given, count)


def take_turn(database: Database, it: Turn, now: int = NOON) -> list[Held] | Taken:
    with database.write() as session:
        return take_turns(session, [it], now)[0]


def take(database: Database, worker: str, now: int = NOON) -> list[str]:
    held = take_turn(database, turn(worker, count=1), now)
    assert not isinstance(held, Taken)
    return [each.name for each in held]


def submit(
    database: Database, loop: int, worker: str, answer: Any = SEVEN, now: int = NOON
) -> Taken | None:
    taken = take_turn(database, turn(worker, [Given(loop, answer, "7", 1_000)]), now)
    return taken if isinstance(taken, Taken) else None


def one(database: Database, loop: int) -> HumanLoop:
    with database.read() as session:
        return session.get_one(HumanLoop, loop)


def assignment(session: Session, loop: int, worker: str) -> Assignment:
    return session.get_one(Assignment, (loop, worker))


def test_the_least_certain_comes_first_and_a_reload_gives_the_same(database: Database) -> None:
    add(database, "sure", 0.9)
    add(database, "unsure", 0.1)
    assert take(database, "ana") == ["unsure"]
    assert take(database, "ana") == ["unsure"]
    assert take(database, "bob") == ["sure"]
    assert take(database, "cyd") == []


def test_an_export_comes_in_pages_between_which_nothing_is_open(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_figures, "EXPORT_AT_ONCE", 2)
    loops = [add(database, f"loop-{number}", tasks=2) for number in range(3)]
    for worker in ("ana", "bob"):
        take_turn(database, turn(worker, count=3))
        for loop in loops if worker == "ana" else loops[:2]:
            assert submit(database, loop, worker) is None
    pages = LeadPages(database, *[None] * 3)._pages(FLOW)  # type: ignore[arg-type]
    found = [[(each.loop, each.worker) for each in next(pages)]]
    # On SQLite a reader's transaction would keep the log from being written back.
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    found += [[(each.loop, each.worker) for each in page] for page in pages]
    assert found == [
        [("loop-0", "ana"), ("loop-0", "bob")], [("loop-1", "ana"), ("loop-1", "bob")],
        [("loop-2", "ana")],
    ]  # fmt: skip


def make_due(database: Database, loop: int) -> None:
    with database.write() as session:
        session.get_one(HumanLoop, loop).due_at = 0


def test_an_object_store_that_hangs_keeps_no_loop_from_its_end(database: Database) -> None:
    answered = add(database, "answered")
    take_turn(database, turn("ana", count=1))
    assert submit(database, answered, "ana") is None
    make_due(database, answered)
    writing, go_on = threading.Event(), threading.Event()

    def put(*_: Any) -> None:
        writing.set()
        go_on.wait(20)

    objects: Any = SimpleNamespace(put=put)
    settings: Any = SimpleNamespace(public_url="", webhook_url=None)
    with ReviewKeeper(database, objects, settings).running():
        try:
            assert writing.wait(10)
            waiting = add(database, "waiting")
            make_due(database, waiting)
            deadline = time.monotonic() + 5
            while one(database, waiting).status != "Failed":
                assert time.monotonic() < deadline, "the loop is open yet"
                time.sleep(0.05)
        finally:
            go_on.set()


def test_the_id_of_a_deleted_loop_is_not_used_again(database: Database) -> None:
    first = add(database, "first")
    with database.write() as session:
        human_loops.delete_loop(session, session.get_one(HumanLoop, first))
    assert add(database, "second") > first


def downgrade(database: Database, revision: str) -> None:
    with database.engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        if database.is_sqlite:
            connection.connection.execute("PRAGMA foreign_keys=OFF")
        command.downgrade(config, revision)
        connection.commit()
        if database.is_sqlite:
            connection.connection.execute("PRAGMA foreign_keys=ON")


def test_a_migration_counts_answers_that_were_taken_back_twice(database: Database) -> None:
    none, some, both = (add(database, name, tasks=2) for name in ("none", "some", "both"))
    for worker in ("ana", "bob"):
        take_turn(database, turn(worker, count=3))
        assert submit(database, both, worker) is None
    assert submit(database, some, "ana") is None
    downgrade(database, "0006")
    with database.write() as session:
        session.execute(text(f"UPDATE human_loops SET answers = -1 WHERE id IN ({none}, {some})"))
        session.execute(text(f"UPDATE human_loops SET answers = 0, phase = 'open', due_at = "
                             f"expires_at, answered_at = NULL WHERE id = {both}"))  # fmt: skip
    database.migrate()
    found = [one(database, loop) for loop in (none, some, both)]
    assert [(loop.answers, loop.phase) for loop in found] == [
        (0, "open"), (1, "open"), (2, "answered"),
    ]  # fmt: skip
    with database.write() as session:
        (claimed,) = review_completion.claim_finished(session, NOON, 10)
    assert claimed.id == both
    with database.write() as session:
        human_loops.delete_loop(session, session.get_one(HumanLoop, both))
    assert add(database, "next") > both


def test_a_migration_keeps_loops_with_their_inputs_and_answers(tmp_path: Path) -> None:
    built = Database(f"sqlite:///{tmp_path / 'store.db'}")
    built.migrate()
    loop = add(built, "one")
    assert take(built, "ana") == ["one"]
    downgrade(built, "0003")
    built.migrate()
    with built.read() as session:
        assert assignment(session, loop, "ana").state == "working"
        assert session.get_one(HumanLoopInput, loop).content == "{}"
        assert session.scalars(text("PRAGMA foreign_keys")).one() == 1
        assert session.execute(text("PRAGMA foreign_key_check")).all() == []
    built.close()


def test_a_lapsed_slot_is_free_again_and_its_draft_is_kept(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    with database.write() as session:
        assert queue.save_draft(session, loop, "ana", SEVEN)
    assert take(database, "bob", NOON + MINUTE - 1) == []
    assert take(database, "bob", NOON + MINUTE) == ["one"]
    with database.read() as session:
        mine = assignment(session, loop, "ana")
        assert (mine.state, mine.draft) == ("lapsed", SEVEN)


def test_an_answer_after_its_lease_counts_while_the_slot_is_free(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    late = NOON + 10 * MINUTE
    with database.write() as session:
        assert queue.free_lapsed(session, late) == 1
    assert one(database, loop).free_slots == 1
    assert not isinstance(submit(database, loop, "ana", now=late), Taken)
    assert one(database, loop).phase == "answered"


def test_an_answer_after_its_lease_is_refused_once_the_slot_is_taken(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    assert take(database, "bob", NOON + MINUTE) == ["one"]
    assert submit(database, loop, "ana", now=NOON + MINUTE) is Taken.NO_SLOT
    assert not isinstance(submit(database, loop, "bob", ONE, NOON + MINUTE), Taken)
    assert one(database, loop).answers == 1


def test_the_same_answer_twice_counts_once(database: Database) -> None:
    loop = add(database, "one", tasks=2)
    take(database, "ana")
    for _ in range(2):
        assert not isinstance(submit(database, loop, "ana"), Taken)
    assert submit(database, loop, "ana", ONE) is Taken.ANSWERED_ALREADY
    assert one(database, loop).answers == 1


def test_undo_opens_a_loop_again_until_its_output_is_being_written(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    submit(database, loop, "ana")
    with database.write() as session:
        assert review_completion.claim_finished(session, NOON + 9_999, 10) == []
        assert not isinstance(queue.undo(session, loop, "ana", NOON, LEASE), Taken)
        assert assignment(session, loop, "ana").draft == SEVEN
    assert one(database, loop).phase == "open"
    submit(database, loop, "ana", ONE)
    with database.write() as session:
        (claimed,) = review_completion.claim_finished(session, NOON + 10_000, 10)
        assert assignment(session, claimed.id, "ana").answer == ONE
    with database.write() as session:
        assert queue.undo(session, loop, "ana", NOON, LEASE) is Taken.CLOSED


def test_an_undo_at_the_end_of_the_availability_loses_no_answer(database: Database) -> None:
    end = NOON + 60 * MINUTE
    late, close = add(database, "late", tasks=2), add(database, "close", tasks=2)
    for loop in (late, close):
        for who in ("ana", "bob"):
            take(database, who, end - 3000)
            assert submit(database, loop, who, now=end - 2000) is None
    with database.write() as session:
        assert queue.undo(session, late, "bob", end + 1, LEASE) is Taken.CLOSED
        assert not isinstance(queue.undo(session, close, "bob", end - 1000, LEASE), Taken)
        assert review_completion.expire_due(session, end + 5000, 10) == 0
    assert submit(database, close, "bob", ONE, now=end + 6000) is None
    with database.write() as session:
        done = review_completion.claim_finished(session, end + 60_000, 10)
        assert {each.id for each in done} == {late, close}


def test_a_clock_that_goes_back_makes_no_time_negative(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    submit(database, loop, "ana", now=NOON - 60 * MINUTE)
    with database.read() as session:
        mine = assignment(session, loop, "ana")
        assert mine.submitted_at == mine.accepted_at == NOON
        assert mine.spent_ms == 0
        assert session.get_one(HumanLoop, loop).modified_at == NOON


def test_a_clock_that_jumps_ahead_takes_no_answer_away(database: Database) -> None:
    loop = add(database, "one", tasks=2)
    take(database, "ana")
    ahead = NOON + 24 * 60 * MINUTE
    with database.write() as session:
        queue.free_lapsed(session, ahead)
    # Set right again: the reviewer never noticed.
    assert not isinstance(submit(database, loop, "ana", now=NOON + 1_000), Taken)
    found = one(database, loop)
    assert (found.answers, found.free_slots) == (1, 1)


def test_what_expires_keeps_its_answers_but_gets_none_by_default(database: Database) -> None:
    loop = add(database, "one", tasks=2)
    take(database, "ana")
    submit(database, loop, "ana")
    take(database, "bob")
    after = NOON + 60 * MINUTE
    with database.write() as session:
        assert review_completion.expire_due(session, after - 1, 10) == 0
        assert review_completion.expire_due(session, after, 10) == 1
    found = one(database, loop)
    assert (found.status, found.failure_code) == ("Failed", "Expired")
    assert "1 of 2 answers" in found.failure_reason
    assert submit(database, loop, "bob", now=after) is Taken.CLOSED
    with database.read() as session:
        assert session.scalars(select(WebhookEvent)).one().body["status"] == "Failed"


def test_the_database_itself_holds_slots_and_answers(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    refused = (
        f"UPDATE human_loops SET free_slots = -1 WHERE id = {loop}",
        f"UPDATE human_loops SET answers = 2 WHERE id = {loop}",
        f"UPDATE human_loops SET answers = -1 WHERE id = {loop}",
        f"INSERT INTO review_assignments (loop_id, worker, flow_id, state, accepted_at, spent_ms) "
        f"VALUES ({loop}, 'ana', '{FLOW}', 'answered', 0, 0)",
    )
    for statement in refused:
        with pytest.raises(IntegrityError), database.write() as session:
            session.execute(text(statement))


def test_a_loop_that_is_deleted_beside_its_stop_is_gone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, "one")
    loops, caller = HumanLoops(database), Caller("0" * 12, "eu-west-1", "key")
    find_loop = human_loops.find_loop

    def and_delete(session: Session, *given: Any) -> HumanLoop | None:
        found = find_loop(session, *given)
        session.execute(text("DELETE FROM human_loops"))
        return found

    monkeypatch.setattr(human_loops, "find_loop", and_delete)
    assert loops.stop(Call(caller, "StopHumanLoop", {"HumanLoopName": "one"})) == {}


def test_a_writer_that_was_slow_does_not_complete_twice(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    submit(database, loop, "ana")
    with database.write() as session:
        (slow,) = review_completion.claim_finished(session, NOON + 10_000, 10)
    later = NOON + 10_000 + review_completion.CLAIM_MS
    with database.write() as session:
        (quick,) = review_completion.claim_finished(session, later, 10)
    with database.write() as session:
        assert review_completion.still_claimed(session, [slow]) == {}
        (ours,) = review_completion.still_claimed(session, [quick]).values()
        review_completion.record_written(session, ours, "s3://b/quick", later)
    with database.write() as session:
        assert review_completion.still_claimed(session, [slow, quick]) == {}
    assert one(database, loop).output_uri == "s3://b/quick"


def test_undo_takes_back_the_newest_answer_though_the_clock_went_back(database: Database) -> None:
    loops = [add(database, name, number) for number, name in enumerate(("one", "two", "three"))]
    earlier = NOON - 60 * MINUTE
    for now in (NOON, earlier, earlier):
        (name,) = take(database, "ana", now)
        assert submit(database, loops[("one", "two", "three").index(name)], "ana", now=now) is None
    for loop in reversed(loops):
        with database.write() as session:
            newest = queue.last_submitted(session, FLOW, "ana")
            assert newest is not None
            assert newest.loop_id == loop
            assert isinstance(queue.undo(session, loop, "ana", earlier, LEASE), HumanLoop)
    assert submit(database, loops[1], "ana", now=NOON) is None
    assert submit(database, loops[0], "ana", now=earlier) is None
    with database.read() as session:
        newest = queue.last_submitted(session, FLOW, "ana")
        assert newest is not None
        assert newest.loop_id == loops[0]


@pytest.mark.parametrize("database", ["Postgres"], indirect=True)
def test_an_answer_that_two_servers_take_back_is_taken_back_once(database: Database) -> None:
    loop = add(database, "one", tasks=2)
    take(database, "ana")
    submit(database, loop, "ana")
    with database.write() as slow:
        last = queue.last_submitted(slow, FLOW, "ana")
        assert last is not None
        with database.write() as quick:
            assert isinstance(queue.undo(quick, loop, "ana", NOON, LEASE), HumanLoop)
        assert queue.undo(slow, last.loop_id, "ana", NOON, LEASE) is Taken.NOT_YOURS
    assert one(database, loop).answers == 0


@pytest.mark.parametrize("database", ["Postgres"], indirect=True)
@pytest.mark.parametrize("call", ["take", "let go", "draft"])
def test_what_another_server_answered_meanwhile_stays_an_answer(
    database: Database, call: str
) -> None:
    loop = add(database, "one", tasks=2)
    take(database, "ana")
    with database.write() as session:
        assert queue.let_go(session, FLOW, [loop], "ana") is None
    with database.write() as session:
        known = assignment(session, loop, "ana")  # as it is before the answer
        assert submit(database, loop, "ana") is None
        if call == "take":
            assert queue.take(session, FLOW, loop, "ana", NOON, LEASE) is Taken.ANSWERED_ALREADY
        elif call == "let go":
            assert queue.let_go(session, FLOW, [loop], "ana") is Taken.NOT_YOURS
        else:
            assert not queue.save_draft(session, loop, "ana", ONE)
        assert known.loop_id == loop
    found = one(database, loop)
    assert (found.answers, found.free_slots) == (1, 1)
    with database.read() as session:
        mine = assignment(session, loop, "ana")
    assert (mine.state, mine.draft, mine.answer) == ("answered", None, SEVEN)


@pytest.mark.parametrize("database", ["Postgres"], indirect=True)
def test_a_skipped_item_that_is_being_answered_is_not_recalled(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    with database.write() as session:
        assert queue.let_go(session, FLOW, [loop], "ana") is None

    def recall() -> int:
        with database.write() as session:
            return queue.recall_skipped(session, FLOW, "ana")

    with ThreadPoolExecutor() as beside:
        with database.write() as session:
            answer = turn("ana", [Given(loop, SEVEN, "7", 0)])
            assert take_turns(session, [answer], NOON) == [[]]
            recalled = beside.submit(recall)
            wait_for_a_waiting_lock(database)
        assert recalled.result() == 0
    with database.read() as session:
        assert assignment(session, loop, "ana").state == "answered"


@pytest.mark.parametrize("database", ["Postgres"], indirect=True)
def test_an_item_that_is_answered_during_the_walk_is_not_given_to_the_same_reviewer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk looks the reviewer's parts up as they were when it began."""
    loops = [add(database, name, number / 10, tasks=3) for number, name in enumerate("ab")]
    take(database, "ana")
    with database.write() as session:
        assert queue.let_go(session, FLOW, loops[:1], "ana", "lapsed") is None
    waits = select(cast(func.pg_advisory_xact_lock(7), Text)).scalar_subquery()
    monkeypatch.setattr(review_slots, "_NEXT", review_slots._NEXT.where(waits.is_not(None)))
    asker = review_slots.Asker(FLOW, "ana", LEASE, count=1)

    def walk() -> None:
        with database.write() as session:
            review_slots.give_next(session.connection(), FLOW, asker, NOON)

    with ThreadPoolExecutor() as beside:
        with database.write() as session:
            session.execute(select(func.pg_advisory_xact_lock(7)))
            walked = beside.submit(walk)
            wait_for_a_waiting_lock(database)
            assert submit(database, loops[0], "ana") is None
        walked.result()
    assert [held.loop for held in asker.held] == loops[1:]
    with database.read() as session:
        states = [assignment(session, loop, "ana").state for loop in loops]
    assert states == ["answered", "working"]
    assert [(one(database, loop).answers, one(database, loop).free_slots) for loop in loops] == [
        (1, 2), (0, 2),
    ]  # fmt: skip


def wait_for_a_waiting_lock(database: Database) -> None:
    """Return once a transaction of a Postgres database waits for another."""
    waiting = text("SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
                   "WHERE NOT granted AND datname = current_database()")  # fmt: skip
    for _ in range(1000):
        with database.read() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.01)
    raise AssertionError("nothing waits for a lock")


def test_reviewers_of_the_same_loops_answer_at_once(database: Database) -> None:
    """Two servers, whose transactions each hold several loops."""
    for number in range(40):
        add(database, f"loop-{number}", tasks=2)

    def together(session: Session, turns: Sequence[Turn]) -> Sequence[list[Held] | Taken]:
        return take_turns(session, turns, NOON)

    servers = GroupCommit(database, together), GroupCommit(database, together)

    def review(number: int) -> int:
        who, commits, given = f"person-{number}", servers[number % 2], 0

        def step(held: list[Held]) -> list[Held]:
            answers = [Given(each.loop, SEVEN, "7", 0) for each in held]
            return list(commits.run(turn(who, answers, count=2)))

        while held := step([]):
            given += len(held)
            while held := step(held):
                given += len(held)
        return given

    with ThreadPoolExecutor(6) as together:
        assert sum(together.map(review, range(6))) == 80
    with database.read() as session:
        assert {(each.phase, each.answers) for each in session.scalars(select(HumanLoop))} == {
            ("answered", 2)
        }


def team_of(database: Database, *names: str) -> dict[str, str]:
    """Add reviewers to the flow's team; return their ids as workers."""
    with database.write() as session:
        scope = {"account": "0" * 12, "region": "eu-west-1", "workteam": "t"}
        session.merge(WorkteamGroup(**scope, group_name="g"))
        for name in names:
            add_user(session, name, "correct-horse-battery", Role.REVIEWER, ["g"])
    with database.read() as session:
        return {user.name: user.worker_id for user in session.scalars(select(User))}


def test_a_new_person_is_not_given_what_a_removed_one_of_the_name_did(database: Database) -> None:
    team_of(database, "ana", "bob", "cyd")
    answered, held = add(database, "one"), add(database, "two", tasks=2)
    assert take(database, "ana") == ["one"]
    assert submit(database, answered, "ana") is None
    assert take(database, "bob") == ["two"]
    with database.write() as session:
        for name in ("ana", "bob", "cyd"):
            assert remove_user(session, name)
    for name in ("ana", "bob"):
        with (
            pytest.raises(NameTaken, match=f"'{name}' was somebody who is removed"),
            database.write() as session,
        ):
            add_user(session, name, "correct-horse-battery", Role.REVIEWER, ["g"])
    team_of(database, "cyd", "ana the second")
    with database.write() as session:
        for loop in (answered, held):
            human_loops.delete_loop(session, session.get_one(HumanLoop, loop))
    assert {"ana", "bob"} < team_of(database, "ana", "bob").keys()


def keep_from(database: Database, loop: int, workers: list[str]) -> bool:
    with database.write() as session:
        flow = session.scalars(select(FlowDefinition)).one()
        return queue.keep_from(session, session.get_one(HumanLoop, loop), flow, workers, NOON)


def test_who_answered_an_item_before_leaves_it_to_others(database: Database) -> None:
    ids = team_of(database, "ana", "bob", "cyd")
    loop = add(database, "again")
    assert keep_from(database, loop, [ids["ana"], ids["bob"], "gone"])
    assert take(database, "ana") == []
    with database.write() as session:
        free, flow = queue.open_loops(session, FLOW), session.scalars(select(FlowDefinition)).one()
        assert queue.counts(session, flow, "ana", free)["waiting"] == 0
        assert queue.counts(session, flow, "cyd", free)["waiting"] == 1
        assert queue.take(session, FLOW, loop, "ana", NOON, LEASE) is Taken.FOR_OTHERS
        assert queue.let_go(session, FLOW, [loop], "ana") is Taken.NOT_YOURS
        assert not queue.save_draft(session, loop, "ana", SEVEN)
    assert submit(database, loop, "bob") is Taken.FOR_OTHERS
    assert take(database, "cyd") == ["again"]
    assert submit(database, loop, "cyd") is None


def test_an_item_that_too_few_others_could_answer_goes_to_all(database: Database) -> None:
    ids = team_of(database, "ana", "bob", "cyd")
    loop = add(database, "again", tasks=2)
    assert not keep_from(database, loop, [ids["ana"], ids["bob"]])
    assert take(database, "ana") == ["again"]


def test_a_claim_is_kept_while_its_writer_is_at_work(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    submit(database, loop, "ana")
    now = NOON + 10_000
    with database.write() as session:
        claimed = review_completion.claim_finished(session, now, 10)
    for _ in range(3):
        now += review_completion.CLAIM_MS - 1
        with database.write() as session:
            assert review_completion.claim_finished(session, now, 10) == []
            assert review_completion.renew_claims(session, claimed, now) == 1
    now += review_completion.CLAIM_MS
    with database.write() as session:
        (other,) = review_completion.claim_finished(session, now, 10)
    with database.write() as session:
        assert review_completion.renew_claims(session, claimed, now) == 0
        assert list(review_completion.still_claimed(session, [other])) == [loop]


def test_an_output_that_cannot_be_written_is_tried_again_later(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    submit(database, loop, "ana")
    now = NOON + 10_000
    for attempt, pause in ((1, 1_000), (2, 2_000), (3, 4_000)):
        with database.write() as session:
            (claimed,) = review_completion.claim_finished(session, now, 10)
            assert claimed.attempts == attempt
            review_completion.record_unwritten(claimed, "store away", now)
        assert one(database, loop).status == "InProgress"
        with database.write() as session:
            assert review_completion.claim_finished(session, now + pause - 1, 10) == []
        now += pause


def test_a_flow_definition_is_not_deleted_beside_a_start(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller("0" * 12, "eu-west-1", "key")
    with database.write() as session:
        session.scalars(select(FlowDefinition)).one().request = {
            "HumanLoopConfig": {"TaskCount": 1}
        }
    begun, add_loop = threading.Event(), human_loops.add_loop

    def slowly(*given: Any) -> None:
        add_loop(*given)
        begun.set()
        time.sleep(0.5)

    monkeypatch.setattr(human_loops, "add_loop", slowly)
    request = {
        "HumanLoopName": "one",
        "FlowDefinitionArn": arn_of(caller, FLOW_DEFINITION, "flow"),
        "HumanLoopInput": {"InputContent": "{}"},
    }
    deletion = Call(caller, "DeleteFlowDefinition", {"FlowDefinitionName": "flow"})
    with ThreadPoolExecutor() as beside:
        started = beside.submit(HumanLoops(database).start, Call(caller, "StartHumanLoop", request))
        assert begun.wait(10)
        with pytest.raises(ServiceError, match="1 human loops of flow are in progress"):
            FlowDefinitions(database).delete(deletion)
        started.result()


def test_loops_that_are_started_again_spoil_nothing(database: Database) -> None:
    caller, loops = Caller("0" * 12, "eu-west-1", "key"), HumanLoops(database)
    errors: list[Any] = []
    event.listen(database.engine, "handle_error", errors.append)

    def start(name: str, content: str = "{}") -> dict[str, Any]:
        request = {
            "HumanLoopName": name,
            "FlowDefinitionArn": arn_of(caller, FLOW_DEFINITION, "flow"),
            "HumanLoopInput": {"InputContent": content},
        }
        return loops.start(Call(caller, "StartHumanLoop", request))

    names = [f"loop-{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as beside:
        first = list(beside.map(start, names))
        assert list(beside.map(start, [*names, *names])) == [*first, *first]
    with pytest.raises(ServiceError, match="loop-0 was started with another input"):
        start("loop-0", '{"another": 1}')
    assert errors == []
    with database.read() as session:
        assert len(session.scalars(select(HumanLoop)).all()) == 20


def test_many_answers_take_as_many_requests_as_one(database: Database) -> None:
    loops = [add(database, f"loop-{number}", number / 50) for number in range(50)]
    requests: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        requests.append(statement)

    held = take_turn(database, turn("ana", count=50))
    assert isinstance(held, list)
    assert len(held) == 50
    taken = len(requests)
    with database.write() as session:
        assert queue.let_go(session, FLOW, loops[30:], "ana", "lapsed") is None
    left = len(requests) - taken
    answers = [Given(loop, SEVEN, "7", 1_000) for loop in loops[:30]]
    assert take_turn(database, turn("ana", answers)) == []
    answered = len(requests) - taken - left
    # With a request or two for each item they were a hundred each.
    assert max(taken, left, answered) <= 6
    with database.read() as session:
        turns = [assignment(session, loop, "ana").turn for loop in loops[:30]]
        phases = [session.get_one(HumanLoop, loop).phase for loop in loops]
        queues = [session.get_one(HumanLoop, loop).queue for loop in loops]
    assert turns == list(range(1, 31))
    assert phases == ["answered"] * 30 + ["open"] * 20
    assert queues == [None] * 30 + [FLOW] * 20


def test_many_reviewers_take_their_turns_at_once(database: Database) -> None:
    """Each statement is for all of them, and what one may not do is nobody else's."""
    loops = [add(database, f"loop-{number}", number / 50, tasks=2) for number in range(20)]
    names = [f"person-{number}" for number in range(10)]

    def together(turns: Sequence[Turn]) -> list[list[str] | Taken]:
        with database.write() as session:
            taken = take_turns(session, turns, NOON)
        return [each if isinstance(each, Taken) else [held.name for held in each] for each in taken]

    first = together([turn(name, count=1) for name in [*names, names[0]]])
    # Two a loop, the least certain first; who asks twice is given the same again.
    assert first == [[f"loop-{number // 2}"] for number in range(10)] + [["loop-0"]]

    requests: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        requests.append(statement)

    answers = [turn(name, [Given(loops[number // 2], SEVEN, "7", 0)], count=1)
               for number, name in enumerate(names)]  # fmt: skip
    wrong = turn("eve", [Given(loops[0], SEVEN, "7", 0)], count=1)
    again = replace(answers[0], given=[Given(loops[0], ONE, "1", 0)])
    assert together([wrong, *answers, again, answers[1]]) == [
        Taken.NOT_YOURS, *([f"loop-{5 + number // 2}"] for number in range(10)),
        Taken.ANSWERED_ALREADY, ["loop-5"],
    ]  # fmt: skip
    assert len(requests) <= 10
    with database.read() as session:
        found = [session.get_one(HumanLoop, loop) for loop in loops]
        assert [(each.phase, each.answers, each.free_slots, each.queue) for each in found] == [
            *[("answered", 2, 0, None)] * 5, *[("open", 0, 0, None)] * 5,
            *[("open", 0, 2, FLOW)] * 10,
        ]  # fmt: skip
        assert assignment(session, loops[0], names[0]).answer == SEVEN


def test_the_last_slot_is_for_one_of_those_whose_time_was_over(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    late = NOON + 2 * LEASE.hold_ms
    assert take(database, "bob", late) == ["one"]
    with database.write() as session:
        assert queue.let_go(session, FLOW, [loop], "bob", "lapsed") is None
    answers = [turn(name, [Given(loop, SEVEN, "7", 0)]) for name in ("ana", "bob")]
    with database.write() as session:
        assert take_turns(session, answers, late) == [[], Taken.CLOSED]
    assert one(database, loop).answers == 1


def test_who_has_had_all_that_others_are_given_is_given_what_lies_behind(
    database: Database,
) -> None:
    loops = [add(database, f"loop-{number}", number / 50, tasks=2) for number in range(20)]
    held = take_turn(database, turn("ana", count=15))
    assert isinstance(held, list)
    answers = [Given(each.loop, SEVEN, "7", 0) for each in held]
    with database.write() as session:
        taken = take_turns(session, [turn("ana", answers, count=1), turn("bob", count=1)], NOON)
    assert [[each.loop for each in held] for held in taken if isinstance(held, list)] == [
        [loops[15]], [loops[0]],
    ]  # fmt: skip


def test_of_many_answers_none_is_kept_where_one_cannot_be(database: Database) -> None:
    loops = [add(database, name, tasks=2) for name in ("one", "two")]
    assert take(database, "ana") == ["one"]
    answers = [Given(loop, SEVEN, "7", 1_000) for loop in loops]
    assert take_turn(database, turn("ana", answers)) is Taken.NOT_YOURS
    with database.write() as session:
        assert queue.let_go(session, FLOW, loops, "ana") is Taken.NOT_YOURS
        assert queue.let_go(session, "other" * 6, loops[:1], "ana") is Taken.NOT_YOURS
    with database.read() as session:
        assert assignment(session, loops[0], "ana").state == "working"
    assert one(database, loops[0]).answers == 0


def test_who_is_ahead_of_others_does_not_walk_past_their_own_answers_each_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_heads, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(review_heads, "_TIMES", 1e6)
    loops = [add(database, f"loop-{number}", number / 10, tasks=2) for number in range(5)]
    heads = review_heads.Heads()

    def next_of(worker: str) -> list[str]:
        with database.write() as session:
            (held,) = take_turns(session, [turn(worker, count=1)], NOON, heads)
        assert not isinstance(held, Taken)
        return [each.name for each in held]

    for number in range(3):
        assert next_of("ana") == [f"loop-{number}"]
        assert submit(database, loops[number], "ana") is None
    heads.note(FLOW, "ana", (0.2, loops[2]), 1.0)
    # What is less certain and comes later waits for a while, or until nothing else is left.
    add(database, "late", 0.05)
    assert next_of("ana") == ["loop-3"]
    assert submit(database, loops[3], "ana") is None
    assert next_of("bob") == ["loop-0"]
    assert next_of("ana") == ["loop-4"]
    assert submit(database, loops[4], "ana") is None
    assert next_of("ana") == ["late"]
    heads.forget(FLOW, "ana")
    assert heads.of(FLOW, "ana") == review_heads.BEGINNING


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever walked along a queue; each walk is one that is worth remembering."""
    monkeypatch.setattr(review_heads, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(review_heads, "_TIMES", 1e6)
    walked: list[str] = []
    give_next = review_slots.give_next

    def counted(connection: Any, flow_id: str, asker: Any, *given: Any) -> None:
        walked.append(asker.worker)
        give_next(connection, flow_id, asker, *given)

    monkeypatch.setattr(review_turns, "give_next", counted)
    return walked


def test_who_has_had_all_items_walks_past_them_once_and_gets_what_comes(
    database: Database, walks: list[str]
) -> None:
    heads = review_heads.Heads()

    def next_of(worker: str, count: int = 1) -> list[str]:
        with database.write() as session:
            (held,) = take_turns(session, [turn(worker, count=count)], NOON, heads)
        assert not isinstance(held, Taken)
        return [each.name for each in held]

    def answer(worker: str, *loops: int) -> None:
        given = [Given(loop, SEVEN, "7", 0) for loop in loops]
        assert take_turn(database, turn(worker, given)) == []

    # More than are looked at for all who ask.
    loops = [add(database, f"loop-{number}", 0.01 * number, tasks=3) for number in range(40)]
    assert len(next_of("ana", 40)) == 40
    answer("ana", *loops)
    assert next_of("ana") == []
    walks.clear()
    assert [next_of("ana") for _ in range(5)] == [[]] * 5
    assert walks == []
    for name, priority in (("first", 0.0), ("middle", 0.255), ("last", 0.9)):
        loop = add(database, name, priority, tasks=3)
        assert next_of("ana") == [name]
        answer("ana", loop)
        assert next_of("ana") == []
    # What gets free unseen, as in another server, comes up when its time is over.
    loop = add(database, "more", 0.255)
    assert "more" in next_of("bob", 50)
    assert next_of("ana") == []
    with database.write() as session:
        assert queue.let_go(session, FLOW, [loop], "bob", "lapsed") is None
    assert next_of("ana") == []
    newest, _until = heads._nothing[FLOW]["ana"]
    heads._nothing[FLOW]["ana"] = newest, time.monotonic()
    assert next_of("ana") == ["more"]


def test_what_is_given_back_is_for_who_had_all_others(database: Database, walks: list[str]) -> None:
    (ana, bob), desk = two_reviewers(database), desk_of(database)
    # More than are looked at for all who ask.
    had = [add(database, f"had-{number}", 0.001 * number, tasks=3) for number in range(60)]
    for worker in ("ana", "bob"):
        take_turn(database, turn(worker, count=60))
        given = [Given(loop, SEVEN, "7", 0) for loop in had]
        assert take_turn(database, turn(worker, given)) == []
    loops = [add(database, f"loop-{number}", 0.5 + 0.01 * number) for number in range(10)]

    def do(change: Change) -> Any:
        with database.write() as session:
            (result,) = desk._take_steps(session, [change.step])
        return result

    def gets(user: User) -> set[str]:
        return {held.name for held in do(desk.next(user, FLOW, 10))}

    take_turn(database, turn("ana", count=4))
    held = gets(bob)
    assert held == {f"loop-{number}" for number in range(4, 10)}
    assert len(gets(ana)) == 4
    walks.clear()
    assert len(gets(ana)) == 4
    assert walks == []
    assert do(desk.release(bob, FLOW, loops[5:6])) is None
    assert "loop-5" in gets(ana)
    assert len(gets(ana)) == 5
    do(desk.skip(bob, FLOW, loops[6], more=False))
    assert "loop-6" in gets(ana)
    do(desk.skip(ana, FLOW, loops[0], more=False))
    assert "loop-0" not in gets(ana)
    assert do(desk.recall(ana, FLOW)) == 1
    assert "loop-0" in gets(ana)
    assert len(gets(ana)) == 6
    # A lease that is over is ended by who asks next.
    with database.write() as session:
        assignment(session, loops[7], "bob").lease_until = 1
    assert "loop-7" in gets(ana)


def test_a_queue_that_is_slow_to_count_is_counted_seldom(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []

    def slowly(_session: Session, flow_id: str) -> int:
        counted.append(flow_id)
        time.sleep(0.05)
        return len(counted)

    monkeypatch.setattr(queue_sizes, "open_loops", slowly)
    sizes = queue_sizes.QueueSizes(database)
    assert [sizes.of(FLOW) for _ in range(20)] == [1] * 20
    assert counted == [FLOW]
    # A small one is counted anew.
    monkeypatch.setattr(queue_sizes, "open_loops", queue.open_loops)
    assert sizes.of("other") == 0


def test_figures_read_no_content_of_answers(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    submit(database, loop, "ana")
    with database.read() as session:
        (figure,) = review_figures.newest_answers(session, FLOW)
    with database.read() as session:
        (exported,), _last = review_figures.answers_after(session, FLOW, (0, ""))
    assert (figure.label, figure.answer, exported.answer) == ("7", None, SEVEN)


def test_a_loop_that_is_deleted_while_it_is_claimed_keeps_no_other_waiting(
    database: Database,
) -> None:
    loops = [add(database, name) for name in ("one", "two")]
    for loop in loops:
        take(database, "ana")
        submit(database, loop, "ana")
    with database.write() as session:
        claimed = review_completion.claim_finished(session, NOON + 10_000, 10)
    with database.write() as session:
        human_loops.delete_loop(session, session.get_one(HumanLoop, loops[0]))
    with database.read() as session:
        finished = review_completion.finished(session, claimed)
    assert [each.loop.id for each in finished] == [loops[1]]


def desk_of(database: Database) -> Desk:
    settings: Any = SimpleNamespace(review_undo_seconds=10)
    items: Any = None
    return Desk(settings, database, items)


def two_reviewers(database: Database) -> list[User]:
    team_of(database, "ana", "bob")
    with database.read() as session:
        return list(session.scalars(select(User).order_by(User.name)))


def test_what_one_reviewer_may_not_do_undoes_nothing_of_others(database: Database) -> None:
    loop, elsewhere = add(database, "one"), add(database, "other")
    with database.write() as session:
        session.get_one(HumanLoop, elsewhere).flow_id = "other" * 6
        session.get_one(HumanLoop, elsewhere).queue = None
        session.get_one(HumanLoop, elsewhere).free_slots = 0
    (ana, bob), desk = two_reviewers(database), desk_of(database)
    changes = [
        desk.next(ana, FLOW, 1), desk.open(bob, FLOW, loop), desk.open(bob, FLOW, elsewhere),
        desk.draft(bob, FLOW, loop, SEVEN), desk.release(bob, FLOW, [loop]), desk.undo(bob, FLOW),
    ]  # fmt: skip
    with database.write() as session:
        (held,), *refused = desk._take_steps(session, [change.step for change in changes])
    assert held.name == "one"
    said = []
    for change, result in zip(changes[1:], refused, strict=True):
        with pytest.raises(Refused) as caught:
            change.answer(result)
        said.append(caught.value.status)
    assert said == [409, 404, 409, 404, 409]
    with database.read() as session:
        assert [each.worker for each in session.scalars(select(Assignment))] == ["ana"]


@pytest.mark.parametrize("flow_id", ["\0", "g" * 32])
def test_a_queue_that_is_not_there_is_not_found(database: Database, flow_id: str) -> None:
    (ana, _bob), desk = two_reviewers(database), desk_of(database)
    with pytest.raises(Refused, match="there is no such queue"):
        desk.next(ana, flow_id, 1)


def test_a_reviewers_calls_are_done_in_the_order_they_came(database: Database) -> None:
    loop, (ana, bob), desk = add(database, "one"), two_reviewers(database), desk_of(database)

    def together(*changes: Change) -> list[Any]:
        with database.write() as session:
            return desk._take_steps(session, [change.step for change in changes])

    def state() -> str:
        with database.read() as session:
            return assignment(session, loop, "ana").state

    take(database, "ana")
    give_back, ask = desk.release(ana, FLOW, [loop]), desk.next(ana, FLOW, 1)
    (_, (held,), others) = together(give_back, ask, desk.next(bob, FLOW, 1))
    assert (held.name, others, state()) == ("one", [], "working")
    ((held,), _) = together(ask, give_back)
    assert (held.name, state()) == ("one", "lapsed")


def test_skipped_items_come_back_when_they_are_asked_for(database: Database) -> None:
    loop = add(database, "one")
    take(database, "ana")
    with database.write() as session:
        queue.let_go(session, FLOW, [loop], "ana")
    assert take(database, "ana") == []
    with database.write() as session:
        assert queue.recall_skipped(session, FLOW, "ana") == 1
    assert take(database, "ana") == ["one"]


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (review_slots._FIRST, "human_loops_queue"),
        (review_slots._NEXT, "human_loops_queue"),
        (review_slots._HELD, "review_assignments_worker"),
        (review_slots._PARTS, "review_assignments"),
        (review_answers._LOCK, "human_loops_pkey|PRIMARY KEY"),
        (review_answers._PARTS, "review_assignments"),
    ],
    ids=["first", "next", "held", "parts of items", "lock", "parts of answers"],
)
def test_turns_are_taken_without_reading_tables(
    database: Database, statement: Select[Any], index: str
) -> None:
    """Tables that were filled a moment ago have no statistics yet."""
    row = (
        "INSERT INTO human_loops (id, account, region, name, flow_id, flow_name, status, phase, "
        "queue, priority, task_count, free_slots, answers, input_digest, created_at, modified_at, "
        "expires_at, attempts, output_uri, failure_code, failure_reason) VALUES (:id, 'a', 'r', "
        f":name, '{FLOW}', 'flow', 'InProgress', 'open', '{FLOW}', 0.9, 1, 1, 0, '', {NOON}, "
        f"{NOON}, {NOON + MINUTE}, 0, '', '', '')"
    )
    part = (
        "INSERT INTO review_assignments (loop_id, worker, flow_id, state, accepted_at, spent_ms) "
        f"VALUES (:id, :worker, '{FLOW}', 'lapsed', {NOON}, 0)"
    )
    rows = [{"id": 1_000 + number, "name": f"more-{number}"} for number in range(20_000)]
    parts = [{"id": each["id"], "worker": f"person-{int(each['id']) % 50}"} for each in rows]
    with database.write() as session:
        session.execute(text(row), rows)
        session.execute(text(part), parts)
    values = {
        "who": "ana", "flow": FLOW, "now": NOON, "count": 20, "priority": 0.5, "first": 7,
        "loops": list(range(1_000, 1_060)), "workers": [f"person-{each}" for each in range(50)],
    }  # fmt: skip
    known = {name: values[name] for name in statement.compile().params if name in values}
    compiled = statement.params(known).compile(
        dialect=database.engine.dialect, compile_kwargs={"literal_binds": True}
    )
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    with database.write() as session:
        steps = session.connection().exec_driver_sql(f"{explain} {compiled}").all()
    shown = "\n".join(str(step) for step in steps)
    assert re.search(index, shown), shown
    assert not re.search(r"Seq Scan|SCAN \w+$", shown, re.MULTILINE), shown
    if statement is review_slots._NEXT:
        assert "priority" in shown.partition("Filter")[0]  # it begins there
    if index == "human_loops_queue":
        assert "Sort" not in shown
        assert "TEMP B-TREE" not in shown


def test_a_server_that_was_started_anew_costs_no_request(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_delivery_localcloud.store.database.IDLE_SECONDS", 0.0)
    database = Database(new_database(cluster))
    database.migrate()
    with database.read() as session:
        (mine,) = session.execute(text("SELECT pg_backend_pid()")).one()
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (mine,))
    with database.write() as session:
        assert session.execute(text("SELECT pg_backend_pid()")).one() != (mine,)
    database.close()


def test_what_is_changed_while_reading_is_not_kept(database: Database) -> None:
    loop = add(database, "one")
    with database.read() as session:
        session.get_one(HumanLoop, loop).status = "Failed"
        assert session.scalars(select(HumanLoop.status)).all() == ["InProgress"]
    assert one(database, loop).status == "InProgress"
