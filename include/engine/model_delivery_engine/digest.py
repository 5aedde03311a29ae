"""SHA-256 digests in the one spelling used everywhere: ``sha256:<64 hex digits>``."""

import hashlib
from pathlib import Path


def digest_bytes(data: bytes) -> str:
    """Return the digest of bytes in memory."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_file(path: Path) -> str:
    """Return the digest of a file, read in blocks. Raises OSError when it cannot be read."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
