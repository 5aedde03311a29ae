"""How many devices may be in the middle of something at a time, by group."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_delivery_engine.errors import RolloutError
from model_delivery_engine.rollout.gate import Progress
from model_delivery_engine.rollout.stages import Device

# A device that failed keeps what it had and serves it, but nobody has looked at it yet.
_UNAVAILABLE = frozenset({Progress.UNDER_WAY, Progress.OFFLINE, Progress.FAILED, Progress.LATE})
_WHOLE = 100.0


@dataclass(frozen=True)
class Budget:
    """How much of a group may be unavailable at a time; None sets no bound.

    :param devices: so many of each group
    :param percent: of each group, in whole devices downwards, but one at least
    """

    devices: int | None = None
    percent: float | None = None

    def __post_init__(self) -> None:
        if self.devices is not None and self.devices < 1:
            raise RolloutError(f"a disruption budget of {self.devices} devices lets none begin")
        if self.percent is not None and not 0 < self.percent <= _WHOLE:
            raise RolloutError(
                f"the disruption budget has percent {self.percent:g}; give a number above 0, "
                "up to 100"
            )

    def of(self, size: int) -> int:
        """Return how many of a group of a size may be unavailable."""
        bounds = [size]
        if self.devices is not None:
            bounds.append(self.devices)
        if self.percent is not None:
            bounds.append(max(1, math.floor(round(size * self.percent / _WHOLE, 9))))
        return min(bounds)


def next_to_begin(
    stage: Sequence[str],
    fleet: Sequence[Device],
    progress: Mapping[str, Progress],
    budget: Budget,
) -> list[str]:
    """Return those of a stage that may begin now, in the stage's order.

    :param stage: names of the stage's devices
    :param fleet: all devices: a group is as large as it is there
    :param progress: by name, of every device that this rollout has begun with, in any stage
    """
    groups = {device.name: device.group for device in fleet}
    sizes = Counter(groups.values())
    busy = Counter(
        groups[name] for name, each in progress.items() if each in _UNAVAILABLE and name in groups
    )
    chosen = []
    for name in stage:
        group = groups[name]
        waiting = progress.get(name, Progress.WAITING) is Progress.WAITING
        if waiting and busy[group] < budget.of(sizes[group]):
            busy[group] += 1
            chosen.append(name)
    return chosen
