"""Random sampling that answers the same for the same input, in every process and at every retry."""

import hashlib
from collections.abc import Callable

_WHOLE = 1 << 64
_LEAST, _MOST = 0.01, 100.0


def sampler(percentage: float, number: int = 0) -> Callable[[bytes], bool]:
    """Return the test of whether an input is in a random sample.

    The place of an input is a hash of its identity, so a sample of 10 % holds every input that a
    sample of 5 % holds.

    :param percentage: of the inputs, 0.01 to 100
    :param number: samples of different numbers are independent of each other (default: 0)
    :raises ValueError: a percentage outside of its range
    """
    if not _LEAST <= percentage <= _MOST:
        raise ValueError(f"a sampling percentage is from {_LEAST} to {_MOST:.0f}, not {percentage}")
    limit = int(_WHOLE * percentage / 100)
    key = number.to_bytes(8, "big")
    blake2b = hashlib.blake2b

    def sampled(identity: bytes) -> bool:
        digest = blake2b(identity, digest_size=8, key=key).digest()
        return int.from_bytes(digest, "big") < limit

    return sampled
