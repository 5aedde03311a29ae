"""What a model may take while it is probed: ``configuration.probe`` of its component."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from model_delivery_edge.errors import DeploymentError

_NAMES = {
    "seconds": "seconds",
    "latencyMs": "latency_ms",
    "memoryBytes": "memory_bytes",
    "runs": "runs",
    "allowNonFinite": "allow_non_finite",
}


@dataclass(frozen=True)
class Limits:
    """Limits of a probe.

    :param seconds: for all of it, loading included (default: 120)
    :param latency_ms: that the median run may take (default: no limit)
    :param memory_bytes: that the probing process may hold (default: four fifths of what is free)
    :param runs: inferences that are timed (default: 20)
    :param allow_non_finite: whether NaN and infinity are answers (default: they are not)
    """

    seconds: float = 120.0
    latency_ms: float | None = None
    memory_bytes: int | None = None
    runs: int = 20
    allow_non_finite: bool = False

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Self:
        """Read them; DeploymentError names the one that is wrong."""
        given = configuration.get("probe") or {}
        if not isinstance(given, Mapping):
            raise DeploymentError("configuration.probe is no object; see docs/edge-agent.md")
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _NAMES:
                raise DeploymentError(
                    f"configuration.probe.{name} is unknown; use {', '.join(_NAMES)}"
                )
            if name == "allowNonFinite":
                right = isinstance(value, bool)
            else:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                right = number and value > 0 and (name != "runs" or 1 <= value <= 10_000)
            if not right:
                raise DeploymentError(
                    f"configuration.probe.{name} is {value!r}; use true or false"
                    if name == "allowNonFinite"
                    else f"configuration.probe.{name} is {value!r}; use a number above 0"
                )
            whole = name in ("runs", "memoryBytes")
            values[_NAMES[name]] = int(value) if whole else value
        return cls(**values)

    def most_bytes(self) -> int:
        """Return the bytes that the probing process may hold now."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        return _available_bytes() * 4 // 5


def _available_bytes() -> int:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
