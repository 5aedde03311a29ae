"""Password hashes: argon2id (RFC 9106) with a salt each, parameters kept with the hash.

Hashes that an earlier version made with scrypt are still read; the next sign-in replaces them.
"""

import base64
import hashlib
import hmac

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

_SCRYPT = "scrypt$"
_SCRYPT_MEMORY = 64 * 1024 * 1024
_hasher = PasswordHasher()


def hash_password(password: str) -> str:
    """Return the hash in the PHC string format."""
    return _hasher.hash(password)


def verify_password(password: str, stored: str) -> bool:
    """Tell whether the password is the one that was hashed."""
    if stored.startswith(_SCRYPT):
        return _verify_scrypt(password, stored)
    try:
        return _hasher.verify(stored, password)
    except VerifyMismatchError:
        return False


def is_outdated(stored: str) -> bool:
    """Tell whether a right password should be hashed anew."""
    return stored.startswith(_SCRYPT) or _hasher.check_needs_rehash(stored)


def _verify_scrypt(password: str, stored: str) -> bool:
    _, n, r, p, salt, digest = stored.split("$")
    actual = hashlib.scrypt(
        password.encode(), salt=base64.b64decode(salt), n=int(n), r=int(r), p=int(p),
        maxmem=_SCRYPT_MEMORY, dklen=32,
    )  # fmt: skip
    return hmac.compare_digest(actual, base64.b64decode(digest))
