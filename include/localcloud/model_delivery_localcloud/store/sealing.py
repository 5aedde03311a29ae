"""Encryption of what must be stored and read back: the secrets of access keys.

Verifying SigV4 needs the secret itself, so a hash will not do. The Fernet key is derived
(HKDF, RFC 5869) from the process's secret key, which is never in the database.
"""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from model_delivery_localcloud.errors import StoreError


class Sealer:
    """Seals and opens short texts under a key derived from `secret_key`."""

    def __init__(self, secret_key: str) -> None:
        derivation = HKDF(SHA256(), 32, salt=None, info=b"model-delivery localcloud access keys")
        self._fernet = Fernet(base64.urlsafe_b64encode(derivation.derive(secret_key.encode())))

    def seal(self, text: str) -> str:
        """Return `text` encrypted and authenticated."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str, what: str) -> str:
        """Return the sealed text; raises StoreError naming `what` if the key has changed."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise StoreError(
                f"{what} was stored under another LOCALCLOUD_SECRET_KEY: restore that key or add "
                "the access key again"
            ) from None
