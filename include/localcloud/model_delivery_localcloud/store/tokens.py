"""Random tokens that are stored as their SHA-256 only: device keys and registration tokens.

They carry 256 random bits, so a plain hash is enough; passwords need more (`passwords.py`).
"""

import hashlib
import secrets


def new_token() -> str:
    """Return a new token of 256 random bits."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
