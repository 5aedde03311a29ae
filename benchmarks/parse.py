"""How long a DAG file takes to parse in a process that has parsed it once, beside an empty DAG."""

import runpy
import tempfile
import time
from pathlib import Path

from benchmarks.record import Measure, median_and_spread, write

ROUNDS = 21
GOAL_MS = 20.0
DAGS = Path(__file__).resolve().parent.parent / "dags"
EMPTY = 'from airflow.sdk import DAG\n\nwith DAG("empty", schedule=None):\n    pass\n'


def _milliseconds(path: Path) -> float:
    started = time.perf_counter()
    runpy.run_path(str(path))
    return (time.perf_counter() - started) * 1000


def main() -> Path:
    """Measure every file of `dags/`, interleaved with the empty DAG."""
    measures = []
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        for path in sorted(DAGS.glob("*.py")):
            _milliseconds(path), _milliseconds(empty)
            pairs = [(_milliseconds(path), _milliseconds(empty)) for _ in range(ROUNDS)]
            ours, spread = median_and_spread([pair[0] for pair in pairs])
            limit, _ = median_and_spread([pair[1] for pair in pairs])
            measures.append(
                Measure(
                    what=f"parse dags/{path.name} again in the same process",
                    unit="ms", better="lower", ours=ours, peer=None, peer_name=None,
                    limit=limit, limit_name="an empty DAG file", goal=f"< {GOAL_MS:.0f} ms",
                    rounds=ROUNDS, spread=spread,
                    note="no peer: what a DAG file costs is its own; the first import is excluded",
                )
            )  # fmt: skip
    return write("parse", measures, ["apache-airflow"])
