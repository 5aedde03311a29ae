"""The form every benchmark writes: medians over interleaved rounds, ours by peer and limit."""

import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "build" / "bench"


@dataclass(frozen=True)
class Measure:
    """One figure: medians, with the spread of ours as (min, max).

    :param passed: whether the goal is reached; None where the goal sets no bound to check.
    """

    what: str
    unit: str
    better: str
    ours: float
    peer: float | None
    peer_name: str | None
    limit: float | None
    limit_name: str | None
    goal: str
    rounds: int
    spread: tuple[float, float]
    note: str = ""
    passed: bool | None = None


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """Give a benchmark an empty folder on the disk that is measured, and delete it in the end."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def median_and_spread(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the median and (min, max)."""
    return statistics.median(values), (min(values), max(values))


def unsteadiness(seconds: float = 2.0) -> float:
    """Return how uneven this machine is now: a piece of work's 90th percentile by its best time.

    Of the same work on every core at once. 1 is a machine of one's own; on one that is shared, and
    says nothing of it, a percentile of times is the neighbours' too.

    :param seconds: that it takes
    """
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        found = list(pool.map(_times_of_work, [seconds] * cores))
    times = sorted(each for one in found for each in one)
    return times[int(len(times) * 0.9)] / times[0]


def _times_of_work(seconds: float) -> list[float]:
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        sum(number * number for number in range(100_000))
        times.append(time.perf_counter() - began)
    return times


def write(name: str, measures: Sequence[Measure], packages: Sequence[str]) -> Path:
    """Write `build/bench/<name>.json` with the machine it was measured on."""
    OUT.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "machine": _machine(packages),
        "measures": [asdict(measure) for measure in measures],
    }
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _machine(packages: Sequence[str]) -> dict[str, object]:
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {package: version(package) for package in packages}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "versions": {"python": platform.python_version(), **versions},
    }
