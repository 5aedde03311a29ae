"""The device's folder: one agent at a time, its keys readable by its owner only."""

import fcntl
import json
import logging
import os
import secrets
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from model_delivery_edge.artifacts import Artifacts
from model_delivery_edge.durable import write_durably
from model_delivery_edge.errors import HomeError
from model_delivery_edge.journal import Journal
from model_delivery_edge.slots import Slots
from model_delivery_edge.trust.identity import Identity
from model_delivery_edge.trust.releases import Trust

log = logging.getLogger(__name__)


class Home(AbstractContextManager["Home"]):
    """Everything an agent keeps; locked against a second agent until it is closed.

    :param folder: the device's folder; made if absent
    :param thing: the thing it belongs to
    :raises HomeError: another agent uses it, or it cannot be written
    """

    def __init__(self, folder: Path, thing: str) -> None:
        self.folder = folder
        self.thing = thing
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise HomeError(
                f"{folder}: {error.strerror}; choose another --home or change its permissions"
            ) from error
        self._take_lock()
        self.artifacts = Artifacts(folder / "artifacts", folder / "downloads")
        self.slots = Slots(folder / "state")
        self.trust = Trust(folder / "trust.json", thing)
        self.identity = Identity(folder / "identity.key")
        self.journal = Journal(folder / "state")
        self.work = folder / "work"
        shutil.rmtree(self.work, ignore_errors=True)  # what a killed agent had half extracted
        self.work.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise HomeError(
                f"{self.folder}: another agent uses this folder; stop it or choose another --home"
            ) from None

    def device_key(self) -> str | None:
        """Return the key that registration gave, or None before it.

        :raises HomeError: the folder is another thing's, or the key file is damaged
        """
        path = self.folder / "device.key"
        try:
            data = json.loads(path.read_bytes())
            thing, key = str(data["thing"]), str(data["device_key"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise HomeError(
                f"{path} is damaged; delete it and register again with a new one-time token"
            ) from None
        if thing != self.thing:
            raise HomeError(
                f"{self.folder} belongs to thing {thing}, not to {self.thing}; "
                "choose another --home"
            )
        return key

    def keep_device_key(self, key: str) -> None:
        """Keep the device key (mode 0600)."""
        data = {"thing": self.thing, "device_key": key}
        write_durably(self.folder / "device.key", json.dumps(data).encode())

    def api_token(self) -> str:
        """Return the inference endpoint's bearer token, made at the first start (mode 0600)."""
        path = self.folder / "api.token"
        if not path.exists():
            write_durably(path, f"{secrets.token_urlsafe(32)}\n".encode())
            log.info("made an API token for the inference endpoint: %s", path)
        if token := path.read_text().strip():
            return token
        raise HomeError(f"{path} is empty; delete it, and the next start makes a new token")
