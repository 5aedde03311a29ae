"""How many cores a process may keep busy: fewer than it sees, where its container has a limit."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the cores of this process's affinity, or its cgroups' CPU quota, rounded up, if less.

    Of cgroups v2 and v1; a quota that cannot be read is none.
    """
    linux = hasattr(os, "sched_getaffinity")
    seen = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    return max(1, min([seen, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the quotas of the cgroups that this process is in, and of those around them, in cores.

    In a container the path may be the host's, of which there is but the root here.
    """
    for line in _text(_PROC).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        group = root / path.lstrip("/")
        for folder in (group, *(each for each in group.parents if each.is_relative_to(root))):
            quota = _of_v1(folder) if controllers else _text(folder / "cpu.max").split()
            if len(quota) == 2 and quota[0].isdecimal():  # else "max", or -1
                yield int(quota[0]) / int(quota[1])


def _of_v1(folder: Path) -> list[str]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    return [text for name in names for text in _text(folder / name).split()]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
