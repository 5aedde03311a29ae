"""Password hashes: scrypt (RFC 7914) with a salt each, parameters kept with the hash."""

import base64
import hashlib
import hmac
import secrets

_N, _R, _P = 2**15, 8, 1
_MEMORY = 64 * 1024 * 1024


def hash_password(password: str) -> str:
    """Return `scrypt$n$r$p$salt$hash`."""
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, _N, _R, _P)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return "$".join(("scrypt", str(_N), str(_R), str(_P), *encoded))


def verify_password(password: str, stored: str) -> bool:
    """Tell whether the password is the one that was hashed."""
    _, n, r, p, salt, digest = stored.split("$")
    actual = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(actual, base64.b64decode(digest))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)
