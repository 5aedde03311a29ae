"""What the portal remembers for a moment is not too old all at once."""

from collections import Counter

import pytest
from model_delivery_localcloud.portal import remembered
from model_delivery_localcloud.portal.remembered import SECONDS, Remembered

PEOPLE = range(200)


def test_those_who_came_together_are_not_looked_up_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(remembered.time, "monotonic", lambda: clock[0])
    looks: Counter[int] = Counter()

    def find(person: int) -> int:
        looks[person] += 1
        return person

    known = Remembered(find)

    def ask(seconds: float) -> int:
        """Have all of them ask at a time; return how many were looked up."""
        before, clock[0] = looks.total(), 100.0 + seconds
        assert [known.get(each) for each in PEOPLE] == list(PEOPLE)
        return looks.total() - before

    assert ask(0) == len(PEOPLE)
    assert ask(SECONDS / 2 - 0.01) == 0
    most = max(ask(SECONDS / 2 + part * SECONDS / 40) for part in range(1, 20))
    assert 0 < most < len(PEOPLE) / 4
    assert min(looks.values()) == 1  # nobody twice before the time was over
    ask(SECONDS)
    assert min(looks.values()) == 2  # and everybody by then
