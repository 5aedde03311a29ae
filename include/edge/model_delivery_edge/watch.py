"""The watch after the commit: what a model does to real requests, held to limits.

``configuration.watch`` of a component sets them; a component without it is not watched. A model
that passes a limit is given up for the state before it.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from model_delivery_engine.errors import InferenceError
from model_delivery_engine.runtime import Model
from model_delivery_engine.tensors import Array

from model_delivery_edge.errors import DeploymentError

_MOST_REQUESTS = 10_000
_NAMES = {
    "windowSeconds": "window_seconds",
    "minRequests": "min_requests",
    "errorRate": "error_rate",
    "latencyMs": "latency_ms",
}


@dataclass(frozen=True)
class WatchLimits:
    """Limits of a watch.

    :param window_seconds: that the figures look back (default: 300)
    :param min_requests: fewer than these in the window decide nothing (default: 50)
    :param error_rate: share of requests that may fail or be answered with NaN (default: 0.05)
    :param latency_ms: that the median request may take in the model (default: no limit)
    """

    window_seconds: float = 300.0
    min_requests: int = 50
    error_rate: float = 0.05
    latency_ms: float | None = None

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Self | None:
        """Read them, None where there are none; DeploymentError names the one that is wrong."""
        given = configuration.get("watch")
        if given is None:
            return None
        if not isinstance(given, Mapping) or given.keys() - _NAMES.keys():
            raise DeploymentError(f"configuration.watch takes {', '.join(_NAMES)} and nothing else")
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or value < 0 or (value == 0 and name != "errorRate"):
                raise DeploymentError(f"configuration.watch.{name} is {value!r}; use a number")
        return cls(**{_NAMES[name]: value for name, value in given.items()})


class Figures:
    """The requests of a sliding window; for many threads."""

    def __init__(self, limits: WatchLimits) -> None:
        self._limits = limits
        self._requests: deque[tuple[float, bool, float]] = deque(maxlen=_MOST_REQUESTS)
        self._lock = threading.Lock()

    def add(self, failed: bool, milliseconds: float) -> None:
        """Count a request."""
        with self._lock:
            self._requests.append((time.monotonic(), failed, milliseconds))

    def passed(self) -> str | None:
        """Return which limit was passed, with the figures; None where none was."""
        limits = self._limits
        since = time.monotonic() - limits.window_seconds
        with self._lock:
            recent = [each for each in self._requests if each[0] >= since]
        count = len(recent)
        if count < limits.min_requests:
            return None
        failed = sum(each[1] for each in recent)
        if failed / count > limits.error_rate:
            return (
                f"{failed} of {count} requests failed or were answered with NaN "
                f"({failed / count:.3g}, at most {limits.error_rate:g})"
            )
        median = float(np.median([each[2] for each in recent]))
        if limits.latency_ms is not None and median > limits.latency_ms:
            return (
                f"the median of {count} requests took {median:.3g} ms "
                f"(at most {limits.latency_ms:g})"
            )
        return None


class WatchedModel(Model):
    """A model whose requests are counted once `figures` is set."""

    figures: Figures | None = None

    def run(
        self,
        inputs: Mapping[str, Array],
        settings: Mapping[str, Array] | None = None,
        *,
        seconds: float | None = None,
    ) -> dict[str, Array]:
        """Run the model once, as `Model.run` does, and count how it went."""
        begun = time.perf_counter()
        try:
            outputs = super().run(inputs, settings, seconds=seconds)
        except InferenceError as error:
            if error.__cause__ is not None:  # else the inputs did not fit: no fault of the model
                self._count(True, begun)
            raise
        self._count(not _finite(outputs), begun)
        return outputs

    def _count(self, failed: bool, begun: float) -> None:
        if self.figures is not None:
            self.figures.add(failed, (time.perf_counter() - begun) * 1000)


def _finite(outputs: Mapping[str, Array]) -> bool:
    return all(np.isfinite(each).all() for each in outputs.values() if each.dtype.kind == "f")
