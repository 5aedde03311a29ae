"""Signed releases: one pinned Ed25519 key, its rotation, and no way back to an older release.

The cloud signs, for each device and desired state, which bundle a component is, with a number that
only grows. A bundle that was swapped, a release of another device, and one that was overheard and
is played again are refused before a byte is fetched. A new key is trusted where the pinned one has
signed it; from then on the old one is not.
"""

import json
import logging
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from model_delivery_edge.durable import write_durably
from model_delivery_edge.errors import HomeError, SignatureError
from model_delivery_edge.wire import Component, Desired

log = logging.getLogger(__name__)


class Trust:
    """What one device trusts.

    :param path: its file; absent where no key was pinned: then releases need no signature
    :param thing: the thing it belongs to
    """

    def __init__(self, path: Path, thing: str) -> None:
        self._path = path
        self._thing = thing

    def pin(self, public: str, number: int = 0) -> None:
        """Trust this key, and no other, from now on.

        The key that was pinned last is no news: rotations since then, and the numbers of releases,
        stay.

        :param public: 32 bytes in base64
        :param number: how many rotations led to it; found out by itself where it is 0
        :raises SignatureError: it is no key
        """
        _key(public)
        try:
            known = self._read()
        except HomeError:  # pinning again is what its message asks for
            known = None
        if known is None or known["anchor"] != public:
            data = {"anchor": public, "public": public, "number": number, "releases": {}}
            self._write(data)

    def check(self, desired: Desired) -> None:
        """Follow the rotations that come with a desired state and check all its releases.

        :raises SignatureError: a release is unsigned, signed otherwise, or older than one before
        """
        pinned = self._read()
        if pinned is None:
            if desired.components:
                log.warning("no release key is pinned: releases are taken unsigned")
            return
        for link in desired.keys:
            if not pinned["number"] and link.get("public") == pinned["public"]:
                pinned["number"] = link.get("number")
        for link in desired.keys:
            self._follow(pinned, link)
        key = _key(pinned["public"])
        for component in desired.components:
            self._check(component, key, pinned["releases"])

    def accept(self, desired: Desired) -> None:
        """Remember the numbers of releases that are about to be committed to."""
        pinned = self._read()
        if pinned is None:
            return
        for component in desired.components:
            pinned["releases"][component.name] = component.release["number"]
        self._write(pinned)

    def _follow(self, pinned: dict[str, Any], link: Mapping[str, Any]) -> None:
        number, public = link.get("number"), link.get("public")
        if number != pinned["number"] + 1:
            return  # one that this device follows already, or not yet
        statement = {"type": "key", "number": number, "public": public}
        _verify(_key(pinned["public"]), statement, link, f"the release key {number}")
        _key(public)
        pinned.update(number=number, public=public)
        self._write(pinned)
        log.info("following the release key to its number %d", number)

    def _check(
        self, component: Component, key: Ed25519PublicKey, releases: Mapping[str, int]
    ) -> None:
        what = f"component {component.name} {component.version}"
        number = component.release.get("number")
        if not isinstance(number, int):
            raise SignatureError(
                f"{what} is not signed and this device has a release key pinned; deploy it through "
                "the cloud that has this key"
            )
        statement = {
            "type": "release",
            "thing": self._thing,
            "component": component.name,
            "version": component.version,
            "digest": component.artifact.digest,
            "size": component.artifact.size,
            "number": number,
        }
        _verify(key, statement, component.release, what)
        if number < (newest := releases.get(component.name, 0)):
            raise SignatureError(
                f"{what} is release {number} and this device has had {newest}: an old release was "
                "played again; deploy it anew to return to an older version"
            )

    def _read(self) -> dict[str, Any] | None:
        try:
            data = json.loads(self._path.read_bytes())
            return {
                "anchor": str(data["anchor"]),
                "public": str(data["public"]),
                "number": int(data["number"]),
                "releases": dict(data["releases"]),
            }
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            # Taken for absent, it would be a way to have unsigned releases accepted.
            raise HomeError(
                f"{self._path} is damaged; start once with --release-key to pin the key again"
            ) from None

    def _write(self, data: Mapping[str, Any]) -> None:
        write_durably(self._path, json.dumps(data, indent=2).encode())


def statement_bytes(statement: Mapping[str, Any]) -> bytes:
    """Return what is signed: JSON with sorted names and no spaces, in UTF-8."""
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _verify(
    key: Ed25519PublicKey, statement: Mapping[str, Any], signed: Mapping[str, Any], what: str
) -> None:
    try:
        signature = b64decode(str(signed.get("signature")), validate=True)
        key.verify(signature, statement_bytes(statement))
    except (InvalidSignature, Base64Error, ValueError):
        raise SignatureError(
            f"{what} is not signed by this device's release key; check which cloud deploys to it, "
            "or pin the new key with --release-key"
        ) from None


def _key(public: object) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(b64decode(str(public), validate=True))
    except (Base64Error, ValueError):
        raise SignatureError(
            "the release key is no Ed25519 key in base64; print it with "
            "model-delivery-localcloud release-key show"
        ) from None
