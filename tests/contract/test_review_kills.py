"""Reviews whose servers are killed: the small form of `make bench BENCH=review_chaos`."""

import random

import pytest

from tests.postgres import MISSING, installed
from tests.review_chaos import LOOPS, chaos_over, plan_of

SEED = 7
RUNS = 2


@pytest.mark.skipif(not installed(), reason=MISSING)
def test_kills_lose_no_answer_and_count_none_twice_on_postgres() -> None:
    generator = random.Random(SEED)
    with chaos_over("Postgres") as chaos:
        for number in range(RUNS):
            chaos.run(number, plan_of(generator), SEED)
    tally = chaos.tally
    assert tally.faults == []
    assert (tally.lost, tally.twice, tally.changed, tally.unfinished) == (0, 0, 0, 0)
    assert tally.kills >= RUNS
    assert tally.acknowledged > RUNS * LOOPS
    assert set(tally.done) >= {"next", "answer", "skip", "undo", "release"}
