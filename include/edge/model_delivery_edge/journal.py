"""How far the newest deployment got, synced to disk before each step is begun.

``outcome.json`` holds the state, and, until the deployment has ended, the desired state itself: an
agent whose power went goes on from there, with or without a network. ``failed.json`` holds the
digests of models that were refused by their probe: none of them is tried again by itself.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from model_delivery_edge.durable import write_durably
from model_delivery_edge.wire import Status

log = logging.getLogger(__name__)

State = Literal[
    "IDLE",
    "QUEUED",
    "DOWNLOADING",
    "VERIFIED",
    "STAGED",
    "PROBING",
    "COMMITTED",
    "ROLLED_BACK",
    "FAILED",
    "TIMED_OUT",
]
LOST = frozenset({"ROLLED_BACK", "FAILED", "TIMED_OUT"})
ENDED = LOST | {"IDLE", "COMMITTED"}
MOST_FAILED = 200
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Outcome:
    """How far the newest deployment got.

    :param error: why it was lost, in one line
    :param probes: how often the agent began to load it; more than once means that it was
        interrupted while it did
    :param components: the state of each component, by its name
    :param desired: the desired state as the wire spells it, until the deployment has ended
    :param spent: seconds of its deadline that were used before `began`
    :param began: seconds since the machine's start, by a clock that nobody sets
    :param boot: which start of the machine that was
    """

    generation: int = 0
    deployment_id: str | None = None
    state: State = "IDLE"
    error: str | None = None
    probes: int = 0
    components: Mapping[str, State] = field(default_factory=dict)
    desired: Mapping[str, Any] | None = None
    spent: float = 0.0
    began: float = 0.0
    boot: str = ""

    @property
    def status(self) -> Status:
        """The state as version 1 of the wire spells it."""
        if self.state in LOST:
            return "FAILED"
        if self.state in ("IDLE", "COMMITTED"):
            return "SUCCEEDED" if self.deployment_id and self.state == "COMMITTED" else "IDLE"
        return "IN_PROGRESS"

    def seconds(self) -> float:
        """Return how long the deployment has been going on, whatever the wall clock says.

        Time without the agent counts; time without power does not.
        """
        boot, now = _uptime()
        return self.spent + max(0.0, now - self.began if boot == self.boot else 0.0)

    def timed(self) -> "Outcome":
        """Return it with its time so far kept for another start of the machine."""
        boot, now = _uptime()
        return replace(self, spent=self.seconds(), began=now, boot=boot)


class Journal:
    """The journal of one device.

    :param folder: where its files are; made if absent
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def outcome(self) -> Outcome:
        """Return how the newest deployment went, as last recorded."""
        data = self._load("outcome.json")
        if "status" in data:  # as the agents before the journal wrote it
            old = {"SUCCEEDED": "COMMITTED", "IN_PROGRESS": "PROBING"}
            status = data.pop("status")
            data["state"] = old.get(status, status)
        try:
            return Outcome(**data)
        except TypeError:
            log.warning("outcome.json has other fields than this agent's; taking none of it")
            return Outcome()

    def record(self, outcome: Outcome) -> None:
        """Keep how the newest deployment goes; it is on the disk when this returns."""
        self._write("outcome.json", asdict(outcome.timed()))

    def failed(self) -> dict[str, str]:
        """Return the digests of refused models, with why."""
        return {key: str(value) for key, value in self._load("failed.json").items()}

    def refuse(self, digest: str, why: str) -> None:
        """Remember a refused model; the oldest of very many are forgotten."""
        failed = self.failed()
        failed.pop(digest, None)
        failed[digest] = why
        self._write("failed.json", dict(list(failed.items())[-MOST_FAILED:]))

    def forgive(self, digest: str) -> None:
        """Forget that a model was refused: a person wants another try."""
        failed = self.failed()
        if failed.pop(digest, None) is not None:
            self._write("failed.json", failed)

    def _load(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self._folder / name).read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            log.warning("%s cannot be read: %s", name, error)
            return {}
        return data if isinstance(data, dict) else {}

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        write_durably(self._folder / name, json.dumps(data, indent=2).encode())


def _uptime() -> tuple[str, float]:
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return boot, time.clock_gettime(clock)
