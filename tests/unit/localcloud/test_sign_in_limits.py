"""How many wrong passwords are too many: of a name, from an address."""

import pytest
from model_delivery_localcloud.store import users
from model_delivery_localcloud.store.database import Database

HERE, ELSEWHERE = "192.0.2.1", "203.0.113.7"


def guess(database: Database, times: int, name: str, address: str) -> None:
    with database.write() as session:
        for _ in range(times):
            users.record_attempt(session, name, address)


def throttled(database: Database, name: str, address: str) -> bool:
    with database.read() as session:
        return users.is_throttled(session, name, address, "this one")


def test_five_guesses_close_a_name_to_their_address_alone(database: Database) -> None:
    guess(database, 4, "ana", ELSEWHERE)
    assert not throttled(database, "ana", ELSEWHERE)
    guess(database, 1, "ana", ELSEWHERE)
    assert throttled(database, "ana", ELSEWHERE)
    assert not throttled(database, "ana", HERE)
    assert not throttled(database, "bob", ELSEWHERE)


def test_a_name_is_guessed_fifty_times_at_most_however_many_addresses(database: Database) -> None:
    for number in range(50):
        assert not throttled(database, "ana", HERE)
        guess(database, 1, "ana", f"203.0.113.{number}")
    assert throttled(database, "ana", HERE)


def test_an_address_guesses_a_hundred_times_at_most_however_many_names(
    database: Database,
) -> None:
    for number in range(100):
        assert not throttled(database, "ana", HERE)
        guess(database, 1, f"somebody-{number}", HERE)
    assert throttled(database, "ana", HERE)
    assert not throttled(database, "ana", ELSEWHERE)


def test_of_many_guesses_at_once_no_more_are_looked_at_than_of_so_many_in_turn(
    database: Database,
) -> None:
    """Each is counted before any is: as where transactions do not see one another."""
    with database.write() as session:
        attempts = [users.record_attempt(session, "ana", HERE) for _ in range(20)]
    with database.read() as session:
        assert all(users.is_throttled(session, "ana", HERE, each) for each in attempts)
    with database.write() as session:
        for each in attempts[users.MOST_FAILURES :]:
            users.drop_attempt(session, each)
    with database.read() as session:
        assert not users.is_throttled(session, "ana", HERE, attempts[0])
    assert throttled(database, "ana", HERE)


def test_a_session_is_over_at_sign_out_and_by_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        users.add_user(session, "ana", "a-password-of-anas")
        first, second = (users.begin_session(session, "ana", 60) for _ in range(2))
        users.end_session(session, first)
    with database.read() as session:
        assert users.user_of_session(session, first) is None
        assert users.user_of_session(session, "made up") is None
        found = users.user_of_session(session, second)
        assert found is not None
        assert found.name == "ana"
        later = users.now_ms() + 61_000
        monkeypatch.setattr(users, "now_ms", lambda: later)
        assert users.user_of_session(session, second) is None
