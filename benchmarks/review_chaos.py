"""Reviews killed at random: answers lost, and answers counted twice.

Method. A real localcloud over SQLite, then over Postgres, and a real object store. Each of RUNS
runs starts 12 human loops of two answers each and lets three reviewers work on them over HTTP as
the portal's page does: an answer brings the next item, and of all they do 15 % are skips, which
they recall when nothing else is left, and 15 % undos. A seeded generator gives each run one to
three SIGKILLs of the API process, at times over the run's life; a killed API is started again at
once, on the same port. In one run of three the worker process, which writes the outputs, is killed
as well. Whoever gets no answer from a killed server sends the same again when it is back, but for
an undo: then they look what they hold, as with a reload.

A reviewer remembers each answer that the server has acknowledged. At the end each loop has to be
Completed, and its output object, read from the store, is held against what was acknowledged:
- lost: acknowledged answers that are not in the output, and were not taken back;
- twice: answers beyond one of a reviewer, or beyond two of a loop, in the output or the database;
- changed: outputs in which a reviewer's answer is another than the one acknowledged.

The plan of kills follows from the seed alone; which instruction a SIGKILL meets does not.

`REVIEW_CHAOS_RUNS` (of each database), `REVIEW_CHAOS_SEED` change the size and the seed,
`REVIEW_CHAOS_DATABASES` which of them.
"""

import json
import os
import random
import sys
from pathlib import Path

from benchmarks.record import Measure, write
from tests.postgres import installed
from tests.review_chaos import Tally, chaos_over, plan_of

RUNS = int(os.environ.get("REVIEW_CHAOS_RUNS", "200"))
SEED = int(os.environ.get("REVIEW_CHAOS_SEED", "20260101"))
DATABASES = os.environ.get("REVIEW_CHAOS_DATABASES", "SQLite,Postgres" if installed() else "SQLite")
PACKAGES = ["sqlalchemy", "starlette", "uvicorn", "psycopg"]


def main() -> Path:
    """Run all runs and write the figures."""
    measures = []
    for name in DATABASES.split(","):
        generator = random.Random(SEED)
        with chaos_over(name) as chaos:
            for number in range(RUNS):
                chaos.run(number, plan_of(generator), SEED)
                if (number + 1) % 20 == 0:
                    print(f"{name}, run {number + 1}: {chaos.tally}", file=sys.stderr)
        measures += _measures(name, chaos.tally)
    return write("review_chaos", measures, PACKAGES)


def _measures(name: str, tally: Tally) -> list[Measure]:
    note = json.dumps(
        {"acknowledged": tally.acknowledged, "kills": tally.kills, "sent again": tally.sent_again,
         "done": dict(tally.done),
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
            what=f"{name}: {what}", unit="of all runs", better="lower", ours=count,
            peer=None, peer_name=None,
            limit=0, limit_name="none", goal=f"0 in {RUNS} runs", rounds=1, spread=(count, count),
            note=note, passed=count == 0,
        )
        for what, count in found.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
