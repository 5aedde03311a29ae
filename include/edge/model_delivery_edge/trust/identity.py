"""The device's own key: what it says of a model can be held against it."""

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_delivery_edge.durable import write_durably
from model_delivery_edge.errors import HomeError
from model_delivery_edge.trust.releases import statement_bytes


class Identity:
    """An Ed25519 key in a file of mode 0600, made when it is first asked for.

    :param path: the file
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def public(self) -> str:
        """Its public part: 32 bytes in base64."""
        return b64encode(self._key().public_key().public_bytes_raw()).decode()

    def sign(self, record: Mapping[str, Any]) -> str:
        """Return the signature of a record, in base64."""
        return b64encode(self._key().sign(statement_bytes(record))).decode()

    def _key(self) -> Ed25519PrivateKey:
        if not self._path.exists():
            write_durably(self._path, os.urandom(32))
        try:
            return Ed25519PrivateKey.from_private_bytes(self._path.read_bytes())
        except ValueError:
            raise HomeError(
                f"{self._path} is damaged; delete it and register the device again"
            ) from None
