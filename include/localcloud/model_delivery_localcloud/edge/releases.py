"""The release key: what devices pin, and what signs each desired state for its device."""

import fcntl
import json
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from model_delivery_localcloud.errors import SettingsError


class ReleaseKey:
    """An Ed25519 key in a file of mode 0600, with the rotations that led to it.

    `folder` is made if absent, and so is the key. Each call reads the file: a rotation by another
    process holds at once.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "release-key.json"
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self._path.exists():
                self._write({"private": _new_private(), "keys": []})

    @property
    def public(self) -> str:
        """The public key: 32 bytes in base64."""
        return _public(_private(self._read()))

    @property
    def number(self) -> int:
        """How many rotations led to the key."""
        return len(self._read()["keys"])

    @property
    def keys(self) -> list[dict[str, Any]]:
        """Every rotation, oldest first: number, public key, signature by the key before."""
        return list(self._read()["keys"])

    def sign(self, statement: Mapping[str, Any]) -> str:
        """Return the signature of a statement, in base64."""
        return _sign(_private(self._read()), statement)

    def rotate(self) -> str:
        """Replace the key by a new one that it signs, and return the new public key."""
        with self._locked():
            data = self._read()
            private = _new_private()
            new = Ed25519PrivateKey.from_private_bytes(b64decode(private))
            statement = {"type": "key", "number": len(data["keys"]) + 1, "public": _public(new)}
            link = {
                "number": statement["number"],
                "public": statement["public"],
                "signature": _sign(_private(data), statement),
            }
            self._write({"private": private, "keys": [*data["keys"], link]})
        return _public(new)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self._path.read_bytes())
            _private(data)
            return {"private": data["private"], "keys": list(data["keys"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingsError(
                f"{self._path} cannot be read: restore it from a backup; without it devices that "
                "pinned this key need --release-key"
            ) from None

    def _write(self, data: Mapping[str, Any]) -> None:
        partial = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            json.dump(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(self._path)


def is_signed(public: str, record: Mapping[str, Any], signature: str) -> bool:
    """Tell whether a device has signed this record."""
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public, validate=True))
        key.verify(b64decode(signature, validate=True), _bytes(record))
    except (InvalidSignature, ValueError):
        return False
    return True


def _new_private() -> str:
    return b64encode(os.urandom(32)).decode()


def _private(data: Mapping[str, Any]) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b64decode(data["private"]))


def _public(key: Ed25519PrivateKey) -> str:
    return b64encode(key.public_key().public_bytes_raw()).decode()


def _sign(key: Ed25519PrivateKey, statement: Mapping[str, Any]) -> str:
    return b64encode(key.sign(_bytes(statement))).decode()


def _bytes(statement: Mapping[str, Any]) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
