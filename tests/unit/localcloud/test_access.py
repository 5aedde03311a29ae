"""Who may work on which queue, as it is remembered."""

from typing import Any

import pytest
from model_delivery_localcloud.portal.access import Access
from model_delivery_localcloud.store.tables import User
from model_delivery_localcloud.store.users import Role


def test_who_was_refused_a_moment_ago_is_let_in_once_they_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members: set[str] = {"ana"}
    flow: Any = object()
    monkeypatch.setattr(Access, "_find", lambda *_: (flow, set(members)))
    access = Access(database=None)  # type: ignore[arg-type]
    bob = User(name="bob", role=Role.REVIEWER)
    assert access.flow(User(name="ana", role=Role.REVIEWER), "f") is flow
    assert access.flow(bob, "f") is None
    members.add("bob")
    assert access.flow(bob, "f") is flow


def test_a_queue_that_was_not_there_a_moment_ago_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = [(None, set())]
    monkeypatch.setattr(Access, "_find", lambda *_: found[-1])
    access = Access(database=None)  # type: ignore[arg-type]
    ada = User(name="ada", role=Role.ADMIN)
    assert access.flow(ada, "f") is None
    flow: Any = object()
    found.append((flow, {"bob"}))
    assert access.flow(ada, "f") is flow
