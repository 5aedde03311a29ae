"""What the device has committed to, in two slots.

``slot-a.json`` and ``slot-b.json`` each hold a desired state that has proved itself; ``current``
names the one to serve. A commit writes the other slot, then flips ``current``: one rename. The
power may go at any point, and the device has what it had, or what it was about to have.
"""

import json
import logging
from pathlib import Path
from typing import Any, Literal

from model_delivery_edge.durable import write_durably
from model_delivery_edge.errors import ProtocolError
from model_delivery_edge.wire import Desired

log = logging.getLogger(__name__)
SlotName = Literal["a", "b"]


class Slots:
    """The device's committed state.

    :param folder: where its files are; made if absent
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def committed(self) -> list[Desired]:
        """Return what can be served, best first: the current slot, then the previous one."""
        current = self._current()
        slots = [self._read(current), self._read(_other(current))]
        return [slot for slot in slots if slot is not None]

    def commit(self, desired: Desired) -> None:
        """Make this the current state; what was current becomes the previous one.

        The same components under a newer generation only change the number: the previous state
        stays one to which the device could return.
        """
        current = self._current()
        now = self._read(current)
        if now is not None and now.components == desired.components:
            self._write(self._slot(current), desired.to_json())
            return
        target = current if now is None else _other(current)
        self._write(self._slot(target), desired.to_json())
        write_durably(self._pointer, target.encode())

    def go_back(self) -> None:
        """Make the previous state the current one, and the current one the previous."""
        write_durably(self._pointer, _other(self._current()).encode())

    def digests(self) -> set[str]:
        """Digests of all artifacts that a slot refers to."""
        return {c.artifact.digest for slot in self.committed() for c in slot.components}

    @property
    def _pointer(self) -> Path:
        return self._folder / "current"

    def _slot(self, name: SlotName) -> Path:
        return self._folder / f"slot-{name}.json"

    def _current(self) -> SlotName:
        try:
            return "b" if self._pointer.read_text().strip() == "b" else "a"
        except FileNotFoundError:
            return "a"

    def _read(self, name: SlotName) -> Desired | None:
        data = _load(self._slot(name))
        if data is None:
            return None
        try:
            return Desired.from_json(data)
        except ProtocolError as error:
            log.warning("slot %s cannot be used: %s", name, error)
            return None

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        write_durably(path, json.dumps(data, indent=2, sort_keys=True).encode())


def _other(name: SlotName) -> SlotName:
    return "b" if name == "a" else "a"


def _load(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s cannot be read: %s", path.name, error)
        return None
    return data if isinstance(data, dict) else None
